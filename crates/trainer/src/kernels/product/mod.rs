//! Matrix products on AVX-512, in float32 and in bfloat16, and on AMX in bfloat16: packed
//! panels and a kernel that keeps a block of sums in registers, in the manner of Goto and van
//! de Geijn (2008).
//!
//! Blocks along the inner dimension depend on its length alone, and each is added in
//! order, so a result depends neither on the threads nor on where its matrix was cut.

#[cfg(target_arch = "x86_64")]
mod amx;
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

/// Instructions that products are computed with. How sums round depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "other processors have none of them yet")
)]
pub enum Instructions {
    /// float32 on vectors.
    Avx512,
    /// bfloat16 on vectors.
    Avx512Bfloat16,
    /// bfloat16 on tiles.
    AmxBfloat16,
}

impl Instructions {
    /// For numerics classes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx512Bfloat16 => "avx512bf16",
            Self::AmxBfloat16 => "amx-bf16",
        }
    }

    /// Rows of a result that are computed at a time.
    pub fn rows(self) -> usize {
        match self {
            Self::Avx512 | Self::Avx512Bfloat16 => 8,
            Self::AmxBfloat16 => 32,
        }
    }

    /// Those that [`run`] uses here, if this processor has any.
    pub fn of(precision: Precision) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let base = has!("avx512f") && has!("avx512bw");
            match precision {
                _ if !base => None,
                Precision::Float32 => Some(Self::Avx512),
                Precision::Bfloat16 if amx::works() => Some(Self::AmxBfloat16),
                Precision::Bfloat16 => has!("avx512bf16").then_some(Self::Avx512Bfloat16),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = precision;
            None
        }
    }
}

/// Computes a product on the calling thread; false, and nothing done, where
/// [`Instructions::of`] has none.
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
    let Some(instructions) = Instructions::of(precision) else {
        return false;
    };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the memory, and the processor was just asked.
    unsafe {
        use Instructions::{AmxBfloat16, Avx512, Avx512Bfloat16};
        match instructions {
            Avx512 => blocked::product::<float32::Float32>(target, left, right, sizes),
            Avx512Bfloat16 => blocked::product::<bfloat16::Bfloat16>(target, left, right, sizes),
            AmxBfloat16 => blocked::product::<amx::AmxBfloat16>(target, left, right, sizes),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (instructions, target, left, right, sizes);
    true
}
