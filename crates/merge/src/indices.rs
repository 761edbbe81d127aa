//! Rising indices of a chunk as bits: plainly with 12 bits each, or as gaps in Rice's code,
//! whichever is shorter for the chunk. For 64 of 4096 the gaps need about 7.5 bits each and
//! for 512 of 4096 about 4.5, where 12 would be spent.
//!
//! Bits are filled from the lowest of each byte upwards. A decoder never trusts a count
//! that it did not check, reads nothing beyond the bytes it was given, and refuses an index
//! that is out of range; that indices written as gaps rise needs no check.

use crate::{CHUNK, DecodeError};

/// Tag of indices written with 12 bits each. Smaller tags are the parameter of Rice's code.
pub(crate) const PLAIN: u8 = 12;

/// Bits of a window that count, wherever in a byte it starts.
const WINDOW_BITS: usize = 57;

/// Bits of an index, and more than those of any remainder.
const CHUNK_BITS: usize = 12;

/// Tag of a chunk that sends nothing.
pub(crate) const NOTHING: u8 = 15;

/// Appends the indices in the shorter way and returns its tag.
pub(crate) fn write(indices: &[u16], bytes: &mut Vec<u8>) -> u8 {
    let tag = shortest(indices);
    write_as(tag, indices, bytes);
    tag
}

/// Appends the indices in this way.
fn write_as(tag: u8, indices: &[u16], bytes: &mut Vec<u8>) {
    let mut bits = BitWriter {
        bytes,
        pending: 0,
        count: 0,
    };
    if tag == PLAIN {
        for &index in indices {
            bits.push(u64::from(index), 12);
        }
    } else {
        let mut next = 0;
        for &index in indices {
            let gap = u64::from(index - next);
            let mut quotient = (gap >> tag) as u32;
            while quotient >= 16 {
                bits.push(0, 16);
                quotient -= 16;
            }
            let remainder = gap & ((1 << tag) - 1);
            bits.push(
                (remainder << 1 | 1) << quotient,
                quotient + 1 + u32::from(tag),
            );
            next = index + 1;
        }
    }
    bits.finish();
}

/// The way that takes fewest bits.
fn shortest(indices: &[u16]) -> u8 {
    let Some(&last) = indices.last() else {
        return PLAIN;
    };
    let count = indices.len();
    // Near the mean gap times ln 2 is the best parameter for gaps of independent choices;
    // its neighbours are tried too, as large weights come in clusters.
    let mean = (usize::from(last) + 1 - count) / count;
    let middle = (mean + 1).ilog2() as u8;
    let mut best = (12 * count, PLAIN);
    for tag in middle.saturating_sub(1)..=(middle + 1).min(PLAIN - 1) {
        let mut quotients = usize::from(indices[0] >> tag);
        for pair in indices.windows(2) {
            quotients += usize::from((pair[1] - pair[0] - 1) >> tag);
        }
        best = best.min((quotients + count * (1 + usize::from(tag)), tag));
    }
    best.1
}

/// Reads as many indices as `indices` has room for from the start of `bytes`, all below
/// `len`; returns how many bytes they took.
pub(crate) fn read(
    bytes: &[u8],
    tag: u8,
    len: usize,
    chunk: usize,
    indices: &mut [u16],
) -> Result<usize, DecodeError> {
    let mut bits = BitReader { bytes, position: 0 };
    let too_short = || DecodeError::TooShort {
        needed: bytes.len() + 1,
        got: bytes.len(),
    };
    if tag == PLAIN {
        let mut next = 0;
        for slot in indices.iter_mut() {
            let index = (bits.window() & 0xFFF) as usize;
            bits.position += 12;
            if index < next {
                return Err(DecodeError::IndexOrder { chunk });
            }
            if index >= len {
                return Err(DecodeError::IndexRange { chunk, len });
            }
            *slot = index as u16;
            next = index + 1;
        }
    } else {
        if tag > PLAIN {
            return Err(DecodeError::Tag { chunk, tag });
        }
        let (tag, mask) = (usize::from(tag), (1u64 << tag) - 1);
        let mut next = 0;
        // Several codes are taken from one window before the next is loaded.
        let (mut window, mut left) = (0u64, 0);
        for slot in indices.iter_mut() {
            let mut zeros = window.trailing_zeros() as usize;
            if zeros + 1 + tag > left {
                (window, left) = (bits.window(), WINDOW_BITS);
                zeros = window.trailing_zeros() as usize;
            }
            let mut quotient = 0;
            while zeros + 1 + tag > left {
                // Rare: a long run of zeros. Take a part of it and look again.
                let part = zeros.min(WINDOW_BITS - CHUNK_BITS - 1);
                quotient += part;
                bits.position += part;
                if bits.position > 8 * bytes.len() {
                    return Err(too_short());
                }
                if quotient << tag >= CHUNK {
                    return Err(DecodeError::IndexRange { chunk, len });
                }
                window = bits.window();
                zeros = window.trailing_zeros() as usize;
            }
            quotient += zeros;
            let index = next + (quotient << tag | (window >> zeros >> 1 & mask) as usize);
            let taken = zeros + 1 + tag;
            bits.position += taken;
            window >>= taken;
            left -= taken;
            if index >= len {
                return Err(DecodeError::IndexRange { chunk, len });
            }
            *slot = index as u16;
            next = index + 1;
        }
    }
    let used = bits.position.div_ceil(8);
    if used > bytes.len() {
        return Err(too_short());
    }
    if !bits.position.is_multiple_of(8) && bytes[used - 1] >> (bits.position % 8) != 0 {
        return Err(DecodeError::Padding { chunk });
    }
    Ok(used)
}

