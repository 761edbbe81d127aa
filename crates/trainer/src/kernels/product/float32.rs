//! Products of float32: a fused multiply-add per term.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_castps_si512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

use super::avx512::{PANEL_ROWS, ROWS, first, prefetch, store, transpose};
use super::blocked::{COLUMNS, Kernel};
use super::{Factor, Target};

pub struct Float32;

/// Packs `lanes` (at most `WIDTH`) by `inner` terms into `to`, one row of `WIDTH` words per
/// word of the inner dimension; what is missing becomes zero.
///
/// # Safety
/// `from` must cover lanes and terms, `to` the packed words.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pack<const WIDTH: usize>(to: *mut u32, from: Factor, lanes: usize, inner: usize) {
    // SAFETY: masks keep every load inside the factor, and `to` has a row of `WIDTH`
    // words per term.
    unsafe {
        if from.lane_stride == 1 {
            for term in 0..inner {
                for lane in (0..WIDTH).step_by(16) {
                    let place = from.data.wrapping_add(term * from.inner_stride + lane);
                    let mask = first(lanes.saturating_sub(lane));
                    let numbers = _mm512_maskz_loadu_ps(mask, place);
                    let to: *mut f32 = to.add(term * WIDTH + lane).cast();
                    _mm512_storeu_ps(to, numbers);
                }
            }
            return;
        }
        for lane in (0..WIDTH).step_by(8) {
            for term in (0..inner).step_by(16) {
                let count = inner - term;
                let row = |row: usize| -> __m512i {
                    if lane + row >= lanes {
                        return _mm512_setzero_si512();
                    }
                    let place = from.data.add((lane + row) * from.lane_stride + term);
                    _mm512_castps_si512(_mm512_maskz_loadu_ps(first(count), place))
                };
                let rows = [
                    row(0),
                    row(1),
                    row(2),
                    row(3),
                    row(4),
                    row(5),
                    row(6),
                    row(7),
                ];
                transpose(rows, to.add(term * WIDTH + lane), WIDTH, count);
            }
        }
    }
}

impl Kernel for Float32 {
    const TERMS: usize = 1;
    const STEP: usize = 1;
    const ROWS: usize = ROWS;
    const PANEL_ROWS: usize = PANEL_ROWS;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_left(to: *mut u32, from: Factor, rows: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<PANEL_ROWS>(to, from, rows, inner) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_right(to: *mut u32, from: Factor, columns: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<COLUMNS>(to, from, columns, inner) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply(
        words: usize,
        left: *const u32,
        right: *const u32,
        target: Target,
        rows: usize,
        columns: usize,
    ) {
        let (left, right): (*const f32, *const f32) = (left.cast(), right.cast());
        let mut sums: [[__m512; 2]; ROWS] = [[_mm512_setzero_ps(); 2]; ROWS];
        prefetch(target, rows);
        // SAFETY: both panels hold `words` rows of their width.
        unsafe {
            for word in 0..words {
                let low = _mm512_loadu_ps(right.add(word * COLUMNS));
                let high = _mm512_loadu_ps(right.add(word * COLUMNS + 16));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let number = _mm512_set1_ps(*left.add(word * PANEL_ROWS + row));
                    sums[0] = _mm512_fmadd_ps(number, low, sums[0]);
                    sums[1] = _mm512_fmadd_ps(number, high, sums[1]);
                }
            }
            store(sums, target, rows, columns);
        }
    }
}
