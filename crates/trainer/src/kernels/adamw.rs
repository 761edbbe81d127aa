//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019), in place.

use rayon::prelude::*;

use super::simd::{sum_of, vectorised};

/// Numbers that one task handles: fixed, so that sums are grouped alike whatever the number
/// of threads.
const TASK: usize = 1 << 15;

/// The numbers of one step, the same for all weights of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What the gradient is multiplied by: clipping.
    pub factor: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Learning rate, with the bias corrections of both moments.
    pub rate: f32,
    /// Added to the root of the second moment, with its bias correction.
    pub epsilon: f32,
    /// What the weights are multiplied by: decay.
    pub keep: f32,
}

/// Updates weights and both moments.
pub fn update(
    weights: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    step: Step,
) {
    weights
        .par_chunks_mut(TASK)
        .zip(first.par_chunks_mut(TASK))
        .zip(second.par_chunks_mut(TASK))
        .zip(gradient.par_chunks(TASK))
        .for_each(|(((weights, first), second), gradient)| {
            update_part(weights, first, second, gradient, step);
        });
}

vectorised! {
    fn update_part(weights: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], step: Step) {
        let Step { factor, beta1, beta2, rate, epsilon, keep } = step;
        let all = weights.iter_mut().zip(first).zip(second).zip(gradient);
        for (((weight, first), second), &gradient) in all {
            let gradient = gradient * factor;
            *first = *first * beta1 + gradient * (1.0 - beta1);
            *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
            *weight = *weight * keep - rate * *first / (second.sqrt() + epsilon);
        }
    }
}

/// Sum of the squares, in a fixed order.
pub fn sum_of_squares(numbers: &[f32]) -> f64 {
    let parts: Vec<f64> = numbers.par_chunks(TASK).map(squares).collect();
    parts.iter().sum()
}

vectorised! {
    fn squares(numbers: &[f32]) -> f64 {
        f64::from(sum_of(numbers, numbers, |a, b| a * b))
    }
}
