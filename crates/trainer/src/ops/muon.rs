//! Muon's step, dispatched to the CPU: a GPU takes the one of [`super::plain`], whose time goes
//! into products that are the backend's own in any case.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::kernels::muon::{Stack, Step};

/// What the CPU's backend has.
#[backend_extension(Flex)]
pub trait MuonOps: Backend {
    /// See [`muon`].
    fn muon(
        weights: FloatTensor<Self>,
        momentum: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        stack: Stack,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// One step of Muon on weights and their momentum, in place; on the CPU alone.
pub fn muon(
    state: [Tensor<1>; 2],
    gradient: Tensor<1>,
    stack: Stack,
    step: Step,
) -> [Tensor<1>; 2] {
    let [weights, momentum] = state.map(Tensor::into_dispatch);
    let (weights, momentum) =
        Dispatch::muon(weights, momentum, gradient.into_dispatch(), stack, step);
    [weights, momentum].map(Tensor::from_dispatch)
}
