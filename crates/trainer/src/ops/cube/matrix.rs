//! Matrix products, by the backend's own kernels.

use burn::backend::{CubeDevice, WgpuDevice, WgpuDeviceKind};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric;
use burn_cubecl::tensor::CubeTensor;

/// How a device finds the kernel for a product. A GPU measures several and keeps the fastest;
/// software takes minutes to compile them all, so it gets the one that needs no measuring.
fn strategy(device: &CubeDevice) -> MatmulStrategy {
    match device {
        CubeDevice::Wgpu(WgpuDevice {
            kind: WgpuDeviceKind::Cpu,
            ..
        }) => MatmulStrategy::Cube,
        _ => MatmulStrategy::default(),
    }
}

/// `a · b`.
fn product(a: CubeTensor, b: CubeTensor, out: Option<CubeTensor>) -> CubeTensor {
    let (strategy, dtype) = (strategy(&a.device), a.dtype);
    matmul(a, b, out, strategy, dtype)
        .unwrap_or_else(|error| panic!("the device has no matrix product: {error:?}"))
}

/// A matrix seen with rows as columns.
fn transposed(mut matrix: CubeTensor) -> CubeTensor {
    matrix.meta.swap(0, 1);
    matrix
}

/// `out[N, K] = x[N, C] · weight[K, C]ᵀ`.
pub fn linear(x: &CubeTensor, weight: &CubeTensor) -> CubeTensor {
    product(x.clone(), transposed(weight.clone()), None)
}

/// `dx[N, C] = dy[N, K] · weight[K, C]`.
pub fn linear_input_gradient(dy: &CubeTensor, weight: &CubeTensor) -> CubeTensor {
    product(dy.clone(), weight.clone(), None)
}

/// As [`linear_input_gradient`], written to `dx`.
pub fn linear_input_gradient_into(dx: &CubeTensor, dy: &CubeTensor, weight: &CubeTensor) {
    product(dy.clone(), weight.clone(), Some(dx.clone()));
}

/// `dweight[K, C] = dy[N, K]ᵀ · x[N, C]`.
pub fn linear_weight_gradient(dy: &CubeTensor, x: &CubeTensor) -> CubeTensor {
    product(transposed(dy.clone()), x.clone(), None)
}

/// `a + b`, in the buffer of `a` where nobody else holds it.
pub fn add(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    numeric::add(a, b)
}
