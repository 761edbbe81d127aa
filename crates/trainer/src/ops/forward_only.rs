//! Without autodiff an operation is its forward pass, on every backend that has the kernels.

use burn::backend::tensor::{FloatTensor, IntTensor};

use super::{
    AttentionInputs, FusedKernels, FusedOps, HeadInputs, LayerSettings, MlpInputs, Numerics,
};
use crate::kernels::adamw::Step;

impl<B: FusedKernels> FusedOps for B {
    fn embed(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        Self::embed_forward(table, tokens)
    }

    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        Self::norm_forward(x, gain, eps)
    }

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
    ) -> FloatTensor<Self> {
        let attention = AttentionInputs {
            x,
            gain: attention_norm,
            qkv,
            output,
            rotary,
            visible_from,
        };
        let mlp = MlpInputs {
            x: Self::attention_forward(&attention, settings).0,
            gain: mlp_norm,
            gate_up,
            down,
        };
        Self::mlp_forward(&mlp, settings.numerics).0
    }

    fn head_loss(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self> {
        Self::head_gradients(HeadInputs { x, gain, weight }, targets, numerics).0
    }

    fn head_token_losses(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self> {
        Self::head_losses(&HeadInputs { x, gain, weight }, targets, numerics)
    }

    fn squares(numbers: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::sum_of_squares(numbers)
    }

    fn adamw(
        weights: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [weights, first, second] = Self::adamw_step([weights, first, second], gradient, step);
        (weights, first, second)
    }
}
