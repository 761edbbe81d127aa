//! The GPUs of this machine, as Burn's wgpu, CUDA and ROCm backends see them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use burn::backend::cubecl::PhysicalDevice;
use burn::backend::{CubeDevice, WgpuBackend, WgpuDevice, WgpuDeviceKind};
use burn::tensor::Device;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};

use super::cards::{Way, Worth, cards};
use super::trial::Trial;
use super::{Chosen, Interface, Kind, Memory, probe};
use crate::compute::Form;

/// A GPU as one interface shows it, not yet tried.
pub struct Found {
    pub device: Device,
    pub kind: Kind,
    pub name: String,
    /// Whether its driver says that it has bfloat16.
    pub offers_bfloat16: bool,
    pub memory: Memory,
    /// Where it is plugged in, if the interface says that.
    physical: Option<PhysicalDevice>,
}

impl Found {
    pub fn chosen(self, form: Form, bfloat16: bool, notes: Vec<String>) -> Chosen {
        Chosen {
            device: self.device,
            kind: self.kind,
            name: self.name,
            form,
            bfloat16,
            memory: self.memory,
            notes,
        }
    }
}

impl Way for Found {
    fn is_same_card(&self, other: &Self) -> bool {
        match (&self.physical, &other.physical) {
            (Some(one), Some(other)) => one.is_same_card(other),
            _ => false,
        }
    }

    fn is_software(&self) -> bool {
        self.kind == Kind::SoftwareGpu
    }

    fn promise(&self) -> Worth {
        match self.offers_bfloat16 {
            true => Worth::Bfloat16,
            false => Worth::Fused,
        }
    }
}

/// The GPUs of this machine, each with the ways to it.
pub struct List {
    pub cards: Vec<Vec<Found>>,
    /// Which interfaces were not looked at, and why.
    pub notes: Vec<String>,
}

/// Where kernels are kept, if they are.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// See [`super::keep_kernels`].
pub fn keep_kernels(folder: &Path) {
    if FOLDER.set(folder.to_owned()).is_err() {
        return;
    }
    let mut config = CubeClRuntimeConfig::default();
    config.environment.path = CacheConfig::Directory(folder.to_owned());
    config.compilation.cache = true;
    CubeClRuntimeConfig::try_set(config);
}

/// A note that this GPU is being tried, where a folder is known; the error is a clause for people.
pub fn begin_trial(name: &str) -> Result<Option<Trial>, String> {
    let begin = |folder: &PathBuf| Trial::begin(folder, name, SystemTime::now());
    FOLDER.get().map(begin).transpose()
}

/// No note, as the person insists.
pub fn no_trial(_name: &str) -> Result<Option<Trial>, String> {
    Ok(None)
}

/// The graphics interfaces to look for GPUs on, best first.
const GRAPHICS: [(Interface, WgpuBackend); 3] = [
    (Interface::Vulkan, WgpuBackend::Vulkan),
    (Interface::Metal, WgpuBackend::Metal),
    (Interface::Dx12, WgpuBackend::Dx12),
];

/// The makers' own interfaces, those that this program was built for.
fn own_interfaces() -> impl Iterator<Item = Interface> {
    [Interface::Cuda, Interface::Rocm]
        .into_iter()
        .filter(|interface| interface.missing_feature().is_none())
}

/// Every GPU once, dedicated ones first and software last. `begin` notes what is being looked
/// at: drivers may end the process already when they are asked what they have.
pub fn list(begin: fn(&str) -> Result<Option<Trial>, String>) -> List {
    let mut notes = Vec::new();
    let mut ways = begin("GPUs at all")
        .map(|_trial| graphics())
        .unwrap_or_else(|reason| {
            notes.push(format!("GPUs were not looked for: {reason}"));
            Vec::new()
        });
    for interface in own_interfaces() {
        let name = interface.name();
        let found = begin(&format!("GPUs through {name}")).and_then(|_trial| through(interface));
        match found {
            Ok(found) => ways.extend(found),
            Err(reason) => notes.push(format!("{name} was not looked for: {reason}")),
        }
    }
    let mut cards = cards(ways);
    for card in &mut cards {
        // CUDA and ROCm don't say that a GPU shares the machine's memory; graphics do.
        let shared = card.iter().any(|way| way.memory == Memory::Shared);
        for way in card.iter_mut().filter(|_| shared) {
            way.memory = Memory::Shared;
        }
    }
    List { cards, notes }
}

