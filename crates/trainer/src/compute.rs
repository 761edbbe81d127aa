//! How a model is computed: on which device, with which operations, in which numbers.

use burn::tensor::Device;
use opengpu_trainer_protocol::InnerSettings;

use crate::device::{Chosen, Kind};
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
    /// The optimiser's step and the gradient's norm.
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
    /// What the device's numerics are called where they are not the CPU's.
    pub device_class: Option<String>,
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
            device_class: None,
            forms: Forms::all(Form::Fused),
            precision: Precision::Float32,
            recompute: false,
            document_mask: false,
        }
    }

    /// On a device, as a run's settings ask for, and a sentence where that can't be had.
    pub fn of(settings: &InnerSettings, chosen: &Chosen) -> (Self, Option<&'static str>) {
        let (precision, complaint) = Precision::of(settings.precision, chosen.bfloat16);
        let device_class = match chosen.kind {
            Kind::Cpu => None,
            _ if chosen.is_repeatable() => Some(chosen.name.clone()),
            _ => Some(format!("{}, approximately", chosen.name)),
        };
        let compute = Self {
            device: chosen.device.clone(),
            device_class,
            forms: Forms::all(chosen.form),
            precision,
            recompute: settings.recompute,
            document_mask: settings.document_mask,
        };
        (compute, complaint)
    }

    /// The form of Muon's step: fused on the CPU alone.
    pub fn muon_form(&self) -> Form {
        match self.device_class {
            None => self.forms.optimiser,
            Some(_) => Form::Plain,
        }
    }

    /// Inside one class the same assignment gives the same bytes: build, device, how
    /// products round, threads, and sequences of a micro-batch. A class that says
    /// "approximately" promises results close to each other and no more.
    pub fn numerics_class(&self, micro_batch: usize) -> String {
        let device = match &self.device_class {
            Some(name) => name.clone(),
            None => format!(
                "{} {} {} threads {}",
                std::env::consts::OS,
                std::env::consts::ARCH,
                instruction_set(self.precision),
                rayon::current_num_threads(),
            ),
        };
        let (version, precision) = (env!("CARGO_PKG_VERSION"), self.precision.name());
        format!("opengpu {version} {device} {precision} micro-batch {micro_batch}")
    }
}
