//! Multiplication by a number that is on the device.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{argument, element, empty_like, len, units, workgroup};

#[cube(launch)]
fn multiply<F: Float>(
    numbers: &[F],
    factor: &[F],
    out: &mut [F],
    count: usize,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    out[place] = F::cast_from(f32::cast_from(numbers[place]) * f32::cast_from(factor[0]));
}

/// `numbers · factor[1]`, of a dense tensor. A factor of 1 cannot be told apart from others
/// without waiting for the device, so all are multiplied.
pub fn scale(numbers: &CubeTensor, factor: &CubeTensor) -> CubeTensor {
    let out = empty_like(numbers);
    multiply::launch(
        &numbers.client,
        units(len(numbers)),
        workgroup(),
        argument(numbers),
        argument(factor),
        argument(&out),
        len(numbers),
        element(numbers),
    );
    out
}
