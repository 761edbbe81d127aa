//! Tensors as dense buffers on the device, and grids of workgroups over them.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Units of a workgroup: what WebGPU guarantees at most.
pub const UNITS: usize = 256;

/// Workgroups that every graphics interface accepts along one side of a grid.
const GRID_SIDE: usize = 65_535;

/// A tensor whose elements lie one after the other.
pub fn dense(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// A dense tensor that may be written to: itself, or a copy where somebody else holds it. A copy
/// may have gaps between rows at first.
pub fn own(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() {
        return dense(tensor);
    }
    dense(tensor.copy())
}

/// A dense tensor on the device of `like` and of its element type, not yet written.
pub fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    empty_of(like, shape, like.dtype)
}

/// A dense tensor of the shape of `like`, not yet written.
pub fn empty_like(like: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        like.meta.shape().clone(),
        like.dtype,
    )
}

/// As [`empty`], of float32.
pub fn empty_f32<const D: usize>(like: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    empty_of(like, shape, DType::F32)
}

fn empty_of<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        Shape::from(shape),
        dtype,
    )
}

/// Rows `first..first + rows` of a dense matrix, in place.
///
/// `first` times the row's bytes must fit the device's alignment of bindings, as it does for
/// every multiple of 64.
pub fn rows(matrix: &CubeTensor, first: usize, rows: usize) -> CubeTensor {
    let [all, width] = shape(matrix);
    let row_bytes = (width * matrix.dtype.size()) as u64;
    let handle = matrix
        .handle
        .clone()
        .offset_start(first as u64 * row_bytes)
        .offset_end((all - first - rows) as u64 * row_bytes);
    CubeTensor::new_contiguous(
        matrix.client.clone(),
        matrix.device.clone(),
        Shape::from([rows, width]),
        handle,
        matrix.dtype,
    )
}

/// The sides of a tensor.
pub fn shape<const D: usize>(tensor: &CubeTensor) -> [usize; D] {
    tensor.meta.shape().dims()
}

/// Numbers in a tensor.
pub fn len(tensor: &CubeTensor) -> usize {
    tensor.meta.shape().num_elements()
}

/// The element type that a kernel is compiled for.
pub fn element(tensor: &CubeTensor) -> ElemType {
    burn::backend::cubecl::dtype_to_storage_type(tensor.dtype)
}

/// A kernel's argument.
pub fn argument(tensor: &CubeTensor) -> BufferArg {
    tensor.clone().into_buffer_arg()
}

/// At least `count` workgroups; a kernel stops those beyond.
pub fn grid(count: usize) -> CubeCount {
    let layers = count.div_ceil(GRID_SIDE).max(1);
    CubeCount::Static(count.div_ceil(layers).max(1) as u32, layers as u32, 1)
}

/// A grid with a unit for each of `count` numbers.
pub fn units(count: usize) -> CubeCount {
    grid(count.div_ceil(UNITS))
}

/// The workgroup of every kernel here.
pub fn workgroup() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}
