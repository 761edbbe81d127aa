//! Output projection and cross-entropy together, a slice of rows at a time.
//!
//! The logits of a whole batch would be the largest tensor of a training step and are
//! needed by nobody; the gradients are computed in the forward pass while a slice of them
//! is in the cache, as in Liger Kernel's fused linear cross-entropy (Hsu et al. 2024).

use super::buffer::Buffer;
use super::exp::exp;
use super::matrix::{Into, Matrix, ROWS_PER_TASK, for_tasks, multiply};
use super::precision::Precision;
use super::simd::{largest, sum_of, vectorised};

/// Logits held at a time, about.
const SLICE: usize = 1 << 21;

/// Losses of `x[N, C]` against `targets[N]`, in nats, under `weight[V, C]`.
pub fn token_losses(
    x: &[f32],
    weight: &[f32],
    targets: &[u32],
    vocabulary: usize,
    precision: Precision,
) -> Buffer {
    let width = weight.len() / vocabulary;
    let mut losses = Buffer::take(targets.len());
    let rows = slice_rows(vocabulary);
    let mut logits = Buffer::take(rows.min(targets.len()) * vocabulary);
    let slices = x
        .chunks(rows * width)
        .zip(targets.chunks(rows))
        .zip(losses.chunks_mut(rows));
    for ((x, targets), losses) in slices {
        let logits = &mut logits[..targets.len() * vocabulary];
        project(logits, x, weight, vocabulary, precision);
        let logits = &*logits;
        for_tasks(losses, ROWS_PER_TASK, |part, losses| {
            for (row, loss) in (part * ROWS_PER_TASK..).zip(losses) {
                let logits = &logits[row * vocabulary..][..vocabulary];
                *loss = row_loss(logits, targets[row] as usize);
            }
        });
    }
    losses
}

/// Mean loss over all rows and its gradients by `x` and by `weight`.
pub fn mean_loss_and_gradients(
    x: &[f32],
    weight: &[f32],
    targets: &[u32],
    vocabulary: usize,
    precision: Precision,
) -> (f32, Buffer, Buffer) {
    let width = weight.len() / vocabulary;
    let rows = slice_rows(vocabulary);
    let mut dx = Buffer::take(x.len());
    let mut dweight = Buffer::take(weight.len());
    let mut mode = Into::Set;
    let mut logits = Buffer::take(rows.min(targets.len()) * vocabulary);
    let scale = 1.0 / targets.len() as f32;
    let mut sum = 0.0f64;
    let slices = x
        .chunks(rows * width)
        .zip(dx.chunks_mut(rows * width))
        .zip(targets.chunks(rows));
    for ((x, dx), targets) in slices {
        let count = targets.len();
        let logits = &mut logits[..count * vocabulary];
        project(logits, x, weight, vocabulary, precision);
        // The row's loss is put where its target's gradient goes, then exchanged for it.
        let task = 16;
        for_tasks(logits, task * vocabulary, |part, logits| {
            let targets = &targets[part * task..];
            for (logits, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
                row_gradient(logits, target as usize, scale);
            }
        });
        for (logits, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
            let loss = &mut logits[target as usize];
            sum += f64::from(*loss);
            // p = e^-loss
            *loss = (exp(-*loss) - 1.0) * scale;
        }
        let gradient = Matrix::new(logits, count, vocabulary);
        let weight = Matrix::new(weight, vocabulary, width);
        multiply(dx, Into::Set, gradient, weight, precision);
        let x = Matrix::new(x, count, width);
        multiply(&mut dweight, mode, gradient.t(), x, precision);
        mode = Into::Add;
    }
    ((sum / targets.len() as f64) as f32, dx, dweight)
}

/// `logits[N, V] = x[N, C] · weight[V, C]ᵀ`.
fn project(logits: &mut [f32], x: &[f32], weight: &[f32], vocabulary: usize, precision: Precision) {
    let width = weight.len() / vocabulary;
    let x = Matrix::new(x, x.len() / width, width);
    let weight = Matrix::new(weight, vocabulary, width);
    multiply(logits, Into::Set, x, weight.t(), precision);
}

/// Rows whose logits are held at a time: enough that the weight and its gradient are not
/// read for a few of them only.
fn slice_rows(vocabulary: usize) -> usize {
    (SLICE / vocabulary).next_multiple_of(16).max(128)
}

vectorised! {
    /// ln(sum(e^logits)) - logits[target].
    fn row_loss(logits: &[f32], target: usize) -> f32 {
        let most = largest(logits);
        sum_of(logits, logits, |logit, _| exp(logit - most)).ln() + most - logits[target]
    }
}

vectorised! {
    /// Logits become `scale` times their softmax, but the target's becomes the row's loss.
    fn row_gradient(logits: &mut [f32], target: usize, scale: f32) {
        let most = largest(logits);
        let aim = logits[target];
        for logit in logits.iter_mut() {
            *logit = exp(*logit - most);
        }
        let sum = sum_of(logits, logits, |value, _| value);
        let factor = scale / sum;
        for logit in logits.iter_mut() {
            *logit *= factor;
        }
        logits[target] = sum.ln() + most - aim;
    }
}
