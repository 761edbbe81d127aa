//! Which device trains: chosen at run time, by a person's wish and by what works.
//!
//! A GPU that answers may still compute wrongly or lack what the kernels need, so none is
//! taken before it has trained one tiny step with the CPU's result. Nothing here reads
//! settings; the caller says what was wished for.

#[cfg(feature = "gpu")]
pub(crate) mod gpu;
#[cfg(feature = "gpu")]
mod probe;
#[cfg(feature = "gpu")]
mod trial;

use std::path::Path;
use std::str::FromStr;

use burn::tensor::Device;

use crate::compute::Form;
use crate::kernels::precision::has_bfloat16;

/// What a person asks for: `auto`, `cpu`, `gpu` or `gpu:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// A hardware GPU that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number, hardware before software, and nothing else.
    Gpu(usize),
}

/// What kind of device was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A graphics interface that a program on the processor offers, such as lavapipe.
    SoftwareGpu,
}

/// The memory that a device's tensors lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The machine's.
    Shared,
    /// Its own; of so many bytes, where it says how many.
    Own(Option<u64>),
}

/// A device to train on.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The device, without autodiff.
    pub device: Device,
    /// Its kind.
    pub kind: Kind,
    /// Its name for people, with the interface it is reached through.
    pub name: String,
    /// The operations that work there.
    pub form: Form,
    /// Whether products of bfloat16 work there.
    pub bfloat16: bool,
    /// Where its tensors lie.
    pub memory: Memory,
    /// What people may want to know, such as why a GPU was passed over.
    pub notes: Vec<String>,
}

/// Why a wish can't be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The text is no wish.
    #[error(
        "`{0}` is no device: write `auto`, `cpu`, `gpu`, or `gpu:` and the number of one, such as `gpu:1`"
    )]
    NoWish(String),
    /// This program was built for the CPU alone.
    #[error(
        "this trainer was built without GPU support: write `auto` or `cpu`, or build it with the feature `gpu`"
    )]
    NotBuilt,
    /// The machine shows no GPU.
    #[error(
        "this machine shows no GPU: install its driver with Vulkan, Metal or DirectX 12, or write `auto` or `cpu`"
    )]
    NoGpu,
    /// There is none of that number.
    #[error("there is no gpu:{index}; this machine has {found}")]
    NoSuchGpu {
        /// The number asked for.
        index: usize,
        /// The GPUs there are.
        found: String,
    },
    /// The GPU asked for does not work.
    #[error("{name} is unusable: {reason}")]
    Unusable {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
}

impl Chosen {
    /// The CPU.
    pub fn cpu() -> Self {
        cpu(Vec::new())
    }

    /// Whether the same assignment gives the same bytes there in every process. On a
    /// hardware GPU the backend measures several kernels for a product and takes the
    /// fastest, which may be another one the next time.
    pub fn is_repeatable(&self) -> bool {
        self.kind != Kind::Gpu
    }
}

impl FromStr for Wish {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu(0)),
            _ => text
                .strip_prefix("gpu:")
                .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .map(Self::Gpu)
                .ok_or_else(|| DeviceError::NoWish(text.to_owned())),
        }
    }
}

/// The device for a wish.
pub fn choose(wish: Wish) -> Result<Chosen, DeviceError> {
    match wish {
        Wish::Cpu => Ok(Chosen::cpu()),
        Wish::Auto => Ok(auto()),
        Wish::Gpu(index) => gpu(index),
    }
}

/// Says where a GPU's backend keeps what it compiled and measured, so that the next start is
/// sooner done. To be called before [`choose`]; afterwards it changes nothing.
pub fn keep_kernels(folder: &Path) {
    #[cfg(feature = "gpu")]
    gpu::keep_kernels(folder);
    #[cfg(not(feature = "gpu"))]
    let _ = folder;
}

/// The process is about to end while a GPU may be tried, which is not that GPU's fault.
pub fn forget_trial() {
    #[cfg(feature = "gpu")]
    trial::forget();
}

/// The CPU, with what people may want to know of why.
fn cpu(notes: Vec<String>) -> Chosen {
    let threads = rayon::current_num_threads();
    let plural = if threads == 1 { "" } else { "s" };
    Chosen {
        device: Device::flex(),
        kind: Kind::Cpu,
        name: format!("CPU ({threads} thread{plural})"),
        form: Form::Fused,
        bfloat16: has_bfloat16(),
        memory: Memory::Shared,
        notes,
    }
}

#[cfg(not(feature = "gpu"))]
fn auto() -> Chosen {
    cpu(Vec::new())
}

#[cfg(not(feature = "gpu"))]
fn gpu(_index: usize) -> Result<Chosen, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "gpu")]
fn auto() -> Chosen {
    let mut notes = Vec::new();
    // Drivers may end the process already when they are asked what they have.
    let listed = gpu::begin_trial("GPUs at all").map(|_trial| gpu::list());
    let found = listed.unwrap_or_else(|reason| {
        notes.push(format!("GPUs were not looked for: {reason}"));
        Vec::new()
    });
    for (number, found) in found.into_iter().enumerate() {
        if found.kind == Kind::SoftwareGpu {
            notes.push(format!(
                "{} was passed over: it is software, slower than training on the CPU directly",
                found.name
            ));
            continue;
        }
        let name = found.name.clone();
        let trial = gpu::begin_trial(&format!("{number} {name}"));
        match trial.and_then(|_trial| tried(found)) {
            Ok(chosen) => {
                notes.extend(chosen.notes);
                return Chosen { notes, ..chosen };
            }
            Err(reason) => notes.push(format!("{name} was passed over: {reason}")),
        }
    }
    cpu(notes)
}

