//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019) on tensors of the device.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{argument, element, empty_f32, len, units, workgroup};

/// Numbers of one step. Both bias corrections are in `rate` and `epsilon`:
/// `m̂ / (√v̂ + ε) = (√c2 / c1) m / (√v + ε √c2)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Learning rate times `√(1 - beta2^t) / (1 - beta1^t)`.
    pub rate: f32,
    /// Epsilon times `√(1 - beta2^t)`.
    pub epsilon: f32,
    /// What a weight keeps of itself: 1 less the learning rate times the weight decay.
    pub keep: f32,
}

#[cube(launch)]
fn advance<F: Float>(
    weights: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[F],
    factor: &[f32],
    count: usize,
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
    let gradient = f32::cast_from(gradient[place]) * factor[0];
    let m = first[place] * beta1 + gradient * (1.0f32 - beta1);
    let v = second[place] * beta2 + gradient * gradient * (1.0f32 - beta2);
    first[place] = m;
    second[place] = v;
    weights[place] = weights[place] * keep - rate * m / (v.sqrt() + epsilon);
}

/// Updates dense float32 `weights` and their moments in place, from `factor[1]` times the
/// dense `gradient`.
pub fn update(
    weights: &CubeTensor,
    first: &CubeTensor,
    second: &CubeTensor,
    gradient: &CubeTensor,
    factor: &CubeTensor,
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
        argument(factor),
        len(weights),
        step.beta1,
        step.beta2,
        step.rate,
        step.epsilon,
        step.keep,
        element(gradient),
    );
}

#[cube(launch)]
fn shrink(norm_squared: &[f32], factor: &mut [f32], limit: f32) {
    if UNIT_POS == 0 {
        let norm = norm_squared[0].sqrt();
        let mut shrunk = 1.0f32;
        if norm > limit {
            shrunk = limit / norm;
        }
        factor[0] = shrunk;
    }
}

/// What a gradient of squared norm `norm_squared[1]` is to be multiplied with `[1]` so that
/// its norm is `limit` at most. The norm stays on the device: nobody waits for it.
pub fn clip_factor(norm_squared: &CubeTensor, limit: f32) -> CubeTensor {
    let factor = empty_f32(norm_squared, [1]);
    shrink::launch(
        &norm_squared.client,
        CubeCount::Static(1, 1, 1),
        workgroup(),
        argument(norm_squared),
        argument(&factor),
        limit,
    );
    factor
}
