//! The GPUs of this machine, as Burn's wgpu backend sees them.

use burn::backend::{DispatchDevice, WgpuDevice};
use burn::tensor::{Device, DeviceType};
use burn_cubecl::CubeDevice;
use cubecl::wgpu::WgpuDeviceKind;

use super::{Chosen, Kind, probe};

/// A GPU that was found but not yet tried.
pub struct Found {
    pub device: Device,
    pub kind: Kind,
    pub name: String,
}

impl Found {
    pub fn chosen(self) -> Chosen {
        Chosen {
            device: self.device,
            kind: self.kind,
            name: self.name,
            notes: Vec::new(),
        }
    }
}

/// Every GPU once, dedicated ones first and software last.
pub fn list() -> Vec<Found> {
    // Vulkan first: only there are kernels compiled without a detour through WGSL.
    let (devices, interface) = match enumerate(DeviceType::Vulkan) {
        devices if devices.is_empty() => (enumerate(DeviceType::Wgpu), native_interface()),
        devices => (devices, "Vulkan"),
    };
    let mut found: Vec<(u8, Found)> = devices
        .into_iter()
        .filter_map(|device| {
            let (rank, kind) = rank(&device)?;
            let name = name(&device, rank, interface);
            Some((rank, Found { device, kind, name }))
        })
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, found)| found).collect()
}

fn enumerate(interface: DeviceType) -> Vec<Device> {
    probe::caught(|| Device::enumerate(interface).into_iter().collect()).unwrap_or_default()
}

/// What wgpu reaches GPUs through where there is no Vulkan.
fn native_interface() -> &'static str {
    if cfg!(target_os = "macos") {
        "Metal"
    } else if cfg!(windows) {
        "DirectX 12"
    } else {
        "wgpu"
    }
}

/// The place of a device in the order of preference, and its kind.
fn rank(device: &Device) -> Option<(u8, Kind)> {
    let DispatchDevice::Cube(CubeDevice::Wgpu(WgpuDevice { kind, .. })) = device.as_dispatch()
    else {
        return None;
    };
    Some(match kind {
        WgpuDeviceKind::DiscreteGpu(_) => (0, Kind::Gpu),
        WgpuDeviceKind::IntegratedGpu(_) => (1, Kind::Gpu),
        WgpuDeviceKind::VirtualGpu(_) => (2, Kind::Gpu),
        WgpuDeviceKind::Other(_) => (3, Kind::Gpu),
        WgpuDeviceKind::Cpu => (4, Kind::SoftwareGpu),
        WgpuDeviceKind::DefaultDevice | WgpuDeviceKind::Existing(_) => return None,
    })
}

/// The name that the adapter gives itself, or what it is where it can't be opened.
fn name(device: &Device, rank: u8, interface: &str) -> String {
    let name = probe::caught(|| device.identity())
        .ok()
        .flatten()
        .map(|identity| identity.name);
    let name = name.unwrap_or_else(|| {
        let kind = [
            "a dedicated GPU",
            "an integrated GPU",
            "a virtual GPU",
            "a GPU",
            "a software GPU",
        ];
        kind[usize::from(rank)].to_owned()
    });
    format!("{name} ({interface})")
}
