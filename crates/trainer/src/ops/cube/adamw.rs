//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019) on tensors of the device.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{argument, element, len, units, workgroup};
use crate::kernels::adamw::Step;

#[cube(launch)]
fn advance<F: Float>(
    weights: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[F],
    count: usize,
    factor: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    epsilon: f32,
    keep: f32,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let gradient = f32::cast_from(gradient[place]) * factor;
    let m = first[place] * beta1 + gradient * (1.0f32 - beta1);
    let v = second[place] * beta2 + gradient * gradient * (1.0f32 - beta2);
    first[place] = m;
    second[place] = v;
    weights[place] = weights[place] * keep - rate * m / (v.sqrt() + epsilon);
}

/// Updates dense float32 `weights` and their moments in place from the dense `gradient`.
pub fn update(
    weights: &CubeTensor,
    first: &CubeTensor,
    second: &CubeTensor,
    gradient: &CubeTensor,
    step: Step,
) {
    advance::launch(
        &weights.client,
        units(len(weights)),
        workgroup(),
        argument(weights),
        argument(first),
        argument(second),
        argument(gradient),
        len(weights),
        step.factor,
        step.beta1,
        step.beta2,
        step.rate,
        step.epsilon,
        step.keep,
        element(gradient),
    );
}
