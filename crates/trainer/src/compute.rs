//! How a model is computed: on which device, with which operations, in which numbers.

use burn::tensor::Device;
use opengpu_trainer_protocol::InnerSettings;

use crate::kernels::precision::{Precision, instruction_set};

/// Which form of the operations a model uses; both compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One hand-written step for a layer.
    Fused,
    /// Ordinary Burn operations.
    Plain,
}

/// The form of each part of a step, so that one can be measured, or done without, alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// Embedding and decoder layers.
    pub layers: Form,
    /// Final norm, output projection and loss.
    pub head: Form,
    /// AdamW and the gradient's norm.
    pub optimiser: Form,
}

impl Forms {
    /// All of one form.
    pub fn all(form: Form) -> Self {
        Self {
            layers: form,
            head: form,
            optimiser: form,
        }
    }
}

/// How a model is computed.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Where, without autodiff.
    pub device: Device,
    /// With which operations.
    pub forms: Forms,
    /// Of the matrix products; the plain form is float32 throughout.
    pub precision: Precision,
    /// Whether gradients compute each layer's forward pass again.
    pub recompute: bool,
    /// Whether a token sees its own document alone.
    pub document_mask: bool,
}

impl Compute {
    /// On the CPU in float32.
    pub fn float32() -> Self {
        Self {
            device: Device::flex(),
            forms: Forms::all(Form::Fused),
            precision: Precision::Float32,
            recompute: false,
            document_mask: false,
        }
    }

    /// On the CPU, as a run's settings ask for, and a sentence where that can't be had.
    pub fn of(settings: &InnerSettings) -> (Self, Option<&'static str>) {
        let (precision, complaint) = Precision::of(settings.precision);
        let compute = Self {
            precision,
            recompute: settings.recompute,
            document_mask: settings.document_mask,
            ..Self::float32()
        };
        (compute, complaint)
    }

    /// Inside one class the same assignment gives the same bytes: build, device, how
    /// products round, threads, and sequences of a micro-batch.
    pub fn numerics_class(&self, micro_batch: usize) -> String {
        format!(
            "burn-flex {} {} {} {} threads {} micro-batch {micro_batch}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
            self.precision.name(),
            instruction_set(self.precision),
            rayon::current_num_threads(),
        )
    }
}
