//! The fused kernels on Burn's GPU backend: the order in which the kernels run. The kernels
//! themselves, in CubeCL, are the modules below.
//!
//! Every kernel adds in float32 and in one fixed order; none uses atomics. What the backend
//! may choose by itself is the kernel of a matrix product.

mod adamw;
mod attention;
mod buffer;
mod embedding;
mod loss;
mod matrix;
mod norm;
#[cfg(all(test, feature = "cuda", feature = "rocm"))]
mod offline;
mod reduce;
mod rotary;
mod scale;
mod swiglu;
mod tile;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_cubecl::CubeBackend;

use super::{
    AttentionInputs, AttentionSaved, FusedKernels, HeadInputs, LayerSettings, MlpInputs, Numerics,
};
use crate::kernels::adamw::Step;
use buffer::dense;

impl FusedKernels for CubeBackend {
    fn embed_forward(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        embedding::forward(&dense(table), &dense(tokens))
    }

    fn embed_backward(
        dy: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        vocabulary: usize,
    ) -> FloatTensor<Self> {
        embedding::backward(&dense(dy), &dense(tokens), vocabulary)
    }

    fn norm_forward(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        norm::forward(&dense(x), &dense(gain), eps)
    }

    fn norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2] {
        norm::backward(None, &dense(dy), &dense(x), &dense(gain), eps)
    }

    fn attention_forward(
        inputs: &AttentionInputs<Self>,
        settings: LayerSettings,
    ) -> (FloatTensor<Self>, AttentionSaved<Self>) {
        let precision = settings.numerics.precision;
        let x = dense(inputs.x.clone());
        let normalised = norm::forward(&x, &dense(inputs.gain.clone()), settings.numerics.eps);
        let from = dense(inputs.visible_from.clone());
        let packed = matrix::linear(&normalised, &inputs.qkv, precision);
        rotary::rotate(&packed, &dense(inputs.rotary.clone()), settings, 1.0);
        let (mixed, log_sums) =
            attention::forward(&packed, &from, settings.sequence, settings.heads);
        let out = matrix::add(matrix::linear(&mixed, &inputs.output, precision), x);
        let saved = AttentionSaved {
            packed,
            mixed,
            log_sums,
        };
        (out, saved)
    }

    fn attention_backward(
        dy: FloatTensor<Self>,
        inputs: AttentionInputs<Self>,
        saved: AttentionSaved<Self>,
        settings: LayerSettings,
    ) -> [FloatTensor<Self>; 4] {
        let precision = settings.numerics.precision;
        let (dy, x, gain) = (dense(dy), dense(inputs.x), dense(inputs.gain));
        let dmixed = matrix::linear_input_gradient(&dy, &inputs.output, precision);
        let doutput = matrix::linear_weight_gradient(&dy, &saved.mixed, precision);
        let dpacked = attention::backward(
            &dmixed,
            &saved.mixed,
            &saved.log_sums,
            &saved.packed,
            &dense(inputs.visible_from),
            settings.sequence,
            settings.heads,
        );
        rotary::rotate(&dpacked, &dense(inputs.rotary), settings, -1.0);
        let normalised = norm::forward(&x, &gain, settings.numerics.eps);
        let dqkv = matrix::linear_weight_gradient(&dpacked, &normalised, precision);
        let dnormalised = matrix::linear_input_gradient(&dpacked, &inputs.qkv, precision);
        // `dy` also bypasses the block.
        let [dx, dgain] = norm::backward(Some(&dy), &dnormalised, &x, &gain, settings.numerics.eps);
        [dx, dgain, dqkv, doutput]
    }

    fn mlp_forward(
        inputs: &MlpInputs<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let x = dense(inputs.x.clone());
        let normalised = norm::forward(&x, &dense(inputs.gain.clone()), eps);
        let projected = matrix::linear(&normalised, &inputs.gate_up, precision);
        let hidden = swiglu::forward(&projected);
        let out = matrix::add(matrix::linear(&hidden, &inputs.down, precision), x);
        (out, projected)
    }

    fn mlp_backward(
        dy: FloatTensor<Self>,
        inputs: MlpInputs<Self>,
        gate_up: FloatTensor<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> [FloatTensor<Self>; 4] {
        let (dy, x, gain) = (dense(dy), dense(inputs.x), dense(inputs.gain));
        let dhidden = matrix::linear_input_gradient(&dy, &inputs.down, precision);
        let [dprojected, hidden] = swiglu::backward(&dhidden, &gate_up);
        let ddown = matrix::linear_weight_gradient(&dy, &hidden, precision);
        let normalised = norm::forward(&x, &gain, eps);
        let dweight = matrix::linear_weight_gradient(&dprojected, &normalised, precision);
        let dnormalised = matrix::linear_input_gradient(&dprojected, &inputs.gate_up, precision);
        let [dx, dgain] = norm::backward(Some(&dy), &dnormalised, &x, &gain, eps);
        [dx, dgain, dweight, ddown]
    }

    fn head_losses(
        inputs: &HeadInputs<Self>,
        targets: IntTensor<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> FloatTensor<Self> {
        let (x, gain) = (dense(inputs.x.clone()), dense(inputs.gain.clone()));
        let normalised = norm::forward(&x, &gain, eps);
        let (weight, targets) = (dense(inputs.weight.clone()), dense(targets));
        loss::token_losses(&normalised, &weight, &targets, precision)
    }

    fn head_gradients(
        inputs: HeadInputs<Self>,
        targets: IntTensor<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 3]) {
        let (x, gain) = (dense(inputs.x), dense(inputs.gain));
        let normalised = norm::forward(&x, &gain, eps);
        let [losses, dnormalised, dweight] = loss::losses_and_gradients(
            &normalised,
            &dense(inputs.weight),
            &dense(targets),
            precision,
        );
        let [dx, dgain] = norm::backward(None, &dnormalised, &x, &gain, eps);
        (reduce::mean(&losses), [dx, dgain, dweight])
    }

    fn scale(gradient: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        scale::scale(&dense(gradient), &dense(factor))
    }

    fn sum_of_squares(numbers: FloatTensor<Self>) -> FloatTensor<Self> {
        reduce::sum_of_squares(&dense(numbers))
    }

    fn adamw_step(
        state: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> [FloatTensor<Self>; 3] {
        let state = state.map(buffer::own);
        let [weights, first, second] = &state;
        adamw::update(weights, first, second, &dense(gradient), step);
        state
    }
}
