//! The fused operations in ordinary Burn operations, differentiated by Burn.
//!
//! Slower, but they run on every backend and say in a few lines what the fused ones
//! compute.

use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Int, Tensor};

use super::{LayerSettings, LayerWeights, Numerics};
use crate::kernels::adamw::Step;
use crate::kernels::attention::Heads;
use crate::kernels::muon;

/// See [`super::embed`].
pub fn embed(table: Tensor<2>, tokens: Tensor<1, Int>) -> Tensor<2> {
    table.select(0, tokens)
}

/// See [`super::norm`].
pub fn norm(x: Tensor<2>, gain: Tensor<1>, eps: f32) -> Tensor<2> {
    let scale = x
        .clone()
        .powf_scalar(2.0)
        .mean_dim(1)
        .add_scalar(eps)
        .sqrt()
        .recip();
    x * scale * gain.unsqueeze()
}

/// See [`super::layer`].
pub fn layer(
    x: Tensor<2>,
    weights: LayerWeights,
    rotary: Tensor<2>,
    visible_from: Tensor<1, Int>,
    settings: LayerSettings,
) -> Tensor<2> {
    let eps = settings.numerics.eps;
    let normalised = norm(x.clone(), weights.attention_norm, eps);
    let packed = normalised.matmul(weights.qkv.transpose()); // [N, (H+2K)·D]
    let mixed = attention(packed, rotary, visible_from, settings);
    let x = x + mixed.matmul(weights.output.transpose());
    let [_, hidden] = weights.down.dims();
    let normalised = norm(x.clone(), weights.mlp_norm, eps);
    let projected = normalised.matmul(weights.gate_up.transpose()); // [N, 2F]
    let gate = projected.clone().narrow(1, 0, hidden);
    let up = projected.narrow(1, hidden, hidden);
    x + (silu(gate) * up).matmul(weights.down.transpose())
}

/// Grouped-query attention `[N, H·D]` of packed projections.
fn attention(
    packed: Tensor<2>,
    rotary: Tensor<2>,
    visible_from: Tensor<1, Int>,
    settings: LayerSettings,
) -> Tensor<2> {
    let [rows, _] = packed.dims();
    let (time, batch) = (settings.sequence, rows / settings.sequence);
    let Heads {
        heads,
        kv_heads,
        head_width: depth,
    } = settings.heads;
    let packed = packed
        .reshape([batch, time, heads + 2 * kv_heads, depth])
        .swap_dims(1, 2);
    let part = |from: usize, count: usize| packed.clone().narrow(1, from, count); // [B, n, T, D]
    let queries = rotate(part(0, heads), rotary.clone());
    let keys = rotate(part(heads, kv_heads), rotary);
    let values = part(heads + kv_heads, kv_heads);
    let group = heads / kv_heads;
    let spread = |kv: Tensor<4>| -> Tensor<4> {
        let kv: Tensor<5> = kv.unsqueeze_dim(2); // [B, K, 1, T, D]
        kv.expand([batch, kv_heads, group, time, depth])
            .reshape([batch, heads, time, depth])
    };
    let scores = queries
        .matmul(spread(keys).transpose())
        .div_scalar((depth as f32).sqrt());
    let device = scores.device();
    let columns = Tensor::<1, Int>::arange(0..time as i64, &device).reshape([1, 1, 1, time]);
    let columns = columns.expand([batch, 1, time, time]);
    let rows_at = Tensor::<1, Int>::arange(0..time as i64, &device).reshape([1, 1, time, 1]);
    let from = visible_from.reshape([batch, 1, time, 1]);
    let after = columns
        .clone()
        .greater(rows_at.expand([batch, 1, time, time]));
    let before = columns.lower(from.expand([batch, 1, time, time]));
    let hidden = after.bool_or(before).expand([batch, heads, time, time]);
    let scores = scores.mask_fill(hidden, f32::NEG_INFINITY); // [B, H, T, T]
    let mixed = softmax(scores, 3).matmul(spread(values)); // [B, H, T, D]
    mixed.swap_dims(1, 2).reshape([rows, heads * depth])
}

