//! Products of bfloat16 on AMX, the matrix unit of Intel's servers since Sapphire Rapids:
//! tiles of 16 x 32 numbers are multiplied by tiles of 32 x 16 and added to 16 x 16 sums in
//! float32 by one instruction (Intel, *Architecture Instruction Set Extensions Programming
//! Reference*, 319433, chapter on TDPBF16PS). Four tiles of sums make 32 x 32 of a result.
//!
//! The compiler has no stable intrinsics for AMX, so tiles are reached in assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m512, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_si512,
};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::avx512::{self, first, prefetch, store, transpose};
use super::bfloat16::{self, word_of_lanes, words_of_lane};
use super::blocked::{COLUMNS, Kernel};
use super::{Factor, Sizes, Target, blocked};

pub struct AmxBfloat16;

/// Rows of a tile, and words in each of them.
const TILE: usize = 16;
/// Rows of a result: two tiles.
const ROWS: usize = 2 * TILE;

/// A tile configuration: eight tiles of sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether products run here: the processor has the instructions, the system lets this
/// process use them, and a product of small integers came out right.
pub fn works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let vectors = std::arch::is_x86_feature_detected!("avx512bf16");
        // SAFETY: all of them were just asked for, and allowed.
        vectors && processor_has_it() && allowed() && unsafe { adds_up() }
    })
}

fn processor_has_it() -> bool {
    // Leaf 7 is there on any processor with AVX-512. Bit 22 is AMX-BF16, bit 24 AMX-TILE.
    let flags = __cpuid_count(7, 0).edx;
    flags & (1 << 22) != 0 && flags & (1 << 24) != 0
}

/// Linux gives a process the room for tiles when it asks.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this call takes numbers alone, and changes how registers are kept alone.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    answer == 0
}

/// Other systems have not been tried.
#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

/// A product of small integers, which bfloat16 holds exactly, is right in every sum.
///
/// # Safety
/// The process must be allowed to use tiles.
unsafe fn adds_up() -> bool {
    const SIDE: usize = 40;
    let numbers = |seed: usize| -> Vec<f32> {
        let number = |place: usize| ((place * seed) % 17) as f32 - 8.0;
        (0..SIDE * SIDE).map(number).collect()
    };
    let (left, right) = (numbers(7), numbers(11));
    let mut found = vec![0.0f32; SIDE * SIDE];
    let target = Target {
        data: found.as_mut_ptr(),
        row_stride: SIDE,
        add: false,
    };
    let factor = |data: &[f32], lane_stride, inner_stride| Factor {
        data: data.as_ptr(),
        lane_stride,
        inner_stride,
    };
    let sizes = Sizes {
        rows: SIDE,
        columns: SIDE,
        inner: SIDE,
    };
    let (l, r) = (factor(&left, SIDE, 1), factor(&right, 1, SIDE));
    // SAFETY: factors and target have `SIDE` rows of `SIDE` numbers.
    unsafe { blocked::product::<AmxBfloat16>(target, l, r, sizes) };
    (0..SIDE * SIDE).all(|place| {
        let (row, column) = (place / SIDE, place % SIDE);
        let term = |k: usize| left[row * SIDE + k] * right[k * SIDE + column];
        found[place] == (0..SIDE).map(term).sum::<f32>()
    })
}

impl Kernel for AmxBfloat16 {
    const TERMS: usize = 2;
    const STEP: usize = TILE;
    const ROWS: usize = ROWS;
    const PANEL_ROWS: usize = ROWS;

    /// One step after the other, each `ROWS` rows of sixteen words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pack_left(to: *mut u32, from: Factor, rows: usize, inner: usize) {
        // SAFETY: masks keep every load inside the factor, and `to` has whole steps.
        unsafe {
            for term in (0..inner).step_by(2 * TILE) {
                let step = to.add(term / 2 * ROWS);
                if from.lane_stride == 1 {
                    for (row, word) in (0..ROWS).step_by(TILE).flat_map(|r| [(r, 0), (r, 8)]) {
                        let mask = first(rows.saturating_sub(row));
                        let lanes = std::array::from_fn(|place| {
                            let term = term + 2 * (word + place);
                            if term >= inner {
                                return _mm512_setzero_si512();
                            }
                            let place = from.data.wrapping_add(term * from.inner_stride + row);
                            let next = place.wrapping_add(from.inner_stride);
                            word_of_lanes(place, (term + 1 < inner).then_some(next), mask)
                        });
                        transpose(lanes, step.add(row * TILE + word), TILE, TILE);
                    }
                } else {
                    for row in 0..ROWS {
                        let words = if row < rows {
                            let place = from.data.add(row * from.lane_stride + term);
                            words_of_lane(place, inner - term)
                        } else {
                            _mm512_setzero_si512()
                        };
                        _mm512_storeu_si512(step.add(row * TILE).cast(), words);
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn pack_right(to: *mut u32, from: Factor, columns: usize, inner: usize) {
        let words = inner.div_ceil(2);
        // SAFETY: the caller vouches for the factor, and for room for whole steps.
        unsafe {
            bfloat16::pack::<COLUMNS>(to, from, columns, inner);
            for word in words..words.next_multiple_of(TILE) {
                to.add(word * COLUMNS).write_bytes(0, COLUMNS);
            }
        }
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
        let mut sums = MaybeUninit::<[__m512; 2 * ROWS]>::uninit();
        for part in (0..rows).step_by(avx512::ROWS) {
            let data = target.data.wrapping_add(part * target.row_stride);
            prefetch(Target { data, ..target }, avx512::ROWS.min(rows - part));
        }
        // SAFETY: both panels hold whole steps of words; tiles are configured between
        // `begin` and `end`; what is written are 32 rows of 128 bytes, `sums` whole.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{left} + {narrow}]",
                "tileloadd tmm6, [{right} + {wide}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {wide} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left} + {narrow} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2048",
                "add {right}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {wide}], tmm0",
                "tilestored [{sums} + {wide} + 64], tmm1",
                "tilestored [{sums} + {wide} + 2048], tmm2",
                "tilestored [{sums} + {wide} + 2112], tmm3",
                left = inout(reg) left => _,
                right = inout(reg) right => _,
                steps = inout(reg) words / TILE => _,
                sums = in(reg) sums.as_mut_ptr(),
                narrow = in(reg) 4 * TILE,
                wide = in(reg) 4 * COLUMNS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
            let sums = sums.as_ptr().cast::<f32>();
            for part in (0..rows).step_by(avx512::ROWS) {
                let mut eight = [[_mm512_setzero_ps(); 2]; avx512::ROWS];
                for (row, halves) in eight.iter_mut().enumerate() {
                    let from = sums.add((part + row) * COLUMNS);
                    *halves = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))];
                }
                let data = target.data.wrapping_add(part * target.row_stride);
                let target = Target { data, ..target };
                store(eight, target, avx512::ROWS.min(rows - part), columns);
            }
        }
    }

