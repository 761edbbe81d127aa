//! Which weights of a chunk are kept: the `k` of largest magnitude, the lower index first
//! where magnitudes are equal, zeros never.
//!
//! Magnitudes of floats are ordered like their bits without the sign, so selection is done
//! on integers and is exact. Neighbouring chunks of a tensor have nearly the same smallest
//! kept magnitude: a guess from the last chunk leaves a few candidates in one pass, and the
//! exact choice is made among those. A guess that was too high falls back to a histogram.
//! The guess decides how long it takes, never what is kept.

use crate::CHUNK;

/// Scratch space and the guess.
pub(crate) struct Selector {
    /// Candidates as magnitude and 4095 − index in one integer: the order of preference.
    candidates: Box<[u64; CHUNK]>,
    /// A copy to find the smallest kept one in.
    scratch: Box<[u64; CHUNK]>,
    /// Chosen indices, rising.
    chosen: Box<[u16; CHUNK]>,
    /// Magnitude bits above which the last chunk's candidates were looked for.
    guess: i32,
}

/// Histogram bins: exponent and three bits of the fraction.
const BINS: usize = 2048;

/// Weights that are tested together.
const BLOCK: usize = 16;

impl Selector {
    pub fn new() -> Self {
        Self {
            candidates: Box::new([0; CHUNK]),
            scratch: Box::new([0; CHUNK]),
            chosen: Box::new([0; CHUNK]),
            guess: i32::MAX,
        }
    }

    /// Indices of the kept weights of a chunk, rising; all values must be finite.
    pub fn select(&mut self, values: &[f32], k: usize) -> &[u16] {
        let mut found = self.collect(values, self.guess.max(1));
        if found < k && self.guess > 1 {
            let floor = lowest_bin_of_top(values, k);
            found = self.collect(values, floor.max(1));
        }
        let candidates = &self.candidates[..found];
        let least = if found <= k {
            0
        } else {
            let scratch = &mut self.scratch[..found];
            scratch.copy_from_slice(candidates);
            *scratch.select_nth_unstable(found - k).1
        };
        // Written without a branch that nobody could predict: what is not kept is written
        // over by the next.
        let mut kept = 0;
        for &candidate in candidates {
            self.chosen[kept.min(CHUNK - 1)] = (CHUNK - 1) as u16 - (candidate & 0xFFF) as u16;
            kept += usize::from(candidate >= least);
        }
        // Aim a little lower next time: a tenth in magnitude, a few dozen more candidates.
        let least = f32::from_bits((least >> 12) as u32) * 0.9;
        self.guess = least.to_bits() as i32;
        &self.chosen[..kept]
    }

    /// Collects every weight whose magnitude bits are at least `floor`.
    fn collect(&mut self, values: &[f32], floor: i32) -> usize {
        let mut found = 0;
        let mut add = |index: usize, value: f32| {
            let key = magnitude(value);
            self.candidates[found & (CHUNK - 1)] = (key as u64) << 12 | (CHUNK - 1 - index) as u64;
            found += usize::from(key >= floor);
        };
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        for (number, block) in blocks.iter().enumerate() {
            // Where few are kept most blocks hold no candidate; this test is a few vector
            // instructions.
            let any = block
                .iter()
                .fold(false, |any, value| any | (magnitude(*value) >= floor));
            if any {
                for (offset, value) in block.iter().enumerate() {
                    add(number * BLOCK + offset, *value);
                }
            }
        }
        for (offset, value) in rest.iter().enumerate() {
            add(blocks.len() * BLOCK + offset, *value);
        }
        found
    }
}

/// The bits of a float without its sign: ordered like its magnitude. Signed, because that
/// is the comparison for which every processor has a vector instruction.
fn magnitude(value: f32) -> i32 {
    (value.to_bits() & 0x7FFF_FFFF) as i32
}

/// Lower edge of the highest histogram bin such that `k` weights are in it or above; 0 if
/// there are fewer.
fn lowest_bin_of_top(values: &[f32], k: usize) -> i32 {
    let mut bins = [0u16; BINS];
    for value in values {
        bins[(magnitude(*value) >> 20) as usize] += 1;
    }
    let mut above = 0usize;
    for bin in (0..BINS).rev() {
        above += usize::from(bins[bin]);
        if above >= k {
            return (bin as i32) << 20;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by sorting.
    fn by_sorting(values: &[f32], k: usize) -> Vec<u16> {
        let mut order: Vec<u16> = (0..values.len() as u16).collect();
        let magnitude = |index: &u16| values[usize::from(*index)].abs();
        order.retain(|index| magnitude(index) > 0.0);
        order.sort_by(|a, b| magnitude(b).total_cmp(&magnitude(a)).then(a.cmp(b)));
        order.truncate(k);
        order.sort_unstable();
        order
    }

    fn any_chunk() -> impl Strategy<Value = Vec<f32>> {
        let wide = any::<f32>().prop_filter("finite", |value| value.is_finite());
        let few_different = prop_oneof![Just(0.0f32), Just(1.0), Just(-1.0), Just(2.0)];
        let value = prop_oneof![4 => -1f32..1.0, 1 => wide, 1 => few_different];
        proptest::collection::vec(value, 1..=CHUNK)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_guess_of_the_last_chunk_never_changes_what_is_kept(
            chunks in proptest::collection::vec(any_chunk(), 1..5),
            scales in proptest::collection::vec(-20i32..20, 5),
            k in 1usize..=CHUNK,
        ) {
            let mut selector = Selector::new();
            for (chunk, scale) in chunks.iter().zip(scales) {
                let factor = 2f32.powi(scale);
                let values: Vec<f32> =
                    chunk.iter().map(|value| (value * factor).clamp(f32::MIN, f32::MAX)).collect();
                let k = k.min(values.len());
                prop_assert_eq!(selector.select(&values, k), by_sorting(&values, k));
            }
        }
    }

    #[test]
    fn of_equal_magnitudes_the_first_are_kept() {
        let mut values = vec![0.5f32; CHUNK];
        values[4000] = -1.0;
        let kept: Vec<u16> = (0..63).chain([4000]).collect();
        assert_eq!(Selector::new().select(&values, 64), kept);
    }
}
