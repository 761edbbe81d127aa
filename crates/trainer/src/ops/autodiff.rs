//! The fused operations as steps of Burn's autodiff graph, for every backend that has the
//! kernels.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};

use super::{
    AttentionInputs, AttentionSaved, FusedKernels, FusedOps, HeadInputs, LayerSettings, MlpInputs,
    Numerics,
};
use crate::kernels::adamw::Step;

/// Hands each gradient to its parent, where the parent wants one.
fn register<B: FusedKernels, const N: usize>(
    grads: &mut Gradients,
    parents: [Option<NodeId>; N],
    gradients: [FloatTensor<B>; N],
) {
    for (parent, gradient) in parents.into_iter().zip(gradients) {
        if let Some(parent) = parent {
            grads.register::<B>(parent, gradient);
        }
    }
}

/// Declares a step: its name, number of parents, state, and gradients from `dy` and state.
macro_rules! step {
    ($name:ident, $parents:literal, $state:ty, |$dy:ident, $saved:ident| $gradients:expr) => {
        #[derive(Debug)]
        struct $name;
        impl<B: FusedKernels> Backward<B, $parents> for $name {
            type State = $state;
            fn backward(
                self,
                ops: Ops<Self::State, $parents>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let $dy = grads.consume::<B>(&ops.node);
                let $saved = ops.state;
                let parents = ops.parents.map(|parent| parent.map(|node| node.id));
                register::<B, $parents>(grads, parents, $gradients);
            }
        }
    };
}

step!(Embed, 1, (IntTensor<B>, usize), |dy, saved| [
    B::embed_backward(dy, saved.0, saved.1)
]);
step!(
    Norm,
    2,
    (FloatTensor<B>, FloatTensor<B>, f32),
    |dy, saved| B::norm_backward(dy, saved.0, saved.1, saved.2)
);
step!(Layer, 7, LayerState<B>, |dy, saved| saved.gradients(dy));
step!(Head, 3, [FloatTensor<B>; 3], |dy, saved| {
    saved.map(|gradient| B::scale(gradient, dy.clone()))
});

/// What a layer keeps for its gradient.
#[derive(Clone, Debug)]
struct LayerState<B: FusedKernels> {
    attention: AttentionInputs<B>,
    /// The feed-forward's weights: gain, gate and up, down.
    mlp: [FloatTensor<B>; 3],
    /// None: to be computed again.
    saved: Option<LayerSaved<B>>,
    settings: LayerSettings,
}

/// What a layer's forward pass leaves behind.
#[derive(Clone, Debug)]
struct LayerSaved<B: FusedKernels> {
    attention: AttentionSaved<B>,
    /// Residual stream between the two halves `[N, C]`.
    middle: FloatTensor<B>,
    gate_up: FloatTensor<B>,
}

impl<B: FusedKernels> LayerState<B> {
    fn forward(&self) -> (FloatTensor<B>, LayerSaved<B>) {
        let (middle, attention) = B::attention_forward(&self.attention, self.settings);
        let mlp = self.mlp_inputs(middle.clone());
        let (out, gate_up) = B::mlp_forward(&mlp, self.settings.numerics);
        let saved = LayerSaved {
            attention,
            middle,
            gate_up,
        };
        (out, saved)
    }

    fn mlp_inputs(&self, x: FloatTensor<B>) -> MlpInputs<B> {
        let [gain, gate_up, down] = self.mlp.clone();
        MlpInputs {
            x,
            gain,
            gate_up,
            down,
        }
    }

    /// Gradients of `x`, and of the weights in their order.
    fn gradients(mut self, dy: FloatTensor<B>) -> [FloatTensor<B>; 7] {
        let saved = match self.saved.take() {
            Some(saved) => saved,
            None => self.forward().1,
        };
        let mlp = self.mlp_inputs(saved.middle);
        let numerics = self.settings.numerics;
        let [dmiddle, dmlp_norm, dgate_up, ddown] =
            B::mlp_backward(dy, mlp, saved.gate_up, numerics);
        let [dx, dattention_norm, dqkv, doutput] =
            B::attention_backward(dmiddle, self.attention, saved.attention, self.settings);
        [
            dx,
            dattention_norm,
            dqkv,
            doutput,
            dmlp_norm,
            dgate_up,
            ddown,
        ]
    }
}

impl<B: FusedKernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn embed(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        let vocabulary = table.shape()[0];
        let prepared = Embed
            .prepare::<C>([table.node()])
            .compute_bound()
            .stateful();
        let out = B::embed_forward(table.into_primitive(), tokens.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((tokens, vocabulary), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let prepared = Norm
            .prepare::<C>([x.node(), gain.node()])
            .compute_bound()
            .stateful();
        let (x, gain) = (x.into_primitive(), gain.into_primitive());
        let out = B::norm_forward(x.clone(), gain.clone(), eps);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, gain, eps), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
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
        let weights = [&attention_norm, &qkv, &output, &mlp_norm, &gate_up, &down];
        let [a, b, c, d, e, f] = weights.map(|weights| weights.node());
        let prepared = Layer
            .prepare::<C>([x.node(), a, b, c, d, e, f])
            .compute_bound()
            .stateful();
        let mut state = LayerState {
            attention: AttentionInputs {
                x: x.into_primitive(),
                gain: attention_norm.into_primitive(),
                qkv: qkv.into_primitive(),
                output: output.into_primitive(),
                rotary: rotary.into_primitive(),
                visible_from,
            },
            mlp: [mlp_norm, gate_up, down].map(|weights| weights.into_primitive()),
            saved: None,
            settings,
        };
        let (out, saved) = state.forward();
        state.saved = (!settings.recompute).then_some(saved);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(state, out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn head_loss(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gain.node(), weight.node()];
        let prepared = Head.prepare::<C>(nodes).compute_bound().stateful();
        let inputs = HeadInputs {
            x: x.into_primitive(),
            gain: gain.into_primitive(),
            weight: weight.into_primitive(),
        };
        // The gradients are made in the forward pass, while the logits are at hand.
        let (loss, gradients) = B::head_gradients(inputs, targets, numerics);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gradients, loss),
            OpsKind::UnTracked(prepared) => prepared.finish(loss),
        }
    }

    fn head_token_losses(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        numerics: Numerics,
    ) -> FloatTensor<Self> {
        let inputs = HeadInputs {
            x: x.into_primitive(),
            gain: gain.into_primitive(),
            weight: weight.into_primitive(),
        };
        <Self as AutodiffBackend>::from_inner(B::head_losses(&inputs, targets, numerics))
    }

    fn squares(numbers: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::sum_of_squares(numbers.into_primitive()))
    }

    fn adamw(
        weights: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let state = [weights, first, second].map(|tensor| tensor.into_primitive());
        let [weights, first, second] = B::adamw_step(state, gradient.into_primitive(), step)
            .map(<Self as AutodiffBackend>::from_inner);
        (weights, first, second)
    }
}
