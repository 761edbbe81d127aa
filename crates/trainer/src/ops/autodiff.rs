//! The fused operations as steps of Burn's autodiff graph, for every backend that has the
//! kernels.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};

use super::{
    AttentionInputs, AttentionSaved, AttentionSizes, FusedKernels, FusedOps, HeadInputs, MlpInputs,
};

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
step!(
    Attention,
    4,
    (AttentionInputs<B>, AttentionSaved<B>, AttentionSizes),
    |dy, saved| B::attention_backward(dy, saved.0, saved.1, saved.2)
);
step!(Mlp, 4, (MlpInputs<B>, FloatTensor<B>, f32), |dy, saved| {
    B::mlp_backward(dy, saved.0, saved.1, saved.2)
});
step!(Head, 3, [FloatTensor<B>; 3], |dy, saved| {
    saved.map(|gradient| B::scale(gradient, dy.clone()))
});

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

    fn attention_block(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        output: FloatTensor<Self>,
        rotary: FloatTensor<Self>,
        sizes: AttentionSizes,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gain.node(), qkv.node(), output.node()];
        let prepared = Attention.prepare::<C>(nodes).compute_bound().stateful();
        let inputs = AttentionInputs {
            x: x.into_primitive(),
            gain: gain.into_primitive(),
            qkv: qkv.into_primitive(),
            output: output.into_primitive(),
            rotary: rotary.into_primitive(),
        };
        let (out, saved) = B::attention_forward(&inputs, sizes);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, saved, sizes), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn mlp_block(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gain.node(), gate_up.node(), down.node()];
        let prepared = Mlp.prepare::<C>(nodes).compute_bound().stateful();
        let inputs = MlpInputs {
            x: x.into_primitive(),
            gain: gain.into_primitive(),
            gate_up: gate_up.into_primitive(),
            down: down.into_primitive(),
        };
        let (out, saved) = B::mlp_forward(&inputs, eps);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, saved, eps), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn head_loss(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gain.node(), weight.node()];
        let prepared = Head.prepare::<C>(nodes).compute_bound().stateful();
        let inputs = HeadInputs {
            x: x.into_primitive(),
            gain: gain.into_primitive(),
            weight: weight.into_primitive(),
        };
        // The gradients are made in the forward pass, while the logits are at hand.
        let (loss, gradients) = B::head_gradients(inputs, targets, eps);
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
        eps: f32,
    ) -> FloatTensor<Self> {
        let inputs = HeadInputs {
            x: x.into_primitive(),
            gain: gain.into_primitive(),
            weight: weight.into_primitive(),
        };
        <Self as AutodiffBackend>::from_inner(B::head_losses(&inputs, targets, eps))
    }
}
