//! Products of bfloat16, rounded to it while panels are packed: pairs of terms are
//! multiplied and added to sums in float32 by one instruction.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_maskz_loadu_ps,
    _mm512_or_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
    _mm512_storeu_si512,
};

use super::avx512::{PANEL_ROWS, ROWS, first, prefetch, store, transpose};
use super::blocked::{COLUMNS, Kernel};
use super::{Factor, Target};

pub struct Bfloat16;

/// Sixteen words with a rounded number in the low half of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(numbers: __m512) -> __m512i {
    // SAFETY: both are 32 bytes of any value.
    let halves: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(numbers)) };
    _mm512_cvtepu16_epi32(halves)
}

/// The word of sixteen lanes that are neighbours in memory: the term at `place`, and, where
/// there is one, the term at `next`.
///
/// # Safety
/// The lanes of `mask` must be readable at both.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn word_of_lanes(place: *const f32, next: Option<*const f32>, mask: u16) -> __m512i {
    // SAFETY: the caller vouches for the lanes of the mask; others are not touched.
    unsafe {
        let low = rounded(_mm512_maskz_loadu_ps(mask, place));
        let Some(next) = next else { return low };
        let high = rounded(_mm512_maskz_loadu_ps(mask, next));
        _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
    }
}

/// Sixteen words of one lane whose terms are neighbours in memory, of which the first `count`
/// terms are taken and the others zero.
///
/// # Safety
/// `count` terms, or 32 if that is less, must be readable at `place`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn words_of_lane(place: *const f32, count: usize) -> __m512i {
    // SAFETY: masks keep both loads to the caller's terms; both types are 64 bytes of any
    // value.
    unsafe {
        let low = _mm512_maskz_loadu_ps(first(count), place);
        let mask = first(count.saturating_sub(16));
        let high = _mm512_maskz_loadu_ps(mask, place.wrapping_add(16));
        std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// The same bits as thirty-two bfloat16.
#[inline(always)]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of any value.
    unsafe { std::mem::transmute(words) }
}

/// Packs `lanes` (at most `WIDTH`) by `inner` terms into `to`, one row of `WIDTH` words per
/// word of the inner dimension; what is missing becomes zero.
///
/// # Safety
/// `from` must cover lanes and terms, `to` the packed words.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn pack<const WIDTH: usize>(to: *mut u32, from: Factor, lanes: usize, inner: usize) {
    // SAFETY: masks keep every load inside the factor, and `to` has a row of `WIDTH`
    // words per pair of terms.
    unsafe {
        if from.lane_stride == 1 {
            for term in (0..inner).step_by(2) {
                for lane in (0..WIDTH).step_by(16) {
                    let place = from.data.wrapping_add(term * from.inner_stride + lane);
                    let mask = first(lanes.saturating_sub(lane));
                    let next = (term + 1 < inner).then(|| place.wrapping_add(from.inner_stride));
                    let words = word_of_lanes(place, next, mask);
                    let to = to.add(term / 2 * WIDTH + lane);
                    _mm512_storeu_si512(to.cast(), words);
                }
            }
            return;
        }
        for lane in (0..WIDTH).step_by(8) {
            for term in (0..inner).step_by(32) {
                let count = inner - term;
                let row = |row: usize| -> __m512i {
                    if lane + row >= lanes {
                        return _mm512_setzero_si512();
                    }
                    let place = from.data.add((lane + row) * from.lane_stride + term);
                    words_of_lane(place, count)
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
                let to = to.add(term / 2 * WIDTH + lane);
                transpose(rows, to, WIDTH, count.div_ceil(2));
            }
        }
    }
}

impl Kernel for Bfloat16 {
    const TERMS: usize = 2;
    const STEP: usize = 1;
    const ROWS: usize = ROWS;
    const PANEL_ROWS: usize = PANEL_ROWS;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pack_left(to: *mut u32, from: Factor, rows: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<PANEL_ROWS>(to, from, rows, inner) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pack_right(to: *mut u32, from: Factor, columns: usize, inner: usize) {
        // SAFETY: the caller vouches for both.
        unsafe { pack::<COLUMNS>(to, from, columns, inner) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply(
        words: usize,
        left: *const u32,
        right: *const u32,
        target: Target,
        rows: usize,
        columns: usize,
    ) {
        let mut sums: [[__m512; 2]; ROWS] = [[_mm512_setzero_ps(); 2]; ROWS];
        prefetch(target, rows);
        // SAFETY: both panels hold `words` rows of their width.
        unsafe {
            for word in 0..words {
                let low = pairs(_mm512_loadu_si512(right.add(word * COLUMNS).cast()));
                let high = pairs(_mm512_loadu_si512(right.add(word * COLUMNS + 16).cast()));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let number = *left.add(word * PANEL_ROWS + row);
                    let number = pairs(_mm512_set1_epi32(number as i32));
                    sums[0] = _mm512_dpbf16_ps(sums[0], number, low);
                    sums[1] = _mm512_dpbf16_ps(sums[1], number, high);
                }
            }
            store(sums, target, rows, columns);
        }
    }
}
