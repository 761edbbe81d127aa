//! Matrix products in float32 on whatever vectors a processor has, and in bfloat16 on AVX-512
//! and AMX: packed panels and a kernel that keeps a block of sums in registers, in the manner of
//! Goto and van de Geijn (2008).
//!
//! Blocks along the inner dimension depend on its length alone, and each is added in
//! order, so a result depends neither on the threads nor on where its matrix was cut.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bfloat16;
mod blocked;
#[cfg(target_arch = "x86_64")]
mod float32;
mod portable;

use super::precision::Precision;
use blocked::Kernel;

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
pub enum Instructions {
    /// float32 on what every processor of the architecture has.
    Portable,
    /// float32 on vectors of eight with fused multiply-adds.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// float32 on vectors of sixteen.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// bfloat16 on vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512Bfloat16,
    /// bfloat16 on tiles.
    #[cfg(target_arch = "x86_64")]
    AmxBfloat16,
}

impl Instructions {
    /// All that this program knows, best first.
    const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::AmxBfloat16,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bfloat16,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        Self::Portable,
    ];

    /// The best that [`run`] can use here; of float32 where there are none of bfloat16.
    pub fn of(precision: Precision) -> Self {
        let fits = |with: &&Self| {
            (with.precision() == precision || with.precision() == Precision::Float32)
                && with.is_here()
        };
        Self::ALL
            .iter()
            .find(fits)
            .copied()
            .unwrap_or(Self::Portable)
    }

    /// All that this processor has.
    #[cfg(test)]
    pub fn here() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|with| with.is_here())
    }

    /// Whether this processor has them.
    fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        use std::arch::is_x86_feature_detected as has;
        #[cfg(target_arch = "x86_64")]
        let wide = || has!("avx512f") && has!("avx512bw");
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has!("avx2") && has!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => wide(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bfloat16 => wide() && has!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::AmxBfloat16 => wide() && amx::works(),
        }
    }

    /// For numerics classes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable if cfg!(target_arch = "aarch64") => "neon",
            Self::Portable => "base",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bfloat16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Self::AmxBfloat16 => "amx-bf16",
        }
    }

    /// The numbers that they multiply.
    pub fn precision(self) -> Precision {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bfloat16 | Self::AmxBfloat16 => Precision::Bfloat16,
            _ => Precision::Float32,
        }
    }

    /// Rows of a result that are computed at a time.
    pub fn rows(self) -> usize {
        match self {
            Self::Portable => portable::Portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => portable::Avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => float32::Float32::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bfloat16 => bfloat16::Bfloat16::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::AmxBfloat16 => amx::AmxBfloat16::ROWS,
        }
    }
}

/// Computes a product on the calling thread.
///
/// # Safety
/// Factors and target must cover `sizes`; the target must overlap neither factor; the processor
/// must have the instructions.
pub unsafe fn run(
    instructions: Instructions,
    target: Target,
    left: Factor,
    right: Factor,
    sizes: Sizes,
) {
    use blocked::product;
    // SAFETY: the caller vouches for memory and instructions.
    unsafe {
        match instructions {
            Instructions::Portable => product::<portable::Portable>(target, left, right, sizes),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => product::<portable::Avx2>(target, left, right, sizes),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => product::<float32::Float32>(target, left, right, sizes),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bfloat16 => {
                product::<bfloat16::Bfloat16>(target, left, right, sizes);
            }
            #[cfg(target_arch = "x86_64")]
            Instructions::AmxBfloat16 => product::<amx::AmxBfloat16>(target, left, right, sizes),
        }
    }
}
