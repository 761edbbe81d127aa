//! Pooled buffers in and out of tensors.

use std::mem::MaybeUninit;

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::IntTensor;
use burn::tensor::{Bytes, DType, Shape};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

use crate::kernels::buffer::Buffer;

/// A tensor that owns `data`, which goes back to the pool with it.
pub fn tensor<const D: usize>(data: Buffer, shape: [usize; D]) -> FlexTensor {
    let count = shape.iter().product::<usize>();
    assert_eq!(data.len(), count, "a buffer does not fill its shape");
    // SAFETY: the controller's memory holds `count` initialised numbers.
    let bytes = unsafe { Bytes::from_controller(Box::new(Pooled(data)), count * 4) };
    FlexTensor::new(bytes, Layout::contiguous(Shape::from(shape)), DType::F32)
}

/// A buffer as the memory behind a tensor.
struct Pooled(Buffer);

impl AllocationController for Pooled {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _policy: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes = self.0.len() * 4;
        // SAFETY: numbers are initialised bytes; the caller writes only such.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), bytes) })
    }

    fn memory(&self, _policy: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes = self.0.len() * 4;
        // SAFETY: numbers are initialised bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), bytes) })
    }

    fn duplicate(&self) -> Option<Box<dyn AllocationController>> {
        Some(Box::new(Self(Buffer::copy_of(&self.0))))
    }
}

/// A tensor whose elements lie one after the other from the start of its buffer.
pub fn dense(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The elements of a [`dense`] tensor.
pub fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("kernels are only given dense float32 tensors")
}

/// The elements of a tensor to write to, copied before if somebody else holds them.
pub fn slice_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.bytes().len() == tensor.layout().num_elements() * 4;
    if !whole || !tensor.is_unique() {
        let shape = tensor.layout().shape().clone();
        let copy = Buffer::copy_of(slice(&dense(tensor.clone())));
        let count = copy.len();
        // SAFETY: as in `tensor`.
        let bytes = unsafe { Bytes::from_controller(Box::new(Pooled(copy)), count * 4) };
        *tensor = FlexTensor::new(bytes, Layout::contiguous(shape), DType::F32);
    }
    tensor.storage_mut::<f32>()
}

/// The elements of an integer tensor.
pub fn integers<I: TryFrom<i64> + TryFrom<i32>>(tensor: IntTensor<Flex>) -> Vec<I> {
    let tensor = dense(tensor);
    match tensor.dtype() {
        DType::I64 => convert(tensor.as_slice::<i64>()),
        DType::I32 => convert(tensor.as_slice::<i32>()),
        other => unreachable!("Flex makes no {other:?} token tensors"),
    }
}

fn convert<F: Copy, I: TryFrom<F>>(values: Option<&[F]>) -> Vec<I> {
    let values = values.expect("the type was just asked and the tensor is dense");
    let one = |&value: &F| {
        I::try_from(value).unwrap_or_else(|_| unreachable!("tokens and positions are small"))
    };
    values.iter().map(one).collect()
}
