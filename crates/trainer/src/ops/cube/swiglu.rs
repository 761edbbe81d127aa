//! SwiGLU (Shazeer 2020): `h = silu(gate) * up`, with gate and up side by side in a row.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{argument, element, empty, shape, units, workgroup};

/// The exponent is bounded, as a device may do as it likes when a number overflows.
#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + min(-x, 80.0f32).exp())
}

#[cube(launch)]
fn activate<F: Float>(
    gate_up: &[F],
    hidden: &mut [F],
    width: usize,
    count: usize,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let from = (place / width) * 2 * width + place % width;
    let gate = f32::cast_from(gate_up[from]);
    let up = f32::cast_from(gate_up[from + width]);
    hidden[place] = F::cast_from(gate * sigmoid(gate) * up);
}

/// `hidden[N, F]` from dense `gate_up[N, 2F]`.
pub fn forward(gate_up: &CubeTensor) -> CubeTensor {
    let [rows, both] = shape(gate_up);
    let width = both / 2;
    let hidden = empty(gate_up, [rows, width]);
    activate::launch(
        &gate_up.client,
        units(rows * width),
        workgroup(),
        argument(gate_up),
        argument(&hidden),
        width,
        rows * width,
        element(gate_up),
    );
    hidden
}

#[cube(launch)]
fn differentiate<F: Float>(
    dhidden: &[F],
    gate_up: &[F],
    dgate_up: &mut [F],
    hidden: &mut [F],
    width: usize,
    count: usize,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let from = (place / width) * 2 * width + place % width;
    let gate = f32::cast_from(gate_up[from]);
    let up = f32::cast_from(gate_up[from + width]);
    let dh = f32::cast_from(dhidden[place]);
    let sigmoid = sigmoid(gate);
    let silu = gate * sigmoid;
    // silu'(g) = sigmoid(g) (1 + g (1 - sigmoid(g)))
    dgate_up[from] = F::cast_from(dh * up * (sigmoid + silu * (1.0f32 - sigmoid)));
    dgate_up[from + width] = F::cast_from(dh * silu);
    hidden[place] = F::cast_from(silu * up);
}

/// From dense `dhidden[N, F]` the gradient `dgate_up[N, 2F]`, and the hidden values `[N, F]`
/// themselves, which the gradient of the down projection needs.
pub fn backward(dhidden: &CubeTensor, gate_up: &CubeTensor) -> [CubeTensor; 2] {
    let [rows, width] = shape(dhidden);
    let dgate_up = empty(gate_up, [rows, 2 * width]);
    let hidden = empty(gate_up, [rows, width]);
    differentiate::launch(
        &gate_up.client,
        units(rows * width),
        workgroup(),
        argument(dhidden),
        argument(gate_up),
        argument(&dgate_up),
        argument(&hidden),
        width,
        rows * width,
        element(gate_up),
    );
    [dgate_up, hidden]
}
