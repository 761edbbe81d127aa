//! Causal grouped-query attention over one sequence, forwards and backwards.
//!
//! Queries are taken in blocks, so that scores beyond the diagonal are mostly not computed
//! and never more than a block of them is held; the backward pass computes them again from
//! the saved logarithms of the row sums, as in FlashAttention (Dao et al. 2022).

use super::exp::exp;
use super::matrix::{Into, Matrix, multiply_strided};
use super::simd::{dot, largest, sum_of, vectorised};

/// Sizes of an attention, and where things lie in a packed row: `heads` queries, then
/// `kv_heads` keys, then `kv_heads` values, each of `head_width` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_width: usize,
}

impl Heads {
    /// Width of a row of packed queries, keys and values.
    pub fn packed_width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_width
    }
    /// Width of a row of attention's result.
    pub fn width(self) -> usize {
        self.heads * self.head_width
    }
    fn key_offset(self, head: usize) -> usize {
        (self.heads + head * self.kv_heads / self.heads) * self.head_width
    }
    fn value_offset(self, head: usize) -> usize {
        self.key_offset(head) + self.kv_heads * self.head_width
    }
    /// Factor of the scores: `1 / sqrt(D)`.
    pub fn scale(self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }
}

/// Queries in a block.
const BLOCK: usize = 64;

/// `out[T, heads·D]` and `log_sums[heads, T]` from rotated `packed[T, packed_width]`.
pub fn forward(out: &mut [f32], log_sums: &mut [f32], packed: &[f32], sizes: Heads) {
    let (width, stride) = (sizes.width(), sizes.packed_width());
    let positions = packed.len() / stride;
    let depth = sizes.head_width;
    let mut scores = vec![0.0f32; BLOCK.min(positions) * positions];
    for head in 0..sizes.heads {
        let keys = &packed[sizes.key_offset(head)..];
        let values = &packed[sizes.value_offset(head)..];
        for first in (0..positions).step_by(BLOCK) {
            let rows = BLOCK.min(positions - first);
            let seen = first + rows;
            let scores = &mut scores[..rows * seen];
            let queries = &packed[first * stride + head * depth..];
            let queries = Matrix::strided(queries, rows, depth, stride);
            let keys = Matrix::strided(keys, seen, depth, stride);
            multiply_strided(scores, seen, Into::Set, queries, keys.t());
            let log_sums = &mut log_sums[head * positions + first..][..rows];
            softmax_rows(scores, log_sums, seen, first, sizes.scale());
            let out = &mut out[first * width + head * depth..];
            let values = Matrix::strided(values, seen, depth, stride);
            multiply_strided(
                out,
                width,
                Into::Set,
                Matrix::new(scores, rows, seen),
                values,
            );
        }
    }
}

vectorised! {
    /// Turns raw scores into probabilities; row `i` sees the first `first + i + 1` columns.
    fn softmax_rows(scores: &mut [f32], log_sums: &mut [f32], seen: usize, first: usize, scale: f32) {
        for (i, (row, log_sum)) in scores.chunks_exact_mut(seen).zip(log_sums).enumerate() {
            let (visible, hidden) = row.split_at_mut(first + i + 1);
            let most = largest(visible);
            for score in visible.iter_mut() {
                *score = exp((*score - most) * scale);
            }
            let sum = sum_of(visible, visible, |score, _| score);
            let inverse = 1.0 / sum;
            visible.iter_mut().for_each(|score| *score *= inverse);
            hidden.fill(0.0);
            *log_sum = most * scale + sum.ln();
        }
    }
}

/// Gradient `dpacked[T, packed_width]` (given as zeros) of rotated queries, keys and
/// values, from `dout[T, heads·D]` and what the forward pass left.
pub fn backward(
    dpacked: &mut [f32],
    dout: &[f32],
    out: &[f32],
    log_sums: &[f32],
    packed: &[f32],
    sizes: Heads,
) {
    let (width, stride) = (sizes.width(), sizes.packed_width());
    let positions = packed.len() / stride;
    let depth = sizes.head_width;
    let mut probabilities = vec![0.0f32; BLOCK.min(positions) * positions];
    let mut gradients = vec![0.0f32; BLOCK.min(positions) * positions];
    for head in 0..sizes.heads {
        let (key, value) = (sizes.key_offset(head), sizes.value_offset(head));
        for first in (0..positions).step_by(BLOCK) {
            let rows = BLOCK.min(positions - first);
            let seen = first + rows;
            let probabilities = &mut probabilities[..rows * seen];
            let gradients = &mut gradients[..rows * seen];
            let queries = &packed[first * stride + head * depth..];
            let queries = Matrix::strided(queries, rows, depth, stride);
            let keys = Matrix::strided(&packed[key..], seen, depth, stride);
            let values = Matrix::strided(&packed[value..], seen, depth, stride);
            let dout_block = &dout[first * width + head * depth..];
            let dout_rows = Matrix::strided(dout_block, rows, depth, width);

            multiply_strided(probabilities, seen, Into::Set, queries, keys.t());
            multiply_strided(gradients, seen, Into::Set, dout_rows, values.t());
            score_gradients(
                probabilities,
                gradients,
                &log_sums[head * positions + first..][..rows],
                dout_block,
                &out[first * width + head * depth..],
                [seen, first, width, depth],
                sizes.scale(),
            );
            let probabilities = Matrix::new(probabilities, rows, seen);
            let gradients = Matrix::new(gradients, rows, seen);
            let dvalues = &mut dpacked[value..];
            multiply_strided(dvalues, stride, Into::Add, probabilities.t(), dout_rows);
            let dkeys = &mut dpacked[key..];
            multiply_strided(dkeys, stride, Into::Add, gradients.t(), queries);
            let dqueries = &mut dpacked[first * stride + head * depth..];
            multiply_strided(dqueries, stride, Into::Set, gradients, keys);
        }
    }
}

vectorised! {
    /// Raw scores become probabilities; gradients of probabilities become those of raw
    /// scores: `ds = p (dp - sum(dout · out)) · scale`. `sizes`: columns, first row,
    /// stride of `dout` and `out`, head width.
    fn score_gradients(
        scores: &mut [f32],
        gradients: &mut [f32],
        log_sums: &[f32],
        dout: &[f32],
        out: &[f32],
        sizes: [usize; 4],
        scale: f32,
    ) {
        let [seen, first, stride, depth] = sizes;
        let rows = scores.chunks_exact_mut(seen).zip(gradients.chunks_exact_mut(seen)).zip(log_sums);
        for (i, ((scores, gradients), &log_sum)) in rows.enumerate() {
            let row = i * stride..i * stride + depth;
            let along = dot(&dout[row.clone()], &out[row]);
            let (visible, hidden) = scores.split_at_mut(first + i + 1);
            let (visible_gradients, hidden_gradients) = gradients.split_at_mut(first + i + 1);
            for (score, gradient) in visible.iter_mut().zip(visible_gradients) {
                let probability = exp(*score * scale - log_sum);
                *gradient = probability * (*gradient - along) * scale;
                *score = probability;
            }
            hidden.fill(0.0);
            hidden_gradients.fill(0.0);
        }
    }
}
