//! Matrix products, by the backend's own kernels.

use burn::backend::{CubeDevice, WgpuDevice, WgpuDeviceKind};
use burn::tensor::DType;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric;
use burn_cubecl::tensor::CubeTensor;

use super::buffer::{empty, shape};
use crate::kernels::precision::Precision;

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

/// A product's factors in `numbers`, or as they are; sums and result are as the factors were.
/// The result is dense: a buffer that CUDA or ROCm makes by itself has gaps between rows.
fn product(
    a: CubeTensor,
    b: CubeTensor,
    out: Option<CubeTensor>,
    numbers: Option<DType>,
) -> CubeTensor {
    let (strategy, dtype) = (strategy(&a.device), a.dtype);
    let ([rows, _], [_, columns]) = (shape(&a), shape(&b));
    let out = out.unwrap_or_else(|| empty(&a, [rows, columns]));
    let (a, b) = match numbers {
        Some(numbers) => (cast(a, numbers), cast(b, numbers)),
        None => (a, b),
    };
    matmul(a, b, Some(out), strategy, dtype)
        .unwrap_or_else(|error| panic!("the device has no matrix product: {error:?}"))
}

fn numbers(precision: Precision) -> Option<DType> {
    match precision {
        Precision::Float32 => None,
        Precision::Bfloat16 => Some(DType::BF16),
    }
}

/// A matrix seen with rows as columns.
fn transposed(mut matrix: CubeTensor) -> CubeTensor {
    matrix.meta.swap(0, 1);
    matrix
}

/// `out[N, K] = x[N, C] · weight[K, C]ᵀ`.
pub fn linear(x: &CubeTensor, weight: &CubeTensor, precision: Precision) -> CubeTensor {
    let weight = transposed(weight.clone());
    product(x.clone(), weight, None, numbers(precision))
}

/// `dx[N, C] = dy[N, K] · weight[K, C]`.
pub fn linear_input_gradient(
    dy: &CubeTensor,
    weight: &CubeTensor,
    precision: Precision,
) -> CubeTensor {
    product(dy.clone(), weight.clone(), None, numbers(precision))
}

/// As [`linear_input_gradient`], written to `dx`.
pub fn linear_input_gradient_into(
    dx: &CubeTensor,
    dy: &CubeTensor,
    weight: &CubeTensor,
    precision: Precision,
) {
    let out = Some(dx.clone());
    product(dy.clone(), weight.clone(), out, numbers(precision));
}

/// `dweight[K, C] = dy[N, K]ᵀ · x[N, C]`.
pub fn linear_weight_gradient(dy: &CubeTensor, x: &CubeTensor, precision: Precision) -> CubeTensor {
    product(transposed(dy.clone()), x.clone(), None, numbers(precision))
}

/// `a + b`, in the buffer of `a` where nobody else holds it.
pub fn add(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    numeric::add(a, b)
}

#[cfg(test)]
mod tests {
    use burn::backend::WgpuBackend;
    use burn::tensor::Shape;
    use cubecl::features::TypeUsage;
    use cubecl::ir::{ElemType, FloatKind};

    use super::*;
    use crate::device::gpu::graphics_devices;

    /// Software devices may have one of the two half-wide numbers and not the other; what is
    /// done with them is the same.
    #[test]
    fn gpu_products_of_half_as_many_bits_add_up_in_float32() {
        let device = graphics_devices(WgpuBackend::Vulkan).remove(0);
        let client = device.client();
        let (rows, columns, inner) = (70, 50, 90);
        let data = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin()).collect()
        };
        let (x, weight) = (data(rows * inner, 0.7), data(columns * inner, 0.3));
        let tensor = |data: &[f32], shape: [usize; 2]| {
            let handle = client.create_from_slice(bytemuck::cast_slice(data));
            let shape = Shape::from(shape);
            CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, DType::F32)
        };
        for (numbers, kind, rounding) in [
            (DType::BF16, FloatKind::BF16, 8e-3),
            (DType::F16, FloatKind::F16, 1e-3),
        ] {
            let usage = client.properties().type_usage(ElemType::Float(kind));
            if !usage.contains(TypeUsage::Buffer) {
                eprintln!("not tested: {numbers:?} on {device:?}");
                continue;
            }
            let out = product(
                tensor(&x, [rows, inner]),
                transposed(tensor(&weight, [columns, inner])),
                None,
                Some(numbers),
            );
            assert_eq!(out.dtype, DType::F32);
            let bytes = client.read_one(out.handle).unwrap();
            let found: &[f32] = bytemuck::cast_slice(&bytes);
            let mut rounded = false;
            for (place, &found) in found.iter().enumerate() {
                let (row, column) = (place / columns, place % columns);
                let term = |k: usize| x[row * inner + k] * weight[column * inner + k];
                let expected: f32 = (0..inner).map(term).sum();
                let size: f32 = (0..inner).map(|k| term(k).abs()).sum();
                assert!(
                    (found - expected).abs() < rounding * size.max(1.0),
                    "{numbers:?} {row} {column}: {found} {expected}"
                );
                rounded |= (found - expected).abs() > 1e-6 * size;
            }
            assert!(rounded, "{numbers:?}: factors were not rounded");
        }
    }
}
