//! Which device trains: chosen at run time, by a person's wish and by what works.
//!
//! A GPU that answers may still compute wrongly or lack what the kernels need, so none is
//! taken before it has trained one tiny step with the CPU's result. Nothing here reads
//! settings; the caller says what was wished for.

#[cfg(any(feature = "gpu", test))]
mod cards;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod interface;
#[cfg(any(feature = "cuda", feature = "rocm", test))]
mod library;
#[cfg(feature = "gpu")]
mod probe;
#[cfg(feature = "gpu")]
mod trial;
mod wish;

use std::path::Path;

use burn::tensor::Device;

use crate::compute::Form;
use crate::kernels::precision::has_bfloat16;

pub use interface::Interface;
pub use wish::Wish;

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
        "`{0}` is no device: write `auto`, `cpu`, `gpu`, or `gpu:` and the number of one, such as `gpu:1`; \
         in place of `gpu`, `vulkan`, `metal`, `dx12`, `cuda` and `rocm` insist on an interface"
    )]
    NoWish(String),
    /// This program was built for the CPU alone.
    #[error(
        "this trainer was built without GPU support: write `auto` or `cpu`, or build it with the feature `gpu`"
    )]
    NotBuilt,
    /// This program was built without an interface.
    #[error("this trainer was built without {interface}: build it with the feature `{feature}`")]
    NotBuiltFor {
        /// The interface's name.
        interface: &'static str,
        /// What to build it with.
        feature: &'static str,
    },
    /// The machine shows no GPU.
    #[error(
        "this machine shows no GPU{0}: install its driver with Vulkan, Metal or DirectX 12, or write `auto` or `cpu`"
    )]
    NoGpu(
        /// In brackets, what was not looked at and why; or nothing.
        String,
    ),
    /// An interface shows no GPU.
    #[error("{interface} shows no GPU: {reason}")]
    NoneThrough {
        /// The interface's name.
        interface: &'static str,
        /// Why it was not even looked at, or that it has none.
        reason: String,
    },
    /// There is none of that number.
    #[error("there is no {word}:{index}; this machine has {found}")]
    NoSuchGpu {
        /// What was asked for by number.
        word: &'static str,
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

/// The device for a wish.
pub fn choose(wish: Wish) -> Result<Chosen, DeviceError> {
    match wish {
        Wish::Cpu => Ok(Chosen::cpu()),
        Wish::Auto => Ok(auto()),
        Wish::Gpu(index) => gpu(index),
        Wish::Through(interface, index) => match interface.missing_feature() {
            None => through(interface, index),
            Some(feature) => Err(DeviceError::NotBuiltFor {
                interface: interface.name(),
                feature,
            }),
        },
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

#[cfg(not(feature = "gpu"))]
fn through(_interface: Interface, _index: usize) -> Result<Chosen, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "gpu")]
fn auto() -> Chosen {
    let list = gpu::list(gpu::begin_trial);
    let mut notes = Vec::new();
    for (number, card) in list.cards.into_iter().enumerate() {
        if let [way] = &card[..]
            && way.kind == Kind::SoftwareGpu
        {
            notes.push(format!(
                "{} was passed over: it is software, slower than training on the CPU directly",
                way.name
            ));
            continue;
        }
        let (chosen, failures) = best_way(card, |name| {
            let name = format!("{number} {name}");
            gpu::begin_trial(&name)
        });
        notes.extend(failures.iter().map(passed_over));
        if let Some(chosen) = chosen {
            return with_notes(chosen, notes, list.notes);
        }
    }
    notes.extend(list.notes);
    cpu(notes)
}

#[cfg(feature = "gpu")]
fn gpu(index: usize) -> Result<Chosen, DeviceError> {
    let list = gpu::list(gpu::no_trial);
    if list.cards.is_empty() {
        return Err(DeviceError::NoGpu(match list.notes[..] {
            [] => String::new(),
            _ => format!(" ({})", list.notes.join("; ")),
        }));
    }
    one_of("gpu", index, list)
}

#[cfg(feature = "gpu")]
fn through(interface: Interface, index: usize) -> Result<Chosen, DeviceError> {
    let none = |reason| DeviceError::NoneThrough {
        interface: interface.name(),
        reason,
    };
    let found = gpu::through(interface).map_err(none)?;
    if found.is_empty() {
        return Err(none("no driver on this machine offers one".to_owned()));
    }
    let list = gpu::List {
        cards: found.into_iter().map(|way| vec![way]).collect(),
        notes: Vec::new(),
    };
    one_of(interface.word(), index, list)
}

/// The GPU of this number and no other.
#[cfg(feature = "gpu")]
fn one_of(word: &'static str, index: usize, mut list: gpu::List) -> Result<Chosen, DeviceError> {
    if index >= list.cards.len() {
        let name = |(number, card): (usize, &Vec<gpu::Found>)| {
            let ways: Vec<&str> = card.iter().map(|way| way.name.as_str()).collect();
            format!("{word}:{number}, {}", ways.join(" or "))
        };
        let names: Vec<String> = list.cards.iter().enumerate().map(name).collect();
        return Err(DeviceError::NoSuchGpu {
            word,
            index,
            found: names.join("; "),
        });
    }
    let (chosen, failures) = best_way(list.cards.swap_remove(index), gpu::no_trial);
    let Some(chosen) = chosen else {
        let names: Vec<String> = failures.iter().map(|(name, _)| name.clone()).collect();
        let reasons: Vec<String> = failures.into_iter().map(|(_, reason)| reason).collect();
        return Err(DeviceError::Unusable {
            name: names.join(" or "),
            reason: reasons.join("; "),
        });
    };
    let failed = failures.iter().map(passed_over).collect();
    Ok(with_notes(chosen, failed, list.notes))
}

/// A way to a GPU that is of no use: its name, and why in a clause for people.
#[cfg(feature = "gpu")]
type Failure = (String, String);

#[cfg(feature = "gpu")]
fn passed_over((name, reason): &Failure) -> String {
    format!("{name} was passed over: {reason}")
}

/// With notes of what was tried before it, and of interfaces that were not looked at. Those leave
/// nothing to be wished for where it does all it could.
#[cfg(feature = "gpu")]
fn with_notes(chosen: Chosen, before: Vec<String>, not_looked_at: Vec<String>) -> Chosen {
    let mut notes = before;
    notes.extend(chosen.notes);
    if !chosen.bfloat16 {
        notes.extend(not_looked_at);
    }
    Chosen { notes, ..chosen }
}

/// The best way to a GPU, and those that were tried in vain. `begin` notes what is being tried.
#[cfg(feature = "gpu")]
fn best_way(
    card: Vec<gpu::Found>,
    begin: impl Fn(&str) -> Result<Option<trial::Trial>, String>,
) -> (Option<Chosen>, Vec<Failure>) {
    cards::best(card, |way| {
        let name = way.name.clone();
        let chosen = begin(&name).and_then(|_trial| tried(way));
        let chosen = chosen.map_err(|reason| (name, reason))?;
        let worth = match (chosen.form, chosen.bfloat16) {
            (Form::Plain, _) => cards::Worth::Plain,
            (Form::Fused, false) => cards::Worth::Fused,
            (Form::Fused, true) => cards::Worth::Bfloat16,
        };
        Ok((worth, chosen))
    })
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

    #[test]
    fn an_interface_that_was_not_built_in_is_refused_with_its_feature() {
        for interface in Interface::ALL {
            let Some(feature) = interface.missing_feature() else {
                continue;
            };
            let error = choose(Wish::Through(interface, 0)).unwrap_err().to_string();
            assert!(error.contains(&format!("`{feature}`")), "{error}");
        }
    }

    /// On a machine without these makers' GPUs and drivers, which is most of them.
    #[cfg(all(feature = "cuda", feature = "rocm"))]
    #[test]
    fn cuda_and_rocm_without_their_libraries_are_told_and_stop_nothing() {
        for interface in [Interface::Cuda, Interface::Rocm] {
            let Err(reason) = gpu::through(interface) else {
                continue;
            };
            let error = choose(Wish::Through(interface, 0)).unwrap_err().to_string();
            assert!(error.contains(&reason), "{error}");
            let list = gpu::list(gpu::no_trial);
            let told = |note: &String| note.starts_with(interface.name());
            assert!(list.notes.iter().any(told), "{:?}", list.notes);
            let chosen = choose(Wish::Auto).unwrap();
            assert!(
                chosen.bfloat16 || chosen.notes.iter().any(told),
                "{:?}",
                chosen.notes
            );
        }
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn auto_never_takes_software_and_says_so() {
        let software = gpu::list(gpu::no_trial)
            .cards
            .into_iter()
            .flatten()
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
        match gpu::list(gpu::no_trial).cards.first() {
            None => assert!(matches!(error, DeviceError::NoGpu(_)), "{error}"),
            Some(first) => assert!(error.to_string().contains(&first[0].name), "{error}"),
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
        if gpu::list(gpu::no_trial).cards.is_empty() {
            panic!("this test needs a Vulkan device; on Debian install mesa-vulkan-drivers");
        }
        let chosen = choose(Wish::Gpu(0)).unwrap();
        assert_ne!(chosen.kind, Kind::Cpu);
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn a_gpu_can_be_taken_through_its_interface_by_name() {
        let list = gpu::list(gpu::no_trial).cards;
        let interface = Interface::ALL.into_iter().find(|interface| {
            let suffix = format!("({})", interface.name());
            list.iter().flatten().any(|way| way.name.ends_with(&suffix))
        });
        let interface = interface.expect("a GPU through some interface");
        let found = gpu::through(interface).unwrap();
        assert!(found.iter().all(|way| way.name.contains(interface.name())));
        let error = choose(Wish::Through(interface, 1000)).unwrap_err();
        let first = format!("{}:0, {}", interface.word(), found[0].name);
        assert!(error.to_string().contains(&first), "{error}");
    }
}
