//! What the kernels of both number formats share: masks, a transposition, and writing a
//! block of sums.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, __mmask16, _MM_HINT_ET0, _mm_prefetch, _mm256_storeu_si256,
    _mm512_add_ps, _mm512_castsi512_si256, _mm512_extracti64x4_epi64, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_permutex2var_epi64, _mm512_set_epi64, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::Target;

/// Rows of sums that a kernel keeps in registers.
pub const ROWS: usize = 8;
/// Rows in a packed panel of the left factor: two kernels', for whole cache lines.
pub const PANEL_ROWS: usize = 2 * ROWS;

/// A mask of the first `count` of sixteen numbers.
#[inline(always)]
pub fn first(count: usize) -> __mmask16 {
    if count >= 16 {
        u16::MAX
    } else {
        (1 << count) - 1
    }
}

/// Writes 8 lanes of 16 words as 16 rows of 8: word `i` of lane `l` to `to[i * stride + l]`,
/// for the first `count` words.
///
/// # Safety
/// `to` must have room for `count` rows; the processor must have AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn transpose(lanes: [__m512i; 8], to: *mut u32, stride: usize, count: usize) {
    // Four lanes turned within each quarter of a vector: word 4q + j of all of them.
    let quads = |from: usize| {
        let [a, b, c, d] = [
            lanes[from],
            lanes[from + 1],
            lanes[from + 2],
            lanes[from + 3],
        ];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    };
    let (low, high) = (quads(0), quads(4));
    let first_half = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    let second_half = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    let put = |word: usize, eight: __m256i| {
        if word < count {
            // SAFETY: the caller gives room for `count` rows of `stride`, at least 8 wide.
            unsafe { _mm256_storeu_si256(to.add(word * stride).cast(), eight) };
        }
    };
    for j in 0..4 {
        let first = _mm512_permutex2var_epi64(low[j], first_half, high[j]);
        let second = _mm512_permutex2var_epi64(low[j], second_half, high[j]);
        put(j, _mm512_castsi512_si256(first));
        put(j + 4, _mm512_extracti64x4_epi64::<1>(first));
        put(j + 8, _mm512_castsi512_si256(second));
        put(j + 12, _mm512_extracti64x4_epi64::<1>(second));
    }
}

/// Asks for the target's lines, so that they are there when the sums are.
#[inline(always)]
pub fn prefetch(target: Target, rows: usize) {
    for row in 0..rows {
        let place = target.data.wrapping_add(row * target.row_stride);
        for half in 0..2 {
            let line: *const i8 = place.wrapping_add(half * 16).cast();
            // SAFETY: a prefetch touches no memory, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line) };
        }
    }
}

/// Writes, or adds, the first `rows` and `columns` of 8 x 32 sums.
///
/// # Safety
/// `target` must cover rows and columns; the caller must be compiled for AVX-512.
// Not a function with a target feature, since those can't be forced to be inlined, and a
// call would carry sixteen vectors through memory.
#[inline(always)]
pub unsafe fn store(sums: [[__m512; 2]; ROWS], target: Target, rows: usize, columns: usize) {
    let masks = [first(columns), first(columns.saturating_sub(16))];
    for (row, sums) in sums.into_iter().enumerate() {
        if row >= rows {
            return;
        }
        for (half, mut sum) in sums.into_iter().enumerate() {
            let place = row * target.row_stride + half * 16;
            let to = target.data.wrapping_add(place);
            // SAFETY: masked lanes are not touched; the others lie inside the target.
            unsafe {
                if target.add {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(masks[half], to), sum);
                }
                _mm512_mask_storeu_ps(to, masks[half], sum);
            }
        }
    }
}
