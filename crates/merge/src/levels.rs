//! The two magnitudes that 2-bit values stand for: the best split of a chunk's magnitudes
//! in two bins, each sent as its mean (Lloyd's algorithm with two centres in one dimension,
//! started at the mean). What is sent in a bin then sums up to what was there.

use crate::bfloat;

/// A chunk's levels and the border between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Levels {
    /// bfloat16 of the lower and the upper level.
    pub bits: [u16; 2],
    /// Magnitudes above it are sent as the upper level.
    border: f32,
}

/// After this many rounds the split moves by a few weights at most.
const MOST_ROUNDS: usize = 10;

/// Sums in sixteen lanes, so that a compiler can use vectors without changing the order of
/// additions: the result is the same on every machine. Float32 is precise enough for sums
/// that end in three digits; magnitudes are bounded, so that none overflows.
const LANES: usize = 16;

impl Levels {
    /// The levels for these magnitudes: 1 to 4096 of them, none above
    /// [`bfloat::MAX_VALUE`].
    pub fn of(magnitudes: &[f32]) -> Self {
        let count = magnitudes.len() as u32;
        let (total, _) = above(magnitudes, -1.0);
        let mean = total / f64::from(count);
        let mut border = mean as f32;
        let mut means = (mean, mean);
        let mut last = 0;
        for _ in 0..MOST_ROUNDS {
            let (upper_sum, upper) = above(magnitudes, border);
            // All are alike, or the split has all but settled.
            if upper == 0 || upper == count || upper.abs_diff(last) <= count / 512 {
                break;
            }
            last = upper;
            means = (
                (total - upper_sum) / f64::from(count - upper),
                upper_sum / f64::from(upper),
            );
            border = ((means.0 + means.1) / 2.0) as f32;
        }
        // The sum below the border is a difference and may be a hair below zero.
        let low = bfloat::round((means.0 as f32).max(0.0), bfloat::MAX_LEVEL);
        let high = bfloat::round(means.1 as f32, bfloat::MAX_LEVEL).max(low);
        Self {
            bits: [low, high],
            border: (bfloat::widen(low) + bfloat::widen(high)) / 2.0,
        }
    }

    /// The value of each 2-bit code: bit 0 is the sign, bit 1 the level.
    pub fn table(&self) -> [f32; 4] {
        table(bfloat::widen(self.bits[0]), bfloat::widen(self.bits[1]))
    }

    /// The code of a value.
    pub fn code(&self, value: f32) -> u8 {
        u8::from(value.is_sign_negative()) | u8::from(value.abs() > self.border) << 1
    }
}

/// The value of each 2-bit code.
pub(crate) fn table(low: f32, high: f32) -> [f32; 4] {
    [low, -low, high, -high]
}

/// Sum and number of the magnitudes above a border.
fn above(magnitudes: &[f32], border: f32) -> (f64, u32) {
    let mut sums = [0f32; LANES];
    let mut counts = [0u32; LANES];
    let (blocks, rest) = magnitudes.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let inside = block[lane] > border;
            sums[lane] += if inside { block[lane] } else { 0.0 };
            counts[lane] += u32::from(inside);
        }
    }
    for (lane, &magnitude) in rest.iter().enumerate() {
        if magnitude > border {
            sums[lane] += magnitude;
            counts[lane] += 1;
        }
    }
    (
        sums.iter().map(|sum| f64::from(*sum)).sum(),
        counts.iter().sum(),
    )
}