    unsafe fn begin() {
        // SAFETY: the caller vouches for the instructions; the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack)) };
    }

    unsafe fn end() {
        // SAFETY: the caller vouches for the instructions.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    /// The two terms of a word.
    fn terms(word: u32) -> [f32; 2] {
        [
            f32::from_bits(word << 16),
            f32::from_bits(word & 0xffff_0000),
        ]
    }

    /// What the tile instructions make of packed panels, in plain arithmetic: rows of the left
    /// one lie in steps of sixteen words, rows of the right one are words.
    fn product(left: &[u32], right: &[u32], words: usize) -> Vec<f32> {
        let sum = |row: usize, column: usize| -> f32 {
            let word = |word: usize| {
                let place = word / TILE * ROWS * TILE + row * TILE + word % TILE;
                let (l, r) = (terms(left[place]), terms(right[word * COLUMNS + column]));
                l[0] * r[0] + l[1] * r[1]
            };
            (0..words).map(word).sum()
        };
        (0..ROWS * COLUMNS)
            .map(|place| sum(place / COLUMNS, place % COLUMNS))
            .collect()
    }

    #[test]
    fn panels_are_packed_as_tiles_are_read_in_all_layouts() {
        if !std::arch::is_x86_feature_detected!("avx512bf16") {
            eprintln!("not checked: this processor can't pack bfloat16");
            return;
        }
        for (rows, columns, inner) in [(32, 32, 32), (1, 1, 1), (17, 5, 33), (31, 30, 95)] {
            let (a, b) = (numbers(rows * inner, 0.7), numbers(columns * inner, 0.3));
            let words = inner.div_ceil(2).next_multiple_of(TILE);
            for (left_turned, right_turned) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                // Each factor by lanes, or by terms.
                let factor = |data: &[f32], lanes: usize, turned: bool| Factor {
                    data: data.as_ptr(),
                    lane_stride: if turned { 1 } else { inner },
                    inner_stride: if turned { lanes } else { 1 },
                };
                let at = |lane: usize, term: usize, lanes: usize, turned: bool| match turned {
                    true => term * lanes + lane,
                    false => lane * inner + term,
                };
                // Old numbers, so that what is left unwritten shows.
                let mut left = vec![0x4640_4640; ROWS * words];
                let mut right = vec![0x4640_4640; COLUMNS * words];
                // SAFETY: factors and panels are as large as they say; the processor was asked.
                unsafe {
                    let from = factor(&a, rows, left_turned);
                    AmxBfloat16::pack_left(left.as_mut_ptr(), from, rows, inner);
                    let from = factor(&b, columns, right_turned);
                    AmxBfloat16::pack_right(right.as_mut_ptr(), from, columns, inner);
                }
                let found = product(&left, &right, words);
                for (place, found) in found.into_iter().enumerate() {
                    let (row, column) = (place / COLUMNS, place % COLUMNS);
                    let expected: f32 = match row < rows && column < columns {
                        true => (0..inner)
                            .map(|term| {
                                a[at(row, term, rows, left_turned)]
                                    * b[at(column, term, columns, right_turned)]
                            })
                            .sum(),
                        false => 0.0,
                    };
                    let tolerance = 8e-3 * inner as f32;
                    assert!(
                        (found - expected).abs() <= tolerance * f32::from(u8::from(row < rows)),
                        "{rows} x {columns} x {inner}, {row}, {column}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn where_processor_and_system_have_tiles_they_are_used() {
        let vectors = std::arch::is_x86_feature_detected!("avx512bf16");
        let has = vectors && processor_has_it();
        eprintln!(
            "tiles: the processor has them: {has}; they work: {}",
            works()
        );
        assert_eq!(works(), has && allowed());
    }
}
