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

/// From `dhidden[N, F]` the gradient `dgate_up[N, 2F]`; `dhidden` then holds the hidden
/// values themselves, which the gradient of the down projection needs.
pub fn backward(dgate_up: &mut [f32], dhidden: &mut [f32], gate_up: &[f32], width: usize) {
    let rows = ROWS_PER_TASK;
    dgate_up
        .par_chunks_mut(rows * 2 * width)
        .zip(dhidden.par_chunks_mut(rows * width))
        .zip(gate_up.par_chunks(rows * 2 * width))
        .for_each(|((dgate_up, dhidden), gate_up)| {
            backward_rows(dgate_up, dhidden, gate_up, width);
        });
}

vectorised! {
    fn backward_rows(dgate_up: &mut [f32], dhidden: &mut [f32], gate_up: &[f32], width: usize) {
        let rows = dgate_up
            .chunks_exact_mut(2 * width)
            .zip(dhidden.chunks_exact_mut(width))
            .zip(gate_up.chunks_exact(2 * width));
        for ((dgate_up, dhidden), gate_up) in rows {
            let (dgate, dup) = dgate_up.split_at_mut(width);
            let (gate, up) = gate_up.split_at(width);
            let columns = dgate.iter_mut().zip(dup).zip(dhidden).zip(gate).zip(up);
            for ((((dgate, dup), dhidden), &gate), &up) in columns {
                let sigmoid = 1.0 / (1.0 + exp(-gate));
                let silu = gate * sigmoid;
                let dh = *dhidden;
                *dup = dh * silu;
                // silu'(g) = sigmoid(g) (1 + g (1 - sigmoid(g)))
                *dgate = dh * up * (sigmoid + silu * (1.0 - sigmoid));
                *dhidden = silu * up;
            }
        }
    }
}
