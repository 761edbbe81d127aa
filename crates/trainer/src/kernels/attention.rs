//! Causal grouped-query attention, forwards and backwards.
//!
//! Queries are taken in blocks, so that scores beyond the diagonal are mostly not computed
//! and never more than a block of them is held; the backward pass computes them again from
//! the saved logarithms of the row sums, as in FlashAttention (Dao et al. 2022). A
//! key-value head of a sequence, with the queries that read it, is one task.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::exp::exp;
use super::matrix::{Into, Matrix, MatrixMut, multiply_here};
use super::precision::Precision;
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
    fn key_offset(self, kv_head: usize) -> usize {
        (self.heads + kv_head) * self.head_width
    }
    fn value_offset(self, kv_head: usize) -> usize {
        self.key_offset(kv_head) + self.kv_heads * self.head_width
    }
    /// Query heads that read a key-value head.
    fn readers(self, kv_head: usize) -> std::ops::Range<usize> {
        let group = self.heads / self.kv_heads;
        kv_head * group..(kv_head + 1) * group
    }
    /// Factor of the scores: `1 / sqrt(D)`.
    pub fn scale(self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }
}

/// Queries in a block: more in a long sequence, where keys are packed for each of them, and
/// fewer in a short one, where scores beyond the diagonal would be most of the work.
fn block(length: usize) -> usize {
    (length / 8).clamp(64, 128)
}

/// `out[N, heads·D]` and `log_sums[N / T, heads, T]` from rotated `packed[N, packed_width]`
/// of sequences of `length` positions, T. Each row sees its
/// sequence from position `visible_from[N]`, where its document begins, to itself.
pub fn forward(
    out: &mut [f32],
    log_sums: &mut [f32],
    packed: &[f32],
    length: usize,
    sizes: Heads,
    visible_from: &[u32],
    precision: Precision,
) {
    let (width, stride, depth) = (sizes.width(), sizes.packed_width(), sizes.head_width);
    let rows = packed.len() / stride;
    let out = MatrixMut::new(out, rows, width);
    let group = sizes.heads / sizes.kv_heads;
    let block = block(length);
    let task = |(task, log_sums): (usize, &mut [f32])| {
        let (start, kv_head) = (task / sizes.kv_heads * length, task % sizes.kv_heads);
        let packed = Matrix::new(packed, rows, stride).rows(start, length);
        let keys = packed.columns(sizes.key_offset(kv_head), depth);
        let values = packed.columns(sizes.value_offset(kv_head), depth);
        let mut scores = Buffer::take(block.min(length) * length);
        for (head, log_sums) in sizes.readers(kv_head).zip(log_sums.chunks_mut(length)) {
            let queries = packed.columns(head * depth, depth);
            for (first, log_sums) in (0..length).step_by(block).zip(log_sums.chunks_mut(block)) {
                let count = log_sums.len();
                let seen = first + count;
                let scores = &mut scores[..count * seen];
                let raw = MatrixMut::new(scores, count, seen);
                let queries = queries.rows(first, count);
                multiply_here(raw, Into::Set, queries, keys.rows(0, seen).t(), precision);
                let from = &visible_from[start + first..][..count];
                softmax_rows(scores, log_sums, from, seen, first, sizes.scale());
                // SAFETY: each head's columns of each block of rows are written once.
                let out = unsafe { out.part((start + first, count), (head * depth, depth)) };
                let scores = Matrix::new(scores, count, seen);
                multiply_here(out, Into::Set, scores, values.rows(0, seen), precision);
            }
        }
    };
    let tasks = log_sums.par_chunks_mut(group * length).enumerate();
    tasks.for_each(task);
}

vectorised! {
    /// Turns raw scores into probabilities; row `i` sees the columns from `from[i]` to
    /// `first + i`.
    fn softmax_rows(
        scores: &mut [f32],
        log_sums: &mut [f32],
        from: &[u32],
        seen: usize,
        first: usize,
        scale: f32,
    ) {
        for (i, (row, log_sum)) in scores.chunks_exact_mut(seen).zip(log_sums).enumerate() {
            let from = (from[i] as usize).min(first + i);
            let (row, after) = row.split_at_mut(first + i + 1);
            let (before, visible) = row.split_at_mut(from);
            let most = largest(visible);
            for score in visible.iter_mut() {
                *score = exp((*score - most) * scale);
            }
            let sum = sum_of(visible, visible, |score, _| score);
            let inverse = 1.0 / sum;
            visible.iter_mut().for_each(|score| *score *= inverse);
            before.fill(0.0);
            after.fill(0.0);
            *log_sum = most * scale + sum.ln();
        }
    }
}

/// What the forward pass was given and left behind.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Rotated queries and keys, and values `[N, packed_width]`.
    pub packed: &'a [f32],
    /// The result `[N, heads·D]`.
    pub out: &'a [f32],
    /// Logarithms of the softmax sums `[N / T, heads, T]`.
    pub log_sums: &'a [f32],
}

