//! Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"), in
//! place: a matrix steps along its momentum, made orthogonal.
//!
//! Products run in the run's precision, as published in bfloat16; all else is float32.

use rayon::prelude::*;

use super::adamw::sum_of_squares;
use super::buffer::Buffer;
use super::matrix::{Into, Matrix, for_tasks, multiply};
use super::precision::Precision;
use super::simd::vectorised;

/// Numbers that one task handles.
const TASK: usize = 1 << 15;

/// Decay of the momentum.
pub const MOMENTUM: f32 = 0.95;

/// Newton–Schulz iterations of a step.
pub const ITERATIONS: usize = 5;

/// Of `X ← aX + b(XXᵀ)X + c(XXᵀ)²X`: chosen by Jordan et al. to lift small singular values fast,
/// at the price that large ones only come near 1.
pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Added to the length that a matrix is divided by, for one that is zero.
pub const EPSILON: f32 = 1e-7;

/// The numbers of one step, the same for all matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What the gradient is multiplied by: clipping.
    pub factor: f32,
    /// Learning rate, before [`scale`].
    pub rate: f32,
    /// What the weights are multiplied by: decay.
    pub keep: f32,
    /// Of the matrix products.
    pub precision: Precision,
}

/// Matrices `[rows, columns]` that lie one below the other in a tensor. Each has singular
/// vectors of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Of each matrix; 0 where there are fewer.
    pub rows: [usize; 3],
    /// Of all.
    pub columns: usize,
}

impl Stack {
    /// First row and number of rows of each matrix.
    pub fn matrices(self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = 0;
        let places = self.rows.map(|rows| {
            end += rows;
            (end - rows, rows)
        });
        places.into_iter().filter(|(_, rows)| *rows > 0)
    }
}

/// What an orthogonal matrix is multiplied by, so that its root mean square is 0.2, as that
/// of AdamW's steps mostly is (Liu et al. 2025, "Muon is scalable for LLM training").
pub fn scale(rows: usize, columns: usize) -> f32 {
    0.2 * (rows.max(columns) as f32).sqrt()
}

/// Updates the weights and the momentum of each matrix.
pub fn update(
    weights: &mut [f32],
    momentum: &mut [f32],
    gradient: &[f32],
    stack: Stack,
    step: Step,
) {
    for (first, rows) in stack.matrices() {
        let range = first * stack.columns..(first + rows) * stack.columns;
        update_matrix(
            &mut weights[range.clone()],
            &mut momentum[range.clone()],
            &gradient[range],
            (rows, stack.columns),
            step,
        );
    }
}

fn update_matrix(
    weights: &mut [f32],
    momentum: &mut [f32],
    gradient: &[f32],
    (rows, columns): (usize, usize),
    step: Step,
) {
    let mut direction = Buffer::take(weights.len());
    direction
        .par_chunks_mut(TASK)
        .zip(momentum.par_chunks_mut(TASK))
        .zip(gradient.par_chunks(TASK))
        .for_each(|((direction, momentum), gradient)| {
            advance(direction, momentum, gradient, step.factor);
        });
    let direction = orthogonal(direction, (rows, columns), step.precision);
    let rate = step.rate * scale(rows, columns);
    weights
        .par_chunks_mut(TASK)
        .zip(direction.par_chunks(TASK))
        .for_each(|(weights, direction)| apply(weights, direction, rate, step.keep));
}

vectorised! {
    /// Momentum, and the direction that looks one step ahead (Nesterov).
    fn advance(direction: &mut [f32], momentum: &mut [f32], gradient: &[f32], factor: f32) {
        for ((direction, momentum), &gradient) in direction.iter_mut().zip(momentum).zip(gradient) {
            let gradient = gradient * factor * (1.0 - MOMENTUM);
            *momentum = *momentum * MOMENTUM + gradient;
            *direction = *momentum * MOMENTUM + gradient;
        }
    }
}

vectorised! {
    fn apply(weights: &mut [f32], direction: &[f32], rate: f32, keep: f32) {
        for (weight, &direction) in weights.iter_mut().zip(direction) {
            *weight = *weight * keep - rate * direction;
        }
    }
}

