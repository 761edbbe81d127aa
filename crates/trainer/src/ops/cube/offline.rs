//! Kernels compiled for NVIDIA's and AMD's GPUs without one: the compilers are part of a program
//! built with CUDA and ROCm.

use std::sync::Arc;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use cubecl::cuda::{CudaCompilationOptions, CudaCompiler};
use cubecl::hip::{HipCompilationOptions, HipCompiler};
use cubecl::ir::amd::GfxArch;
use cubecl::ir::features::Features;
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{
    DeviceIdentity, ElemType, HardwareProperties, MemoryDeviceProperties, VectorSize,
};
use cubecl::prelude::*;
use cubecl::profile::TimingMethod;
use cubecl::{Compiler, CubeKernel};

use super::buffer::{UNITS, workgroup};

/// A kernel's argument that is a buffer.
pub const BUFFER: BufferCompilationArg = BufferCompilationArg { inplace: None };

/// The element types of weights and of tokens.
pub fn float_and_int() -> [ElemType; 2] {
    [DType::F32, DType::I32].map(dtype_to_storage_type)
}

/// What a kernel is compiled for, as far as it asks.
pub fn target() -> Arc<TargetProperties> {
    Arc::new(TargetProperties::default())
}

/// What a kernel is compiled with.
pub fn settings() -> KernelSettings {
    KernelSettings::new(*workgroup(), ExecutionMode::Checked, AddressType::U32)
}

/// What every GPU has.
pub fn properties() -> Arc<DeviceProperties> {
    let sides = (UNITS as u32, UNITS as u32, 64);
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 32,
        max_shared_memory_size: 48 << 10,
        max_cube_count: (65_535, 65_535, 65_535),
        max_units_per_cube: UNITS as u32,
        max_cube_dim: sides,
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    Arc::new(DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(u64::MAX, 256),
        hardware,
        TimingMethod::System,
        DeviceIdentity {
            name: "none".to_owned(),
            fingerprint: "none".to_owned(),
            physical: None,
        },
    ))
}

/// That a kernel compiles for GPUs of both makers. One that needs `exp` or `ln` needs their
/// libraries of functions; without them it is only said.
pub fn assert_compiles(kernel: &impl CubeKernel) {
    let nvidia = CudaCompilationOptions {
        arch: Some(SmArch::new(80, true)),
        ..Default::default()
    };
    let ptx = CudaCompiler::default().compile(kernel.define(), &nvidia);
    check("CUDA", ptx.map(|ptx| ptx.shared_memory_size()));
    let amd = HipCompilationOptions {
        arch: Some(GfxArch::parse("gfx1100")),
        ..Default::default()
    };
    let object = HipCompiler::default().compile(kernel.define(), &amd);
    check("ROCm", object.map(|_| 0));
}

fn check(interface: &str, compiled: Result<usize, cubecl::CompilationError>) {
    match compiled {
        Ok(shared) => eprintln!("{interface}: compiled, {shared} bytes of shared memory"),
        Err(error) => {
            let error = format!("{error:?}");
            let lacks = ["libdevice.10.bc was not found", "no ROCm device libraries"];
            let lacking = lacks.iter().any(|lack| error.contains(lack));
            assert!(lacking, "{interface}: {error}");
            eprintln!("not tested, {interface}: {error}");
        }
    }
}