/// Gradient `dpacked[N, packed_width]` of rotated queries, keys and values, from
/// `dout[N, heads·D]`.
pub fn backward(
    dpacked: &mut [f32],
    dout: &[f32],
    saved: Saved,
    length: usize,
    sizes: Heads,
    visible_from: &[u32],
    precision: Precision,
) {
    let (width, stride, depth) = (sizes.width(), sizes.packed_width(), sizes.head_width);
    let rows = saved.packed.len() / stride;
    let dpacked = MatrixMut::new(dpacked, rows, stride);
    let block = block(length);
    let task = |task: usize| {
        let (start, kv_head) = (task / sizes.kv_heads * length, task % sizes.kv_heads);
        let packed = Matrix::new(saved.packed, rows, stride).rows(start, length);
        let dout_all = Matrix::new(dout, rows, width).rows(start, length);
        let (key, value) = (sizes.key_offset(kv_head), sizes.value_offset(kv_head));
        let (keys, values) = (packed.columns(key, depth), packed.columns(value, depth));
        let most = block.min(length) * length;
        let (mut probabilities, mut gradients) = (Buffer::take(most), Buffer::take(most));
        // The last block sees every key, so that taking it first sets all of dK and dV.
        let mut mode = Into::Set;
        for head in sizes.readers(kv_head) {
            let log_sums = &saved.log_sums[(start / length * sizes.heads + head) * length..];
            let queries = packed.columns(head * depth, depth);
            for first in (0..length).step_by(block).rev() {
                let count = block.min(length - first);
                let seen = first + count;
                let probabilities = &mut probabilities[..count * seen];
                let gradients = &mut gradients[..count * seen];
                let queries = queries.rows(first, count);
                let (keys, values) = (keys.rows(0, seen), values.rows(0, seen));
                let dout_rows = dout_all.columns(head * depth, depth).rows(first, count);

                let raw = MatrixMut::new(probabilities, count, seen);
                multiply_here(raw, Into::Set, queries, keys.t(), precision);
                let raw = MatrixMut::new(gradients, count, seen);
                multiply_here(raw, Into::Set, dout_rows, values.t(), precision);
                let place = (start + first) * width + head * depth;
                score_gradients(
                    probabilities,
                    gradients,
                    &log_sums[first..first + count],
                    &dout[place..],
                    &saved.out[place..],
                    Place {
                        seen,
                        first,
                        stride: width,
                        depth,
                        from: &visible_from[start + first..][..count],
                        scale: sizes.scale(),
                    },
                );
                let probabilities = Matrix::new(probabilities, count, seen);
                let gradients = Matrix::new(gradients, count, seen);
                // SAFETY: a task writes the columns of its own key-value head and of the
                // heads that read it, one product after the other.
                unsafe {
                    let dvalues = dpacked.part((start, seen), (value, depth));
                    multiply_here(dvalues, mode, probabilities.t(), dout_rows, precision);
                    let dkeys = dpacked.part((start, seen), (key, depth));
                    multiply_here(dkeys, mode, gradients.t(), queries, precision);
                    let dqueries = dpacked.part((start + first, count), (head * depth, depth));
                    multiply_here(dqueries, Into::Set, gradients, keys, precision);
                }
                mode = Into::Add;
            }
        }
    };
    (0..rows / length * sizes.kv_heads)
        .into_par_iter()
        .for_each(task);
}

/// A block of scores: its columns, its first row, and the rows of `dout` and `out`.
#[derive(Clone, Copy)]
struct Place<'a> {
    seen: usize,
    first: usize,
    stride: usize,
    depth: usize,
    /// First column that each row sees.
    from: &'a [u32],
    scale: f32,
}

vectorised! {
    /// Raw scores become probabilities; gradients of probabilities become those of raw
    /// scores: `ds = p (dp - sum(dout · out)) · scale`.
    fn score_gradients(
        scores: &mut [f32],
        gradients: &mut [f32],
        log_sums: &[f32],
        dout: &[f32],
        out: &[f32],
        place: Place,
    ) {
        let Place { seen, first, stride, depth, from, scale } = place;
        let rows = scores.chunks_exact_mut(seen).zip(gradients.chunks_exact_mut(seen)).zip(log_sums);
        for (i, ((scores, gradients), &log_sum)) in rows.enumerate() {
            let row = i * stride..i * stride + depth;
            let along = dot(&dout[row.clone()], &out[row]);
            let from = (from[i] as usize).min(first + i);
            let visible = from..first + i + 1;
            for (score, gradient) in scores[visible.clone()].iter_mut().zip(&mut gradients[visible.clone()]) {
                let probability = exp(*score * scale - log_sum);
                *gradient = probability * (*gradient - along) * scale;
                *score = probability;
            }
            for hidden in [0..visible.start, visible.end..seen] {
                scores[hidden.clone()].fill(0.0);
                gradients[hidden].fill(0.0);
            }
        }
    }
}
