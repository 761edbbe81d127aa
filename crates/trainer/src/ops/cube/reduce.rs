//! Sums and maxima over the units of a workgroup, and over whole tensors.
//!
//! They go through shared memory in a tree of fixed shape rather than through the subgroup
//! operations of the device, whose width differs from device to device: the order of a sum
//! is the same everywhere.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{UNITS, argument, element, empty_f32, grid, len, workgroup};

/// Workgroups that share the first stage of a sum over a tensor.
const PARTS: usize = 256;

/// Sum of `value` over the units of a workgroup; `shared` holds [`UNITS`] numbers.
#[cube]
pub fn sum(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    // Others may still be reading the result of the last reduction.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    shared[0]
}

/// The largest `value` of the units of a workgroup; `shared` holds [`UNITS`] numbers.
#[cube]
pub fn largest(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] = max(shared[unit], other);
        }
        sync_cube();
        half /= 2;
    }
    shared[0]
}

/// `sums[part]` = `factor` times the sum of every `parts`-th stretch of `numbers`, or
/// of their squares.
#[cube(launch)]
fn part_sums<F: Float>(
    numbers: &[F],
    sums: &mut [f32],
    count: usize,
    stride: usize,
    factor: f32,
    #[comptime] squares: bool,
    #[define(F)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let part = CUBE_POS;
    let mut total = 0.0f32;
    let mut place = part * UNITS + UNIT_POS as usize;
    while place < count {
        let number = f32::cast_from(numbers[place]);
        if squares {
            total += number * number;
        } else {
            total += number;
        }
        place += stride;
    }
    let total = sum(total, &mut shared);
    if UNIT_POS == 0 {
        sums[part] = total * factor;
    }
}

/// Workgroups that add up `numbers` in the first stage.
fn parts(numbers: &CubeTensor) -> usize {
    len(numbers).div_ceil(UNITS).clamp(1, PARTS)
}

/// Adds up `numbers` into `parts` of `sums`.
fn add_up(numbers: &CubeTensor, sums: &CubeTensor, parts: usize, squares: bool, factor: f32) {
    part_sums::launch(
        &numbers.client,
        grid(parts),
        workgroup(),
        argument(numbers),
        argument(sums),
        len(numbers),
        parts * UNITS,
        factor,
        squares,
        element(numbers),
    );
}

/// Mean `[1]` of a dense tensor.
pub fn mean(numbers: &CubeTensor) -> CubeTensor {
    let parts = parts(numbers);
    let (partial, mean) = (empty_f32(numbers, [parts]), empty_f32(numbers, [1]));
    add_up(numbers, &partial, parts, false, 1.0);
    add_up(&partial, &mean, 1, false, 1.0 / len(numbers) as f32);
    mean
}

/// Sum `[1]` of the squares of a dense tensor.
pub fn sum_of_squares(numbers: &CubeTensor) -> CubeTensor {
    let parts = parts(numbers);
    let (partial, total) = (empty_f32(numbers, [parts]), empty_f32(numbers, [1]));
    add_up(numbers, &partial, parts, true, 1.0);
    add_up(&partial, &total, 1, false, 1.0);
    total
}
