//! Output projection and cross-entropy together, a slice of rows at a time.
//!
//! The logits of a whole batch would be the largest tensor of a training step and are needed
//! by nobody; the gradients are computed in the forward pass while a slice of them is there,
//! as in Liger Kernel's fused linear cross-entropy (Hsu et al. 2024).

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{UNITS, argument, element, empty, empty_f32, grid, rows, shape, workgroup};
use super::matrix;
use super::reduce::{largest, sum};
use crate::kernels::precision::Precision;

/// Logits held at a time, about: 128 MiB of float32.
const SLICE: usize = 1 << 25;

/// A slice's rows are a multiple of this, which keeps its start aligned.
const SLICE_ROWS: usize = 64;

/// The loss of every row; where `differentiated`, logits become the gradient
/// `(softmax - target) · factor`.
#[cube(launch)]
fn cross_entropy<F: Float, I: Int>(
    logits: &mut [F],
    targets: &[I],
    losses: &mut [f32],
    first: usize,
    rows: usize,
    vocabulary: usize,
    factor: f32,
    #[comptime] differentiated: bool,
    #[define(F, I)] _elements: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let start = row * vocabulary;
    let target = u32::cast_from(targets[first + row]) as usize;
    let aim = f32::cast_from(logits[start + target]);

    let mut most = f32::new(-1.0e30);
    let mut column = unit;
    while column < vocabulary {
        most = max(most, f32::cast_from(logits[start + column]));
        column += UNITS;
    }
    let most = largest(most, &mut shared);
    let mut total = 0.0f32;
    let mut column = unit;
    while column < vocabulary {
        total += (f32::cast_from(logits[start + column]) - most).exp();
        column += UNITS;
    }
    let total = sum(total, &mut shared);
    if unit == 0 {
        losses[first + row] = total.ln() + most - aim;
    }
    if differentiated {
        let mut column = unit;
        while column < vocabulary {
            let mut gradient = (f32::cast_from(logits[start + column]) - most).exp() / total;
            if column == target {
                gradient -= 1.0f32;
            }
            logits[start + column] = F::cast_from(gradient * factor);
            column += UNITS;
        }
    }
}

/// Losses of rows `first..` of a batch from their logits, which become the gradient
/// `(softmax - target) · factor` if there is a factor.
fn row_losses(
    logits: &CubeTensor,
    targets: &CubeTensor,
    losses: &CubeTensor,
    first: usize,
    factor: Option<f32>,
) {
    let [rows, vocabulary] = shape(logits);
    cross_entropy::launch(
        &logits.client,
        grid(rows),
        workgroup(),
        argument(logits),
        argument(targets),
        argument(losses),
        first,
        rows,
        vocabulary,
        factor.unwrap_or(0.0),
        factor.is_some(),
        [element(logits), element(targets)],
    );
}

/// The first row and the number of rows of every slice.
fn slices(positions: usize, vocabulary: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = (SLICE / vocabulary / SLICE_ROWS).max(1) * SLICE_ROWS;
    (0..positions)
        .step_by(step)
        .map(move |first| (first, step.min(positions - first)))
}

/// Losses `[N]` of dense `x[N, C]` against dense `targets[N]`, in nats, under dense
/// `weight[V, C]`.
pub fn token_losses(
    x: &CubeTensor,
    weight: &CubeTensor,
    targets: &CubeTensor,
    precision: Precision,
) -> CubeTensor {
    let ([positions, _], [vocabulary, _]) = (shape(x), shape(weight));
    let losses = empty_f32(x, [positions]);
    for (first, count) in slices(positions, vocabulary) {
        let logits = matrix::linear(&rows(x, first, count), weight, precision);
        row_losses(&logits, targets, &losses, first, None);
    }
    losses
}

/// Losses `[N]`, and the gradients of their mean by `x` and by `weight`.
pub fn losses_and_gradients(
    x: &CubeTensor,
    weight: &CubeTensor,
    targets: &CubeTensor,
    precision: Precision,
) -> [CubeTensor; 3] {
    let ([positions, width], [vocabulary, _]) = (shape(x), shape(weight));
    let (losses, dx) = (empty_f32(x, [positions]), empty(x, [positions, width]));
    let factor = 1.0 / positions as f32;
    let mut dweight: Option<CubeTensor> = None;
    for (first, count) in slices(positions, vocabulary) {
        let x = rows(x, first, count);
        let logits = matrix::linear(&x, weight, precision);
        row_losses(&logits, targets, &losses, first, Some(factor));
        matrix::linear_input_gradient_into(&rows(&dx, first, count), &logits, weight, precision);
        let part = matrix::linear_weight_gradient(&logits, &x, precision);
        dweight = Some(match dweight {
            Some(sum) => matrix::add(sum, part),
            None => part,
        });
    }
    let dweight = dweight.unwrap_or_else(|| empty(weight, [vocabulary, width]));
    [losses, dx, dweight]
}

#[cfg(all(test, feature = "cuda", feature = "rocm"))]
mod tests {
    use super::super::offline::{
        BUFFER, assert_compiles, float_and_int, properties, settings, target,
    };
    use super::*;
    #[test]
    fn gpu_losses_compile_for_both_makers() {
        assert_compiles(&cross_entropy::CrossEntropy::new(
            settings(),
            properties(),
            target(),
            BUFFER,
            BUFFER,
            BUFFER,
            (),
            (),
            (),
            (),
            true,
            float_and_int(),
        ));
    }
}
