//! Products of float32 in plain Rust, which the compiler turns into the vectors of the
//! processor: AVX2 with fused multiply-adds where x86 has them, NEON on ARM.

use super::blocked::{COLUMNS, Kernel};
use super::{Factor, Target};

/// On what every processor of its architecture has.
pub struct Portable;

/// Compiled for AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub struct Avx2;

/// Rows and columns of sums that are kept in registers: with vectors of eight numbers twelve
/// of sixteen, and two for columns.
const ROWS: usize = 6;
const WIDE: usize = 16;
/// Rows in a packed panel of the left factor.
const PANEL_ROWS: usize = 2 * ROWS;

/// Terms of a lane that are packed at a time, while the rows they go to are in the first cache.
const TERMS: usize = 8;

/// Whether a multiply-add is one instruction without asking; emulated it would be slow.
const FUSED: bool = cfg!(target_arch = "aarch64");

impl Kernel for Portable {
    const TERMS: usize = 1;
    const STEP: usize = 1;
    const ROWS: usize = ROWS;
    const PANEL_ROWS: usize = PANEL_ROWS;

    unsafe fn pack_left(to: *mut u32, from: Factor, rows: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<PANEL_ROWS>(to, from, rows, inner) }
    }

    unsafe fn pack_right(to: *mut u32, from: Factor, columns: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<COLUMNS>(to, from, columns, inner) }
    }

    unsafe fn multiply(
        words: usize,
        left: *const u32,
        right: *const u32,
        target: Target,
        rows: usize,
        columns: usize,
    ) {
        // SAFETY: the caller vouches for panels and target.
        unsafe { multiply::<FUSED>(words, left, right, target, rows, columns) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Kernel for Avx2 {
    const TERMS: usize = 1;
    const STEP: usize = 1;
    const ROWS: usize = ROWS;
    const PANEL_ROWS: usize = PANEL_ROWS;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn pack_left(to: *mut u32, from: Factor, rows: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<PANEL_ROWS>(to, from, rows, inner) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn pack_right(to: *mut u32, from: Factor, columns: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<COLUMNS>(to, from, columns, inner) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(
        words: usize,
        left: *const u32,
        right: *const u32,
        target: Target,
        rows: usize,
        columns: usize,
    ) {
        // SAFETY: the caller vouches for panels and target.
        unsafe { multiply::<true>(words, left, right, target, rows, columns) }
    }
}

/// Packs `lanes` (at most `WIDTH`) by `inner` terms into `to`, one row of `WIDTH` numbers per
/// term; what is missing becomes zero.
///
/// # Safety
/// `from` must cover lanes and terms, `to` the packed numbers.
#[inline(always)]
unsafe fn pack<const WIDTH: usize>(to: *mut u32, from: Factor, lanes: usize, inner: usize) {
    let to: *mut f32 = to.cast();
    // SAFETY: places stay within the caller's lanes and terms.
    unsafe {
        if lanes < WIDTH {
            to.write_bytes(0, inner * WIDTH);
        }
        if from.lane_stride == 1 {
            for term in 0..inner {
                let (from, to) = (
                    from.data.add(term * from.inner_stride),
                    to.add(term * WIDTH),
                );
                if lanes == WIDTH {
                    to.copy_from_nonoverlapping(from, WIDTH);
                } else {
                    to.copy_from_nonoverlapping(from, lanes);
                }
            }
            return;
        }
        for term in (0..inner).step_by(TERMS) {
            let count = TERMS.min(inner - term);
            for lane in 0..lanes {
                let from = from.data.add(lane * from.lane_stride + term);
                let to = to.add(term * WIDTH + lane);
                if count == TERMS {
                    for place in 0..TERMS {
                        *to.add(place * WIDTH) = *from.add(place);
                    }
                } else {
                    for place in 0..count {
                        *to.add(place * WIDTH) = *from.add(place);
                    }
                }
            }
        }
    }
}

/// See [`Kernel::multiply`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn multiply<const FUSED: bool>(
    words: usize,
    left: *const u32,
    right: *const u32,
    target: Target,
    rows: usize,
    columns: usize,
) {
    let (left, right): (*const f32, *const f32) = (left.cast(), right.cast());
    for column in (0..columns).step_by(WIDE) {
        let mut sums = [[0.0f32; WIDE]; ROWS];
        // SAFETY: both panels hold `words` rows of their width, and the target the rows and
        // columns that are written.
        unsafe {
            for word in 0..words {
                let right: [f32; WIDE] = *right.add(word * COLUMNS + column).cast();
                for (row, sums) in sums.iter_mut().enumerate() {
                    let number = *left.add(word * PANEL_ROWS + row);
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = match FUSED {
                            true => number.mul_add(right, *sum),
                            false => number * right + *sum,
                        };
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate().take(rows) {
                let to = target.data.add(row * target.row_stride + column);
                let to = std::slice::from_raw_parts_mut(to, WIDE.min(columns - column));
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to = if target.add { *to + sum } else { *sum };
                }
            }
        }
    }
}
