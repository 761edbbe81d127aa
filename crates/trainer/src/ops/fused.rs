//! The differentiable operations that the model is made of.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

use super::AttentionSizes;

/// The fused operations, dispatched to the backend of their tensors. Shapes are those of
/// the functions of the same names below.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait FusedOps: Backend {
    /// See [`embed`].
    fn embed(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;

    /// See [`norm`].
    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// See [`attention_block`].
    fn attention_block(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        output: FloatTensor<Self>,
        rotary: FloatTensor<Self>,
        sizes: AttentionSizes,
    ) -> FloatTensor<Self>;

    /// See [`mlp_block`].
    fn mlp_block(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// See [`head_loss`].
    fn head_loss(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// See [`head_token_losses`].
    fn head_token_losses(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;
}

/// Rows of `table[V, C]` at `tokens[N]`: `[N, C]`.
pub fn embed(table: Tensor<2>, tokens: Tensor<1, Int>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::embed(
        table.into_dispatch(),
        tokens.into_dispatch(),
    ))
}

/// RMSNorm of the rows of `x[N, C]` with `gain[C]`.
pub fn norm(x: Tensor<2>, gain: Tensor<1>, eps: f32) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::norm(x.into_dispatch(), gain.into_dispatch(), eps))
}

/// `x + Attention(RMSNorm(x))` on the residual stream `x[N, C]`, with `gain[C]`, stacked
/// projections `qkv[(heads + 2 kv_heads)·D, C]`, `output[C, heads·D]` and the rotary table.
pub fn attention_block(
    x: Tensor<2>,
    gain: Tensor<1>,
    qkv: Tensor<2>,
    output: Tensor<2>,
    rotary: Tensor<2>,
    sizes: AttentionSizes,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::attention_block(
        x.into_dispatch(),
        gain.into_dispatch(),
        qkv.into_dispatch(),
        output.into_dispatch(),
        rotary.into_dispatch(),
        sizes,
    ))
}

/// `x + down(silu(gate(n)) · up(n))` with `n = RMSNorm(x)`, for `x[N, C]`, `gain[C]`,
/// stacked `gate_up[2F, C]` and `down[C, F]`.
pub fn mlp_block(
    x: Tensor<2>,
    gain: Tensor<1>,
    gate_up: Tensor<2>,
    down: Tensor<2>,
    eps: f32,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::mlp_block(
        x.into_dispatch(),
        gain.into_dispatch(),
        gate_up.into_dispatch(),
        down.into_dispatch(),
        eps,
    ))
}

/// Mean cross-entropy `[1]` in nats of `RMSNorm(x) · weightᵀ` against `targets[N]`, for
/// `x[N, C]`, `gain[C]` and `weight[V, C]`.
pub fn head_loss(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    eps: f32,
) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::head_loss(
        x.into_dispatch(),
        gain.into_dispatch(),
        weight.into_dispatch(),
        targets.into_dispatch(),
        eps,
    ))
}

/// The losses `[N]` whose mean is [`head_loss`]; without a gradient.
pub fn head_token_losses(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    eps: f32,
) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::head_token_losses(
        x.into_dispatch(),
        gain.into_dispatch(),
        weight.into_dispatch(),
        targets.into_dispatch(),
        eps,
    ))
}
