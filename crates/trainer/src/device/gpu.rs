//! The GPUs of this machine, as Burn's wgpu backend sees them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use burn::backend::{CubeDevice, WgpuBackend, WgpuDevice, WgpuDeviceKind};
use burn::tensor::Device;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};

use super::trial::Trial;
use super::{Chosen, Kind, Memory, probe};
use crate::compute::Form;

/// A GPU that was found but not yet tried.
pub struct Found {
    pub device: Device,
    pub kind: Kind,
    pub name: String,
    /// Whether its driver says that it has bfloat16.
    pub offers_bfloat16: bool,
    pub memory: Memory,
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

/// The interfaces to look for GPUs on, best first, with their names.
const INTERFACES: [(WgpuBackend, &str); 3] = [
    (WgpuBackend::Vulkan, "Vulkan"),
    (WgpuBackend::Metal, "Metal"),
    (WgpuBackend::Dx12, "DirectX 12"),
];

/// Every GPU once, dedicated ones first and software last: those of the first interface that
/// has a hardware GPU, or else of the first that has anything.
pub fn list() -> Vec<Found> {
    let mut software = Vec::new();
    for (interface, interface_name) in INTERFACES {
        let found: Vec<Found> = devices(interface)
            .into_iter()
            .map(|device| open(device, interface_name))
            .collect();
        if found.iter().any(|gpu| gpu.kind == Kind::Gpu) {
            return found;
        }
        if software.is_empty() {
            software = found;
        }
    }
    software
}

/// The adapters of an interface in the order of preference. One that the system lacks has
/// none.
pub fn devices(interface: WgpuBackend) -> Vec<WgpuDevice> {
    let kinds = [
        WgpuDeviceKind::DiscreteGpu(0),
        WgpuDeviceKind::IntegratedGpu(0),
        WgpuDeviceKind::VirtualGpu(0),
        WgpuDeviceKind::Cpu,
    ];
    let ids = kinds.into_iter().flat_map(|kind| {
        let example = CubeDevice::Wgpu(WgpuDevice::new(kind).on(interface)).to_id();
        probe::caught(|| CubeDevice::enumerate(example)).unwrap_or_default()
    });
    ids.filter_map(|id| match CubeDevice::from_id(id) {
        CubeDevice::Wgpu(device) => Some(device),
        _ => None,
    })
    .collect()
}

/// Names a device as its adapter names itself, or by its kind where it can't be opened.
fn open(device: WgpuDevice, interface: &str) -> Found {
    let (kind, fallback) = match device.kind {
        WgpuDeviceKind::Cpu => (Kind::SoftwareGpu, "a software GPU"),
        WgpuDeviceKind::IntegratedGpu(_) => (Kind::Gpu, "an integrated GPU"),
        WgpuDeviceKind::VirtualGpu(_) => (Kind::Gpu, "a virtual GPU"),
        _ => (Kind::Gpu, "a dedicated GPU"),
    };
    let client = probe::caught(|| CubeDevice::Wgpu(device.clone()).client());
    let is_dedicated = matches!(device.kind, WgpuDeviceKind::DiscreteGpu(_));
    let (mut offers_bfloat16, mut bytes) = (false, None);
    let mut name = fallback.to_owned();
    if let Ok(client) = client {
        let properties = client.properties();
        let usage = properties.type_usage(ElemType::Float(FloatKind::BF16));
        offers_bfloat16 = usage.contains(TypeUsage::Buffer);
        bytes = properties.memory.max_memory();
        name.clone_from(&properties.identity.name);
    }
    Found {
        device: Device::new(device),
        kind,
        name: format!("{name} ({interface})"),
        offers_bfloat16,
        memory: match is_dedicated {
            true => Memory::Own(bytes),
            false => Memory::Shared,
        },
    }
}