/// A matrix with the singular vectors of `x[rows, columns]`, whose singular values are about
/// 1 (0.68 to 1.14 for all that are more than 0.006 of the matrix's length), by Newton–Schulz
/// iterations.
fn orthogonal(mut x: Buffer, (rows, columns): (usize, usize), precision: Precision) -> Buffer {
    let [a, b, c] = COEFFICIENTS;
    let inverse = 1.0 / (sum_of_squares(&x).sqrt() as f32 + EPSILON);
    for_tasks(&mut x, TASK, |_, x| {
        x.iter_mut().for_each(|x| *x *= inverse)
    });
    let short = rows.min(columns);
    let mut square = Buffer::take(short * short);
    let mut sum = Buffer::take(short * short);
    let mut next = Buffer::take(x.len());
    for _ in 0..ITERATIONS {
        let matrix = Matrix::new(&x, rows, columns);
        // The square of the shorter side; a tall matrix has it on its right.
        let (left, right) = match rows == short {
            true => (matrix, matrix.t()),
            false => (matrix.t(), matrix),
        };
        multiply(&mut square, Into::Set, left, right, precision);
        let squared = Matrix::new(&square, short, short);
        multiply(&mut sum, Into::Set, squared, squared, precision);
        for_tasks(&mut sum, TASK, |index, sum| {
            combine(sum, &square[index * TASK..], c, b);
        });
        for_tasks(&mut next, TASK, |index, next| {
            let x = &x[index * TASK..];
            next.iter_mut().zip(x).for_each(|(next, x)| *next = a * x);
        });
        let sum = Matrix::new(&sum, short, short);
        let (left, right) = match rows == short {
            true => (sum, matrix),
            false => (matrix, sum),
        };
        multiply(&mut next, Into::Add, left, right, precision);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

vectorised! {
    /// `to ← own · to + other · from`.
    fn combine(to: &mut [f32], from: &[f32], own: f32, other: f32) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = own * *to + other * from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 (splitmix64, Steele et al. 2014).
    fn random(count: usize, seed: u64) -> Vec<f32> {
        let one = |index: usize| {
            let mut z = ((seed << 32) | index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(one).collect()
    }

    /// Products of the rows, or of the columns, whichever are fewer: their eigenvalues are the
    /// squares of the singular values.
    fn squares(x: &[f32], rows: usize, columns: usize) -> Vec<Vec<f64>> {
        let at = |i: usize, k: usize| match rows <= columns {
            true => f64::from(x[i * columns + k]),
            false => f64::from(x[k * columns + i]),
        };
        let (short, long) = (rows.min(columns), rows.max(columns));
        let product = |i, j| (0..long).map(|k| at(i, k) * at(j, k)).sum();
        let row = |i| (0..short).map(|j| product(i, j)).collect();
        (0..short).map(row).collect()
    }

    /// Whether all eigenvalues of `sign · (matrix − shift)` are positive: whether it has a Cholesky
    /// factor.
    fn is_positive(matrix: &[Vec<f64>], sign: f64, shift: f64) -> bool {
        let count = matrix.len();
        let mut factor = vec![vec![0.0; count]; count];
        for i in 0..count {
            for j in 0..=i {
                let own = sign * (matrix[i][j] - if i == j { shift } else { 0.0 });
                let known: f64 = (0..j).map(|k| factor[i][k] * factor[j][k]).sum();
                let rest: f64 = own - known;
                if i == j && rest <= 0.0 {
                    return false;
                }
                factor[i][j] = if i == j {
                    rest.sqrt()
                } else {
                    rest / factor[j][j]
                };
            }
        }
        true
    }

    #[test]
    fn singular_values_of_random_matrices_come_near_one() {
        for (seed, (rows, columns)) in [(24, 60), (60, 24), (130, 40), (1, 50), (50, 1), (33, 90)]
            .into_iter()
            .enumerate()
        {
            let x = random(rows * columns, seed as u64);
            // Of any length.
            let x: Vec<f32> = x
                .iter()
                .map(|x| x * 1e-4 * 10f32.powi(seed as i32))
                .collect();
            for precision in [Precision::Float32, Precision::Bfloat16] {
                let got = orthogonal(Buffer::copy_of(&x), (rows, columns), precision);
                let squares = squares(&got, rows, columns);
                let what = format!("{rows} × {columns}, {precision:?}, seed {seed}");
                assert!(is_positive(&squares, 1.0, 0.6 * 0.6), "{what}: too small");
                assert!(is_positive(&squares, -1.0, 1.3 * 1.3), "{what}: too large");
            }
        }
    }

    #[test]
    fn a_matrix_of_zeros_stays_one() {
        let got = orthogonal(Buffer::zeros(12), (3, 4), Precision::Float32);
        assert_eq!(got[..], [0.0; 12]);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let stack = Stack {
            rows: [300, 40, 40],
            columns: 260,
        };
        let count = 380 * stack.columns;
        let step = Step {
            factor: 0.5,
            rate: 1e-2,
            keep: 0.99,
            precision: Precision::Float32,
        };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let (mut weights, mut momentum) = (random(count, 1), vec![0.0; count]);
                for seed in 2..4 {
                    let gradient = random(count, seed);
                    update(&mut weights, &mut momentum, &gradient, stack, step);
                }
                (weights, momentum)
            })
        };
        assert_eq!(run(1), run(3));
    }
}
