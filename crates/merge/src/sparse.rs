//! The record of a chunk in which the weights of largest magnitude are sent:
//!
//! head (u16: tag in the upper 4 bits, number of weights minus 1 in the lower 12),
//! lower and upper level (bfloat16 each), 2-bit values, indices.

use crate::levels::{Levels, table};
use crate::select::Selector;
use crate::{CHUNK, DecodeError, bfloat, indices};

/// Head of a chunk that sends nothing: it has neither levels nor values nor indices.
const EMPTY: u16 = (indices::NOTHING as u16) << 12;

/// Compresses chunks one after the other.
pub(crate) struct Encoder {
    selector: Selector,
    magnitudes: Vec<f32>,
}

impl Encoder {
    pub fn new() -> Self {
        Self {
            selector: Selector::new(),
            magnitudes: Vec::with_capacity(CHUNK),
        }
    }

    /// Appends the record of a chunk and leaves in `values` what it does not send.
    pub fn encode(&mut self, k: usize, values: &mut [f32], bytes: &mut Vec<u8>) {
        let chosen = self.selector.select(values, k.min(values.len()));
        if chosen.is_empty() {
            bytes.extend_from_slice(&EMPTY.to_le_bytes());
            return;
        }
        self.magnitudes.clear();
        self.magnitudes.extend(chosen.iter().map(|&index| {
            let magnitude = values[usize::from(index)].abs();
            magnitude.min(bfloat::MAX_VALUE)
        }));
        let levels = Levels::of(&self.magnitudes);

        let start = bytes.len();
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&levels.bits[0].to_le_bytes());
        bytes.extend_from_slice(&levels.bits[1].to_le_bytes());
        let table = levels.table();
        for four in chosen.chunks(4) {
            let mut byte = 0;
            for (place, &index) in four.iter().enumerate() {
                let value = &mut values[usize::from(index)];
                let code = levels.code(*value);
                *value -= table[usize::from(code)];
                byte |= code << (2 * place);
            }
            bytes.push(byte);
        }
        let tag = indices::write(chosen, bytes);
        let head = u16::from(tag) << 12 | (chosen.len() - 1) as u16;
        bytes[start..start + 2].copy_from_slice(&head.to_le_bytes());
    }
}

/// A record that was read and checked.
pub(crate) struct Record<'a> {
    /// How many weights it sends.
    pub count: usize,
    /// The value of each code.
    pub table: [f32; 4],
    codes: &'a [u8],
    /// Bytes of the record.
    pub bytes: usize,
}

impl<'a> Record<'a> {
    /// Reads a record from the start of `bytes`; the indices go to `chosen`.
    pub fn read(
        bytes: &'a [u8],
        k: usize,
        len: usize,
        chunk: usize,
        chosen: &mut [u16; CHUNK],
    ) -> Result<Self, DecodeError> {
        let too_short = |needed| DecodeError::TooShort {
            needed,
            got: bytes.len(),
        };
        let Some((head, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(too_short(2));
        };
        let head = u16::from_le_bytes(*head);
        if head == EMPTY {
            return Ok(Self {
                count: 0,
                table: [0.0; 4],
                codes: &[],
                bytes: 2,
            });
        }
        let tag = (head >> 12) as u8;
        let count = usize::from(head & 0xFFF) + 1;
        let limit = k.min(len);
        if tag > indices::PLAIN {
            return Err(DecodeError::Tag { chunk, tag });
        }
        if count > limit {
            return Err(DecodeError::Count {
                chunk,
                found: count,
                limit,
            });
        }
        let Some((scales, rest)) = rest.split_first_chunk::<4>() else {
            return Err(too_short(6));
        };
        let [Some(low), Some(high)] = [[scales[0], scales[1]], [scales[2], scales[3]]]
            .map(|scale| bfloat::read_scale(scale, bfloat::MAX_LEVEL))
        else {
            return Err(DecodeError::Scale { chunk });
        };
        if low > high {
            return Err(DecodeError::Scale { chunk });
        }
        let Some((codes, rest)) = rest.split_at_checked(count.div_ceil(4)) else {
            return Err(too_short(6 + count.div_ceil(4)));
        };
        check_code_padding(codes, count, chunk)?;
        let before = bytes.len() - rest.len();
        let used =
            indices::read(rest, tag, len, chunk, &mut chosen[..count]).map_err(
                |error| match error {
                    DecodeError::TooShort { needed, .. } => too_short(before + needed),
                    other => other,
                },
            )?;
        Ok(Self {
            count,
            table: table(low, high),
            codes,
            bytes: before + used,
        })
    }

    /// Calls `apply` with every weight sent and its value, in the order of indices.
    pub fn for_each<T>(
        &self,
        chosen: &[u16; CHUNK],
        target: &mut [T],
        mut apply: impl FnMut(&mut T, f32),
    ) {
        for (four, &byte) in chosen[..self.count].chunks(4).zip(self.codes) {
            for (place, &index) in four.iter().enumerate() {
                if let Some(slot) = target.get_mut(usize::from(index)) {
                    apply(slot, self.table[usize::from(byte >> (2 * place) & 3)]);
                }
            }
        }
    }

    /// Sum of the squares of what it sends.
    pub fn square_sum(&self) -> f64 {
        let mut upper = 0;
        for &byte in self.codes {
            upper += (byte & 0xAA).count_ones();
        }
        square(self.table[0]) * (self.count as f64 - f64::from(upper))
            + square(self.table[2]) * f64::from(upper)
    }
}

/// Refuses set bits behind the last of `count` codes.
pub(crate) fn check_code_padding(
    codes: &[u8],
    count: usize,
    chunk: usize,
) -> Result<(), DecodeError> {
    match codes.last() {
        Some(last) if !count.is_multiple_of(4) && last >> (2 * (count % 4)) != 0 => {
            Err(DecodeError::Padding { chunk })
        }
        _ => Ok(()),
    }
}

/// The square, exact for a value with a short fraction.
pub(crate) fn square(value: f32) -> f64 {
    f64::from(value) * f64::from(value)
}