/// Fills bytes from the lowest bit upwards.
struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u64,
    count: u32,
}

impl BitWriter<'_> {
    /// Appends the lowest `count` bits, at most 32; the others must be zero.
    fn push(&mut self, bits: u64, count: u32) {
        self.pending |= bits << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes
                .extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.count -= 32;
        }
    }

    /// Writes what is pending, the last byte filled up with zeros.
    fn finish(self) {
        let used = self.count.div_ceil(8) as usize;
        self.bytes
            .extend_from_slice(&self.pending.to_le_bytes()[..used]);
    }
}

/// Reads bits from anywhere; beyond the end there are zeros.
struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl BitReader<'_> {
    /// The next bits, at least 57 of them, the next one lowest.
    fn window(&self) -> u64 {
        let from = self.position / 8;
        let word = match self.bytes.get(from..from + 8) {
            Some(word) => u64::from_le_bytes(word.try_into().unwrap_or_default()),
            None => {
                let mut word = [0; 8];
                let rest = self.bytes.get(from..).unwrap_or_default();
                word[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(word)
            }
        };
        word >> (self.position % 8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(indices: &[u16]) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        (write(indices, &mut bytes), bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_written_is_read_and_never_longer_than_12_bits_each(
            set in proptest::collection::btree_set(0u16..CHUNK as u16, 1..=CHUNK),
            spread in 1u16..50,
        ) {
            // Dense sets, and thin ones at the low end.
            for indices in [
                set.iter().copied().collect::<Vec<_>>(),
                set.iter().copied().filter(|index| index % spread == 0).collect(),
                set.iter().copied().take(1 + usize::from(spread)).collect(),
            ] {
                let (tag, mut bytes) = written(&indices);
                prop_assert!(bytes.len() <= (12 * indices.len()).div_ceil(8));
                let used = bytes.len();
                bytes.extend([0xFF; 9]);
                let mut read_back = vec![0; indices.len()];
                prop_assert_eq!(read(&bytes, tag, CHUNK, 0, &mut read_back), Ok(used));
                prop_assert_eq!(read_back, indices);
            }
        }

        #[test]
        fn every_way_of_writing_is_read(
            set in proptest::collection::btree_set(0u16..CHUNK as u16, 1..200), tag in 0u8..=PLAIN,
        ) {
            let indices: Vec<u16> = set.into_iter().collect();
            let mut bytes = Vec::new();
            write_as(tag, &indices, &mut bytes);
            let mut read_back = vec![0; indices.len()];
            prop_assert_eq!(read(&bytes, tag, CHUNK, 0, &mut read_back), Ok(bytes.len()));
            prop_assert_eq!(read_back, indices);
        }

        #[test]
        fn noise_is_refused_or_read_as_rising_indices(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            tag in 0u8..16, len in 1usize..=CHUNK, count in 1usize..300,
        ) {
            let mut indices = vec![0; count];
            if let Ok(used) = read(&bytes, tag, len, 0, &mut indices) {
                prop_assert!(used <= bytes.len());
                prop_assert!(indices.is_sorted_by(|a, b| a < b));
                prop_assert!(indices.iter().all(|&index| usize::from(index) < len));
            }
        }
    }

    #[test]
    fn the_example_of_the_format_document_is_what_is_written() {
        let mut bytes = Vec::new();
        write_as(2, &[5, 6, 16, 20], &mut bytes);
        assert_eq!(bytes, [0x16, 0x76]);
    }

    #[test]
    fn gaps_cost_what_the_decision_says() {
        // Every 64th, 32nd, 16th, 8th weight, somewhere in its stretch.
        for (step, bits) in [(64, 8.1), (32, 7.1), (16, 6.1), (8, 5.1)] {
            let mut draw = 7u32;
            let indices: Vec<u16> = (0..CHUNK as u32 / step)
                .map(|part| {
                    draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (part * step + (draw >> 16) % step) as u16
                })
                .collect();
            let spent = 8.0 * written(&indices).1.len() as f64 / indices.len() as f64;
            assert!(spent < bits, "{spent} bits for one of {step}");
        }
    }
}
