//! SwiGLU (Shazeer 2020): `h = silu(gate) * up`, with gate and up side by side in a row.

use rayon::prelude::*;

use super::exp::exp;
use super::matrix::{ROWS_PER_TASK, for_tasks};
use super::simd::vectorised;

/// `hidden[N, F]` from `gate_up[N, 2F]`.
pub fn forward(hidden: &mut [f32], gate_up: &[f32], width: usize) {
    let rows = ROWS_PER_TASK;
    for_tasks(hidden, rows * width, |part, hidden| {
        forward_rows(hidden, &gate_up[part * rows * 2 * width..], width);
    });
}

vectorised! {
    fn forward_rows(hidden: &mut [f32], gate_up: &[f32], width: usize) {
        for (hidden, row) in hidden.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = row.split_at(width);
            for ((hidden, &gate), &up) in hidden.iter_mut().zip(gate).zip(up) {
                *hidden = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }
}

/// From `dhidden[N, F]` and `gate_up[N, 2F]` the gradient of the latter, in its place;
/// `dhidden` then holds the hidden values themselves, which the gradient of the down
/// projection needs.
pub fn backward(gate_up: &mut [f32], dhidden: &mut [f32], width: usize) {
    let rows = ROWS_PER_TASK;
    gate_up
        .par_chunks_mut(rows * 2 * width)
        .zip(dhidden.par_chunks_mut(rows * width))
        .for_each(|(gate_up, dhidden)| backward_rows(gate_up, dhidden, width));
}

vectorised! {
    fn backward_rows(gate_up: &mut [f32], dhidden: &mut [f32], width: usize) {
        let rows = gate_up.chunks_exact_mut(2 * width).zip(dhidden.chunks_exact_mut(width));
        for (gate_up, dhidden) in rows {
            let (gate, up) = gate_up.split_at_mut(width);
            backward_row(gate, up, dhidden);
        }
    }
}

#[inline(always)]
fn backward_row(gate: &mut [f32], up: &mut [f32], dhidden: &mut [f32]) {
    const STRIPE: usize = 16;
    let stripes = gate
        .chunks_mut(STRIPE)
        .zip(up.chunks_mut(STRIPE))
        .zip(dhidden.chunks_mut(STRIPE));
    for ((gate, up), dhidden) in stripes {
        // Copies of fixed size live in registers and overlap nothing.
        let (mut g, mut u, mut d) = ([0.0; STRIPE], [0.0; STRIPE], [0.0; STRIPE]);
        let count = gate.len();
        g[..count].copy_from_slice(gate);
        u[..count].copy_from_slice(up);
        d[..count].copy_from_slice(dhidden);
        for lane in 0..STRIPE {
            let sigmoid = 1.0 / (1.0 + exp(-g[lane]));
            let silu = g[lane] * sigmoid;
            let (dh, factor) = (d[lane], u[lane]);
            d[lane] = silu * factor;
            u[lane] = dh * silu;
            // silu'(g) = sigmoid(g) (1 + g (1 - sigmoid(g)))
            g[lane] = dh * factor * (sigmoid + silu * (1.0 - sigmoid));
        }
        gate.copy_from_slice(&g[..count]);
        up.copy_from_slice(&u[..count]);
        dhidden.copy_from_slice(&d[..count]);
    }
}
