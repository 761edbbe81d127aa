//! The operations that the model is made of, dispatched to the backend of their tensors.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

use super::{LayerSettings, Numerics};
use crate::kernels::adamw::Step;

/// The fused operations. Shapes are those of the functions of the same names below.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait FusedOps: Backend {
    /// See [`embed`].
    fn embed(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;

    /// See [`norm`].
    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// See [`layer`].
    // Not `expect`: the macro repeats the attribute where nothing needs it.
    #[allow(
        clippy::too_many_arguments,
        reason = "tensors can only be passed one by one"
    )]
    fn layer(
        x: FloatTensor<Self>,
        attention_norm: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        output: FloatTensor<Self>,
        mlp_norm: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        rotary: FloatTensor<Self>,
        visible_from: IntTensor<Self>,
        settings: LayerSettings,
    ) -> FloatTensor<Self>;

    /// See [`head_loss`].
    fn head_loss(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self>;

    /// See [`head_token_losses`].
    fn head_token_losses(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self>;

    /// See [`squares`].
    fn squares(numbers: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`adamw`].
    fn adamw(
        weights: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// The tensors of a decoder layer, of width `C` and feed-forward width `F`.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Gain of the first RMSNorm `[C]`.
    pub attention_norm: Tensor<1>,
    /// Query, key and value projections, stacked `[(heads + 2 kv_heads)·D, C]`.
    pub qkv: Tensor<2>,
    /// Output projection `[C, heads·D]`.
    pub output: Tensor<2>,
    /// Gain of the second RMSNorm `[C]`.
    pub mlp_norm: Tensor<1>,
    /// Gate and up projections, stacked `[2F, C]`.
    pub gate_up: Tensor<2>,
    /// Down projection `[C, F]`.
    pub down: Tensor<2>,
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

/// A decoder layer on the residual stream `x[N, C]`: `m = x + Attention(RMSNorm(x))`, then
/// `m + down(silu(gate(n)) · up(n))` with `n = RMSNorm(m)`. Row `i` of a sequence sees the
/// rows from `visible_from[i]` to itself.
pub fn layer(
    x: Tensor<2>,
    weights: LayerWeights,
    rotary: Tensor<2>,
    visible_from: Tensor<1, Int>,
    settings: LayerSettings,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::layer(
        x.into_dispatch(),
        weights.attention_norm.into_dispatch(),
        weights.qkv.into_dispatch(),
        weights.output.into_dispatch(),
        weights.mlp_norm.into_dispatch(),
        weights.gate_up.into_dispatch(),
        weights.down.into_dispatch(),
        rotary.into_dispatch(),
        visible_from.into_dispatch(),
        settings,
    ))
}

/// Mean cross-entropy `[1]` in nats of `RMSNorm(x) · weightᵀ` against `targets[N]`, for
/// `x[N, C]`, `gain[C]` and `weight[V, C]`.
pub fn head_loss(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    numerics: Numerics,
) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::head_loss(
        x.into_dispatch(),
        gain.into_dispatch(),
        weight.into_dispatch(),
        targets.into_dispatch(),
        numerics,
    ))
}

/// The losses `[N]` whose mean is [`head_loss`]; without a gradient.
pub fn head_token_losses(
    x: Tensor<2>,
    gain: Tensor<1>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    numerics: Numerics,
) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::head_token_losses(
        x.into_dispatch(),
        gain.into_dispatch(),
        weight.into_dispatch(),
        targets.into_dispatch(),
        numerics,
    ))
}

/// Sum of the squares `[1]`; without a gradient.
pub fn squares(numbers: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::squares(numbers.into_dispatch()))
}

/// One step of AdamW on weights and their first and second moments, in place.
pub fn adamw(state: [Tensor<1>; 3], gradient: Tensor<1>, step: Step) -> [Tensor<1>; 3] {
    let [weights, first, second] = state.map(Tensor::into_dispatch);
    let (weights, first, second) =
        Dispatch::adamw(weights, first, second, gradient.into_dispatch(), step);
    [weights, first, second].map(Tensor::from_dispatch)
}
