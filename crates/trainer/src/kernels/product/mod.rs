//! Matrix products on AVX-512, in float32 and in bfloat16: packed panels and a kernel that
//! keeps 8 x 32 sums in registers, in the manner of Goto and van de Geijn (2008).
//!
//! Blocks along the inner dimension depend on its length alone, and each is added in
//! order, so a result depends neither on the threads nor on where its matrix was cut.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bfloat16;
#[cfg(target_arch = "x86_64")]
mod blocked;
#[cfg(target_arch = "x86_64")]
mod float32;

use super::precision::Precision;

/// One factor: `lanes` (rows of the left factor, columns of the right one) by the inner
/// dimension, with the distance between neighbours in each; one of the two is 1.
#[derive(Clone, Copy)]
pub struct Factor {
    pub data: *const f32,
    pub lane_stride: usize,
    pub inner_stride: usize,
}

/// The result: row-major.
#[derive(Clone, Copy)]
pub struct Target {
    pub data: *mut f32,
    pub row_stride: usize,
    pub add: bool,
}

/// `rows` x `columns` of the result over `inner` terms.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
}

/// The instructions that [`run`] would use, if this processor has any of them.
pub fn instructions(precision: Precision) -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let base = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw");
        match precision {
            Precision::Float32 if base => return Some("avx512"),
            Precision::Bfloat16 if base && std::arch::is_x86_feature_detected!("avx512bf16") => {
                return Some("avx512bf16");
            }
            _ => {}
        }
    }
    let _ = precision;
    None
}

/// Computes a product on the calling thread; false, and nothing done, where [`instructions`]
/// has none.
///
/// # Safety
/// Factors and target must cover `sizes`; the target must overlap neither factor.
pub unsafe fn run(
    precision: Precision,
    target: Target,
    left: Factor,
    right: Factor,
    sizes: Sizes,
) -> bool {
    if instructions(precision).is_none() {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the memory, and the processor was just asked.
    unsafe {
        match precision {
            Precision::Float32 => {
                blocked::product::<float32::Float32>(target, left, right, sizes);
            }
            Precision::Bfloat16 => {
                blocked::product::<bfloat16::Bfloat16>(target, left, right, sizes);
            }
        }
    }
    true
}
