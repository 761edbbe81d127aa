//! The gradient of a loss by every weight of a model.

use burn::tensor::Tensor;

use crate::model::numbers;

/// One flat tensor per tensor of the model, in canonical order, on its device.
pub struct Gradient {
    tensors: Vec<Tensor<1>>,
}

impl Gradient {
    pub(crate) fn new(tensors: Vec<Tensor<1>>) -> Self {
        Self { tensors }
    }

    pub(crate) fn tensors(&self) -> &[Tensor<1>] {
        &self.tensors
    }

    pub(crate) fn into_tensors(self) -> Vec<Tensor<1>> {
        self.tensors
    }

    /// The sum of two.
    pub(crate) fn plus(self, other: Self) -> Self {
        let pairs = self.tensors.into_iter().zip(other.tensors);
        Self::new(pairs.map(|(sum, here)| sum + here).collect())
    }

    /// Its numbers, flat.
    pub fn numbers(&self) -> Vec<f32> {
        let tensors = self.tensors.iter().cloned();
        tensors.flat_map(numbers).collect()
    }
}