/// The GPUs of the first graphics interface that has a hardware GPU, or else of the first that
/// has anything: they do the same for a GPU, and don't all say which one it is.
fn graphics() -> Vec<Found> {
    let mut software = Vec::new();
    for (interface, backend) in GRAPHICS {
        let found = open_all(interface, graphics_devices(backend));
        if found.iter().any(|gpu| gpu.kind == Kind::Gpu) {
            return found;
        }
        if software.is_empty() {
            software = found;
        }
    }
    software
}

/// The GPUs of one interface, in the order of preference; the error is a clause for people.
pub fn through(interface: Interface) -> Result<Vec<Found>, String> {
    let graphics = GRAPHICS.iter().find(|(known, _)| *known == interface);
    let devices = match (graphics, interface) {
        (Some((_, backend)), _) => graphics_devices(*backend),
        #[cfg(feature = "cuda")]
        (None, Interface::Cuda) => {
            super::library::CUDA.check()?;
            enumerate(&CubeDevice::Cuda(Default::default()))?
        }
        #[cfg(feature = "rocm")]
        (None, Interface::Rocm) => {
            super::library::ROCM.check()?;
            enumerate(&CubeDevice::Hip(Default::default()))?
        }
        (None, _) => Vec::new(),
    };
    Ok(open_all(interface, devices))
}

/// The adapters of a graphics interface in the order of preference. One that the system lacks
/// has none.
pub fn graphics_devices(backend: WgpuBackend) -> Vec<CubeDevice> {
    let kinds = [
        WgpuDeviceKind::DiscreteGpu(0),
        WgpuDeviceKind::IntegratedGpu(0),
        WgpuDeviceKind::VirtualGpu(0),
        WgpuDeviceKind::Cpu,
    ];
    let of_kind = |kind| {
        let example = CubeDevice::Wgpu(WgpuDevice::new(kind).on(backend));
        enumerate(&example).unwrap_or_default()
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

/// All devices like this one, or why they can't be listed.
fn enumerate(example: &CubeDevice) -> Result<Vec<CubeDevice>, String> {
    let ids = probe::caught(|| CubeDevice::enumerate(example.to_id()))?;
    Ok(ids.into_iter().map(CubeDevice::from_id).collect())
}

fn open_all(interface: Interface, devices: Vec<CubeDevice>) -> Vec<Found> {
    let open = |device| open(device, interface);
    devices.into_iter().map(open).collect()
}

/// Names a device as its driver names it, or by its kind where it can't be opened.
fn open(device: CubeDevice, interface: Interface) -> Found {
    use WgpuDeviceKind::{Cpu, IntegratedGpu, VirtualGpu};
    let (kind, fallback, is_dedicated) = match &device {
        CubeDevice::Wgpu(device) => match device.kind {
            Cpu => (Kind::SoftwareGpu, "a software GPU", false),
            IntegratedGpu(_) => (Kind::Gpu, "an integrated GPU", false),
            VirtualGpu(_) => (Kind::Gpu, "a virtual GPU", false),
            WgpuDeviceKind::DiscreteGpu(_) => (Kind::Gpu, "a dedicated GPU", true),
            _ => (Kind::Gpu, "a dedicated GPU", false),
        },
        _ => (Kind::Gpu, "a GPU", true),
    };
    let client = probe::caught(|| device.client());
    let (mut offers_bfloat16, mut bytes, mut physical) = (false, None, None);
    let mut name = fallback.to_owned();
    if let Ok(client) = client {
        let properties = client.properties();
        let usage = properties.type_usage(ElemType::Float(FloatKind::BF16));
        offers_bfloat16 = usage.contains(TypeUsage::Buffer);
        bytes = properties.memory.max_memory();
        name.clone_from(&properties.identity.name);
        physical.clone_from(&properties.identity.physical);
    }
    Found {
        device: Device::new(device),
        kind,
        name: format!("{name} ({})", interface.name()),
        offers_bfloat16,
        memory: match is_dedicated {
            true => Memory::Own(bytes),
            false => Memory::Shared,
        },
        physical,
    }
}