/// Rotary embedding of `x[B, n, T, D]` with `table[T, D]`: `D/2` cosines, `D/2` sines.
fn rotate(x: Tensor<4>, table: Tensor<2>) -> Tensor<4> {
    let [_, _, time, depth] = x.dims();
    let half = depth / 2;
    let table = table.narrow(0, 0, time);
    let cosines: Tensor<4> = table.clone().narrow(1, 0, half).unsqueeze();
    let sines: Tensor<4> = table.narrow(1, half, half).unsqueeze();
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let first = a.clone() * cosines.clone() - b.clone() * sines.clone();
    let second = b * cosines + a * sines;
    Tensor::cat(vec![first, second], 3)
}

/// See [`super::head_token_losses`].
pub fn head_token_losses(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    numerics: Numerics,
) -> Tensor<1> {
    let logits = norm(x, gain, numerics.eps).matmul(weight.transpose()); // [N, V]
    log_softmax(logits, 1)
        .gather(1, targets.unsqueeze_dim(1))
        .squeeze_dim::<1>(1)
        .neg()
}

/// See [`super::head_loss`].
pub fn head_loss(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    numerics: Numerics,
) -> Tensor<1> {
    head_token_losses(x, gain, weight, targets, numerics).mean()
}

/// See [`super::squares`].
pub fn squares(numbers: Tensor<1>) -> Tensor<1> {
    numbers.powf_scalar(2.0).sum()
}

/// See [`super::adamw`].
pub fn adamw(state: [Tensor<1>; 3], gradient: Tensor<1>, step: Step) -> [Tensor<1>; 3] {
    let [weights, first, second] = state;
    let gradient = gradient.mul_scalar(step.factor);
    let first = first.mul_scalar(step.beta1) + gradient.clone().mul_scalar(1.0 - step.beta1);
    let squares = gradient.powf_scalar(2.0);
    let second = second.mul_scalar(step.beta2) + squares.mul_scalar(1.0 - step.beta2);
    let change = first.clone() / second.clone().sqrt().add_scalar(step.epsilon);
    let weights = weights.mul_scalar(step.keep) - change.mul_scalar(step.rate);
    [weights, first, second]
}

/// See [`super::muon()`].
pub fn muon(
    state: [Tensor<1>; 2],
    gradient: Tensor<1>,
    stack: muon::Stack,
    step: muon::Step,
) -> [Tensor<1>; 2] {
    let [weights, momentum] = state;
    let gradient = gradient.mul_scalar(step.factor * (1.0 - muon::MOMENTUM));
    let momentum = momentum.mul_scalar(muon::MOMENTUM) + gradient.clone();
    let ahead = momentum.clone().mul_scalar(muon::MOMENTUM) + gradient;
    let columns = stack.columns;
    let direction = stack.matrices().map(|(first, rows)| {
        let matrix = ahead.clone().narrow(0, first * columns, rows * columns);
        orthogonal(matrix.reshape([rows, columns]))
            .mul_scalar(muon::scale(rows, columns))
            .reshape([rows * columns])
    });
    let direction = Tensor::cat(direction.collect(), 0);
    let weights = weights.mul_scalar(step.keep) - direction.mul_scalar(step.rate);
    [weights, momentum]
}

/// Newton–Schulz iterations, see [`muon`](crate::kernels::muon).
fn orthogonal(matrix: Tensor<2>) -> Tensor<2> {
    let [a, b, c] = muon::COEFFICIENTS;
    let [rows, columns] = matrix.dims();
    let wide = |matrix: Tensor<2>| match rows <= columns {
        true => matrix,
        false => matrix.transpose(),
    };
    let length: Tensor<1> = matrix.clone().powf_scalar(2.0).sum().sqrt();
    let x = wide(matrix) / length.add_scalar(muon::EPSILON).unsqueeze();
    let x = (0..muon::ITERATIONS).fold(x, |x, _| {
        let square = x.clone().matmul(x.clone().transpose());
        let sum = square.clone().mul_scalar(b) + square.clone().matmul(square).mul_scalar(c);
        x.clone().mul_scalar(a) + sum.matmul(x)
    });
    wide(x)
}