#[cfg(feature = "gpu")]
fn gpu(index: usize) -> Result<Chosen, DeviceError> {
    let mut all = gpu::list();
    if all.is_empty() {
        return Err(DeviceError::NoGpu);
    }
    if index >= all.len() {
        let names: Vec<String> = all
            .iter()
            .enumerate()
            .map(|(number, gpu)| format!("gpu:{number}, {}", gpu.name))
            .collect();
        return Err(DeviceError::NoSuchGpu {
            index,
            found: names.join("; "),
        });
    }
    let found = all.swap_remove(index);
    let name = found.name.clone();
    tried(found).map_err(|reason| DeviceError::Unusable { name, reason })
}

/// A GPU with the operations that compute there as on the CPU: the fused ones, in bfloat16 too
/// if it can, or else Burn's ordinary ones, which is told.
#[cfg(feature = "gpu")]
fn tried(found: gpu::Found) -> Result<Chosen, String> {
    use crate::kernels::precision::Precision::{Bfloat16, Float32};
    let probe = |form, precision| probe::probe(&found.device, form, precision);
    let Err(reason) = probe(Form::Fused, Float32) else {
        let mut notes = Vec::new();
        let bfloat16 = found.offers_bfloat16
            && probe(Form::Fused, Bfloat16)
                .inspect_err(|reason| {
                    let name = &found.name;
                    notes.push(format!("{name} trains in float32: in bfloat16 {reason}"));
                })
                .is_ok();
        return Ok(found.chosen(Form::Fused, bfloat16, notes));
    };
    match probe(Form::Plain, Float32) {
        Ok(()) => {
            let note = format!(
                "{} trains with ordinary operations, which is slower: with fused ones {reason}",
                found.name
            );
            Ok(found.chosen(Form::Plain, false, vec![note]))
        }
        Err(_) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_and_other_texts_refused_with_what_is_allowed() {
        assert_eq!("auto".parse(), Ok(Wish::Auto));
        assert_eq!("cpu".parse(), Ok(Wish::Cpu));
        assert_eq!("gpu".parse(), Ok(Wish::Gpu(0)));
        assert_eq!("gpu:3".parse(), Ok(Wish::Gpu(3)));
        for text in [
            "",
            "GPU",
            "gpu:",
            "gpu:x",
            "gpu:-1",
            "gpu:+1",
            "cuda",
            "gpu:99999999999999999999999",
        ] {
            let error = text.parse::<Wish>().unwrap_err();
            assert_eq!(error, DeviceError::NoWish(text.to_owned()));
            assert!(error.to_string().contains("`gpu:1`"), "{error}");
        }
    }

    #[test]
    fn the_cpu_is_always_there() {
        let chosen = choose(Wish::Cpu).unwrap();
        assert_eq!((chosen.kind, chosen.notes), (Kind::Cpu, Vec::new()));
        assert!(chosen.name.starts_with("CPU ("), "{}", chosen.name);
    }

    #[cfg(not(feature = "gpu"))]
    #[test]
    fn without_gpu_support_a_gpu_is_refused_and_auto_is_the_cpu() {
        assert_eq!(choose(Wish::Gpu(0)).unwrap_err(), DeviceError::NotBuilt);
        assert_eq!(choose(Wish::Auto).unwrap().kind, Kind::Cpu);
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn auto_never_takes_software_and_says_so() {
        let software = gpu::list()
            .into_iter()
            .find(|gpu| gpu.kind == Kind::SoftwareGpu);
        let chosen = choose(Wish::Auto).unwrap();
        assert_ne!(chosen.kind, Kind::SoftwareGpu);
        if let (Kind::Cpu, Some(software)) = (chosen.kind, software) {
            assert!(
                chosen
                    .notes
                    .iter()
                    .any(|note| note.contains(&software.name)),
                "{:?}",
                chosen.notes
            );
        }
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn a_number_beyond_the_last_gpu_is_refused_with_the_list() {
        let error = choose(Wish::Gpu(1000)).unwrap_err();
        match gpu::list().first() {
            None => assert_eq!(error, DeviceError::NoGpu),
            Some(first) => assert!(error.to_string().contains(&first.name), "{error}"),
        }
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn a_device_that_does_not_exist_is_unusable_in_a_sentence() {
        use burn::tensor::DeviceKind;

        use crate::kernels::precision::Precision;
        let missing = Device::wgpu(DeviceKind::VirtualGpu(77));
        let reason = probe::probe(&missing, Form::Fused, Precision::Float32).unwrap_err();
        assert!(!reason.contains('\n') && reason.len() > 10, "{reason}");
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn the_first_gpu_passes_the_probe() {
        if gpu::list().is_empty() {
            panic!("this test needs a Vulkan device; on Debian install mesa-vulkan-drivers");
        }
        let chosen = choose(Wish::Gpu(0)).unwrap();
        assert_ne!(chosen.kind, Kind::Cpu);
    }
}
