//! The fused operations in ordinary Burn operations, differentiated by Burn.
//!
//! Slower, but they run on every backend and say in a few lines what the fused ones
//! compute.

use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Bool, Int, Tensor};

use super::AttentionSizes;

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

/// See [`super::attention_block`].
pub fn attention_block(
    x: Tensor<2>,
    gain: Tensor<1>,
    qkv: Tensor<2>,
    output: Tensor<2>,
    rotary: Tensor<2>,
    sizes: AttentionSizes,
) -> Tensor<2> {
    let [rows, _] = x.dims();
    let (time, batch) = (sizes.sequence, rows / sizes.sequence);
    let (heads, kv_heads, depth) = (
        sizes.heads.heads,
        sizes.heads.kv_heads,
        sizes.heads.head_width,
    );
    let packed = norm(x.clone(), gain, sizes.eps).matmul(qkv.transpose()); // [B·T, (H+2K)·D]
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
    let future: Tensor<2, Bool> = Tensor::tril_mask([time, time], 0, &x.device());
    let scores = scores.mask_fill(future.unsqueeze(), f32::NEG_INFINITY); // [B, H, T, T]
    let mixed = softmax(scores, 3).matmul(spread(values)); // [B, H, T, D]
    let mixed = mixed.swap_dims(1, 2).reshape([rows, heads * depth]);
    x + mixed.matmul(output.transpose())
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

/// See [`super::mlp_block`].
pub fn mlp_block(
    x: Tensor<2>,
    gain: Tensor<1>,
    gate_up: Tensor<2>,
    down: Tensor<2>,
    eps: f32,
) -> Tensor<2> {
    let [_, hidden] = down.dims();
    let projected = norm(x.clone(), gain, eps).matmul(gate_up.transpose()); // [N, 2F]
    let (gate, up) = (
        projected.clone().narrow(1, 0, hidden),
        projected.narrow(1, hidden, hidden),
    );
    x + (silu(gate) * up).matmul(down.transpose())
}

/// See [`super::head_token_losses`].
pub fn head_token_losses(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    eps: f32,
) -> Tensor<1> {
    let logits = norm(x, gain, eps).matmul(weight.transpose()); // [N, V]
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
    eps: f32,
) -> Tensor<1> {
    head_token_losses(x, gain, weight, targets, eps).mean()
}
