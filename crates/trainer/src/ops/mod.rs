//! The model's hot operations as Burn backend extensions, each with a gradient of its own.
//!
//! Burn's autodiff takes softmax, log-softmax, SiLU, RMSNorm and attention apart into
//! primitive steps with a buffer each. Here a decoder layer is one step of the graph.
//! [`FusedOps`] is what the model calls; a backend joins by implementing
//! [`FusedKernels`]. The same functions in ordinary Burn operations are in [`plain`]: they
//! run on every backend and are what the fused ones are tested against.

mod autodiff;
#[cfg(feature = "gpu")]
mod cube;
mod flex;
mod forward_only;
mod fused;
mod muon;
pub mod plain;

pub use fused::{
    FusedOps, LayerWeights, adamw, embed, head_loss, head_token_losses, layer, norm, squares,
};
pub use muon::muon;

use burn::backend::Backend;
use burn::backend::tensor::{FloatTensor, IntTensor};

use crate::kernels::adamw::Step;
use crate::kernels::attention::Heads;
use crate::kernels::precision::Precision;

/// How every operation computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numerics {
    /// Added to the mean square in RMSNorm.
    pub eps: f32,
    /// Of the matrix products.
    pub precision: Precision,
}

/// Numbers that a layer needs beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSettings {
    /// Positions of one sequence; a batch is several sequences one after the other.
    pub sequence: usize,
    /// Heads and their width.
    pub heads: Heads,
    /// How it computes.
    pub numerics: Numerics,
    /// Whether the gradient computes the forward pass again rather than keeping what it
    /// needs of it: less memory, a third more work (activation checkpointing, Chen et al.
    /// 2016).
    pub recompute: bool,
}

/// Tensors of an attention block.
#[derive(Clone, Debug)]
pub struct AttentionInputs<B: Backend> {
    /// Residual stream `[N, C]`.
    pub x: FloatTensor<B>,
    /// RMSNorm gain `[C]`.
    pub gain: FloatTensor<B>,
    /// Query, key and value projections, stacked: `[(heads + 2 kv_heads)·D, C]`.
    pub qkv: FloatTensor<B>,
    /// Output projection `[C, heads·D]`.
    pub output: FloatTensor<B>,
    /// Rotary table `[sequence or more, D]`, see [`crate::kernels::rotary::table`].
    pub rotary: FloatTensor<B>,
    /// First position `[N]` of its sequence that each row sees.
    pub visible_from: IntTensor<B>,
}

/// What an attention block keeps for its gradient.
#[derive(Clone, Debug)]
pub struct AttentionSaved<B: Backend> {
    /// Rotated queries and keys, and values: `[N, (heads + 2 kv_heads)·D]`.
    pub packed: FloatTensor<B>,
    /// Attention's result before the output projection `[N, heads·D]`.
    pub mixed: FloatTensor<B>,
    /// Logarithms of the softmax sums `[sequences, heads, T]`.
    pub log_sums: FloatTensor<B>,
}

/// Tensors of a feed-forward block.
#[derive(Clone, Debug)]
pub struct MlpInputs<B: Backend> {
    /// Residual stream `[N, C]`.
    pub x: FloatTensor<B>,
    /// RMSNorm gain `[C]`.
    pub gain: FloatTensor<B>,
    /// Gate and up projections, stacked: `[2F, C]`.
    pub gate_up: FloatTensor<B>,
    /// Down projection `[C, F]`.
    pub down: FloatTensor<B>,
}

/// Tensors of the model's end: final norm, output projection, cross-entropy.
#[derive(Clone, Debug)]
pub struct HeadInputs<B: Backend> {
    /// Residual stream `[N, C]`.
    pub x: FloatTensor<B>,
    /// RMSNorm gain `[C]`.
    pub gain: FloatTensor<B>,
    /// Output projection `[V, C]`.
    pub weight: FloatTensor<B>,
}

/// Forward and backward arithmetic of the fused operations on a backend without autodiff.
///
/// Gradients come in the order of the inputs' fields.
pub trait FusedKernels: Backend {
    /// `table[V, C]` rows of `tokens[N]`.
    fn embed_forward(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self>;
    /// Gradient of the table with `vocabulary` rows.
    fn embed_backward(
        dy: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        vocabulary: usize,
    ) -> FloatTensor<Self>;

    /// RMSNorm.
    fn norm_forward(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    /// Gradients of `x` and `gain`.
    fn norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2];

    /// `x + Attention(RMSNorm(x))`.
    fn attention_forward(
        inputs: &AttentionInputs<Self>,
        settings: LayerSettings,
    ) -> (FloatTensor<Self>, AttentionSaved<Self>);
    /// Gradients of `x`, `gain`, `qkv` and `output`.
    fn attention_backward(
        dy: FloatTensor<Self>,
        inputs: AttentionInputs<Self>,
        saved: AttentionSaved<Self>,
        settings: LayerSettings,
    ) -> [FloatTensor<Self>; 4];

    /// `x + SwiGLU(RMSNorm(x))`, and the gate and up values that the gradient needs.
    fn mlp_forward(
        inputs: &MlpInputs<Self>,
        numerics: Numerics,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of `x`, `gain`, `gate_up` and `down`.
    fn mlp_backward(
        dy: FloatTensor<Self>,
        inputs: MlpInputs<Self>,
        gate_up: FloatTensor<Self>,
        numerics: Numerics,
    ) -> [FloatTensor<Self>; 4];

    /// Loss `[N]` of every row against `targets[N]`, in nats.
    fn head_losses(
        inputs: &HeadInputs<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self>;
    /// Mean loss `[1]`, and its gradients by the inputs.
    fn head_gradients(
        inputs: HeadInputs<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 3]);
    /// `gradient · factor[1]`.
    fn scale(gradient: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Sum of the squares `[1]`.
    fn sum_of_squares(numbers: FloatTensor<Self>) -> FloatTensor<Self>;
    /// One step of AdamW on a tensor's weights and first and second moments, which come
    /// back, in their own memory where nobody else holds it.
    fn adamw_step(
        state: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> [FloatTensor<Self>; 3];
}
