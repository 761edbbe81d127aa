//! RMSNorm (Zhang and Sennrich 2019): `y = x / sqrt(mean(x²) + eps) * gain`, per row.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::ROWS_PER_TASK;
use super::simd::{dot, sum_of, vectorised};

/// `out[N, C]` = RMSNorm of `x[N, C]` with `gain[C]`.
pub fn forward(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let task = ROWS_PER_TASK * gain.len();
    super::matrix::for_tasks(out, task, |part, out| {
        forward_rows(out, &x[part * task..], gain, eps);
    });
}

vectorised! {
    fn forward_rows(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
        let width = gain.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
            for ((out, &x), &gain) in out.iter_mut().zip(x).zip(gain) {
                *out = x * scale * gain;
            }
        }
    }
}

/// Adds the gradient of `x` to `dx` and returns that of `gain`, given `dy = dL/dy`.
pub fn backward(dx: &mut [f32], dy: &[f32], x: &[f32], gain: &[f32], eps: f32) -> Buffer {
    let width = gain.len();
    let task = ROWS_PER_TASK * width;
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(task)
        .enumerate()
        .map(|(part, dx)| {
            let mut dgain = vec![0.0; width];
            backward_rows(
                dx,
                &mut dgain,
                &dy[part * task..],
                &x[part * task..],
                gain,
                eps,
            );
            dgain
        })
        .collect();
    let mut dgain = Buffer::zeros(width);
    for partial in partial {
        dgain
            .iter_mut()
            .zip(partial)
            .for_each(|(sum, part)| *sum += part);
    }
    dgain
}

vectorised! {
    fn backward_rows(
        dx: &mut [f32],
        dgain: &mut [f32],
        dy: &[f32],
        x: &[f32],
        gain: &[f32],
        eps: f32,
    ) {
        let width = gain.len();
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
        for ((dx, dy), x) in rows {
            let scale = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
            for ((dgain, &dy), &x) in dgain.iter_mut().zip(dy).zip(x) {
                *dgain += dy * (x * scale);
            }
            // With n = x·scale and a = dy·gain: dx = scale (a - n · mean(a·n)).
            let along = weighted(dy, gain, x) * scale / width as f32;
            for (((dx, &dy), &x), &gain) in dx.iter_mut().zip(dy).zip(x).zip(gain) {
                *dx += scale * (dy * gain - x * scale * along);
            }
        }
    }
}

/// Sum of `a·b·c`.
#[inline(always)]
fn weighted(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    const STRIPE: usize = 64;
    let mut product = [0.0f32; STRIPE];
    let mut sum = 0.0;
    for ((a, b), c) in a.chunks(STRIPE).zip(b.chunks(STRIPE)).zip(c.chunks(STRIPE)) {
        let product = &mut product[..a.len()];
        for ((product, &a), &b) in product.iter_mut().zip(a).zip(b) {
            *product = a * b;
        }
        sum += sum_of(product, c, |a, b| a * b);
    }
    sum
}
