//! The records of chunks in which every weight is sent: a scale (bfloat16) and integers of
//! 8 or 4 bits; two levels and 2-bit values; or plain float32.

use crate::levels::{Levels, table};
use crate::sparse::{check_code_padding, square};
use crate::{CHUNK, Codec, DecodeError, bfloat};

/// Scales below this are sent as zero: their reciprocal would overflow.
const LEAST_SCALE: f32 = 7.888_609e-31; // 2^-100

/// Appends the record of a chunk and leaves in `values` what it does not send.
pub(crate) fn encode(codec: Codec, values: &mut [f32], bytes: &mut Vec<u8>) {
    match codec {
        Codec::Int8 => {
            let scale = usable(largest(values) / 127.0, bfloat::MAX_SCALE_8);
            bytes.extend_from_slice(&scale.to_le_bytes());
            let quantise = Quantise::new(bfloat::widen(scale), 127.0);
            bytes.extend(values.iter_mut().map(|value| quantise.take(value) as u8));
        }
        Codec::Int4 => {
            let scale = usable(scale_of_least_error(values, 7.0), bfloat::MAX_SCALE_4);
            bytes.extend_from_slice(&scale.to_le_bytes());
            let quantise = Quantise::new(bfloat::widen(scale), 7.0);
            bytes.extend(values.chunks_mut(2).map(|pair| {
                let first = quantise.take(&mut pair[0]) as u8 & 0xF;
                let second = pair
                    .get_mut(1)
                    .map_or(0, |value| quantise.take(value) as u8);
                first | second << 4
            }));
        }
        Codec::Float32 => {
            let start = bytes.len();
            bytes.resize(start + 4 * values.len(), 0);
            for (four, value) in bytes[start..].as_chunks_mut::<4>().0.iter_mut().zip(values) {
                // What is beyond the limit stays; it can only be a mistake.
                let sent = value.clamp(-bfloat::MAX_VALUE, bfloat::MAX_VALUE);
                *value -= sent;
                *four = sent.to_le_bytes();
            }
        }
        Codec::Int2 | Codec::Sparse { .. } => encode_levels(values, bytes),
    }
}

/// Two levels for all weights of the chunk.
fn encode_levels(values: &mut [f32], bytes: &mut Vec<u8>) {
    let mut magnitudes = [0f32; CHUNK];
    for (magnitude, value) in magnitudes.iter_mut().zip(&*values) {
        *magnitude = value.abs().min(bfloat::MAX_VALUE);
    }
    let levels = Levels::of(&magnitudes[..values.len()]);
    bytes.extend_from_slice(&levels.bits[0].to_le_bytes());
    bytes.extend_from_slice(&levels.bits[1].to_le_bytes());
    let table = levels.table();
    bytes.extend(values.chunks_mut(4).map(|four| {
        let mut byte = 0;
        for (place, value) in four.iter_mut().enumerate() {
            let code = levels.code(*value);
            *value -= table[usize::from(code)];
            byte |= code << (2 * place);
        }
        byte
    }));
}

/// The nearest bfloat16 that the format allows, zero for what is too small to divide by.
fn usable(scale: f32, max: u16) -> u16 {
    if scale < LEAST_SCALE {
        0
    } else {
        bfloat::round(scale, max)
    }
}

/// Turns values into the nearest integers (ties to even) over a scale.
struct Quantise {
    scale: f32,
    reciprocal: f32,
    most: f32,
}

impl Quantise {
    /// Integers of at most `most` in magnitude.
    fn new(scale: f32, most: f32) -> Self {
        let reciprocal = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        Self {
            scale,
            reciprocal,
            most,
        }
    }

    /// The integer for a value, which keeps the rest.
    fn take(&self, value: &mut f32) -> i8 {
        let code = nearest(*value * self.reciprocal, self.most);
        *value -= code * self.scale;
        code as i8
    }
}

/// Rounds to the nearest integer, ties to even, by pushing the fraction out of the
/// significand: three plain instructions where the library's function is a call.
fn nearest(value: f32, most: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23
    (value.clamp(-most, most) + SHIFT) - SHIFT
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    for block in values.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(block) {
            let magnitude = value.abs();
            *lane = if magnitude > *lane { magnitude } else { *lane };
        }
    }
    lanes.into_iter().fold(0.0, f32::max)
}

/// A scale with a small squared error: starts where a bell curve's is (0.35 standard
/// deviations for 15 levels), or where nothing is cut off if that is finer, then twice
/// picks the codes for the scale and the best scale for the codes, which never makes the
/// error larger. The largest magnitude alone as a measure wastes most of 15 levels.
fn scale_of_least_error(values: &[f32], most: f32) -> f32 {
    let largest = largest(values);
    if largest / most < LEAST_SCALE {
        return 0.0;
    }
    // Numbers relative to the largest and to the scale are moderate: their squares neither
    // overflow nor vanish in float32.
    let relative = 1.0 / largest;
    let (squares, _) = sums(values, |value| {
        let value = value * relative;
        (value * value, 0.0)
    });
    let deviation = largest * (squares / values.len() as f64).sqrt() as f32;
    let mut scale = (largest / most).min(0.35 * deviation);
    for _ in 0..2 {
        if scale < LEAST_SCALE {
            return 0.0;
        }
        let reciprocal = 1.0 / scale;
        let (products, code_squares) = sums(values, |value| {
            let value = value * reciprocal;
            let code = nearest(value, most);
            (value * code, code * code)
        });
        if code_squares == 0.0 {
            break;
        }
        scale *= (products / code_squares) as f32;
    }
    scale
}

/// Lanes of sums: vectors for the compiler, one order of additions on every machine.
const LANES: usize = 16;

/// Two sums over a chunk.
fn sums(values: &[f32], term: impl Fn(f32) -> (f32, f32)) -> (f64, f64) {
    let mut first = [0f32; LANES];
    let mut second = [0f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let terms = term(block[lane]);
            first[lane] += terms.0;
            second[lane] += terms.1;
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let terms = term(*value);
        first[lane] += terms.0;
        second[lane] += terms.1;
    }
    let sum = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum();
    (sum(first), sum(second))
}

/// A record of a dense codec, checked.
pub(crate) enum Record<'a> {
    Int8(f32, &'a [u8]),
    Int4(f32, &'a [u8]),
    Int2([f32; 4], &'a [u8]),
    Float32(&'a [[u8; 4]]),
}

impl<'a> Record<'a> {
    /// Reads the record of a chunk of `len` weights; `bytes` is exactly the record.
    /// `check` false leaves out what was checked before.
    pub fn read(
        codec: Codec,
        bytes: &'a [u8],
        len: usize,
        chunk: usize,
        check: bool,
    ) -> Result<Self, DecodeError> {
        let scale = |at: usize, max| {
            bytes
                .get(at..at + 2)
                .and_then(|scale| bfloat::read_scale([scale[0], scale[1]], max))
                .ok_or(DecodeError::Scale { chunk })
        };
        match codec {
            Codec::Int8 => {
                let (scale, codes) = (scale(0, bfloat::MAX_SCALE_8)?, &bytes[2..]);
                if check && codes.contains(&0x80) {
                    return Err(DecodeError::Value { chunk });
                }
                Ok(Self::Int8(scale, codes))
            }
            Codec::Int4 => {
                let (scale, codes) = (scale(0, bfloat::MAX_SCALE_4)?, &bytes[2..]);
                let refused = |code: u8| code & 0xF == 8 || code >> 4 == 8;
                if check && codes.iter().fold(false, |any, &code| any | refused(code)) {
                    return Err(DecodeError::Value { chunk });
                }
                if check && len % 2 == 1 && codes.last().is_some_and(|last| last >> 4 != 0) {
                    return Err(DecodeError::Padding { chunk });
                }
                Ok(Self::Int4(scale, codes))
            }
            Codec::Float32 => {
                let values = bytes.as_chunks::<4>().0;
                let refused = |&bytes| {
                    let magnitude = u32::from_le_bytes(bytes) & 0x7FFF_FFFF;
                    magnitude > bfloat::MAX_VALUE.to_bits()
                };
                if check && values.iter().fold(false, |any, value| any | refused(value)) {
                    return Err(DecodeError::Value { chunk });
                }
                Ok(Self::Float32(values))
            }
            Codec::Int2 | Codec::Sparse { .. } => {
                let (low, high) = (scale(0, bfloat::MAX_LEVEL)?, scale(2, bfloat::MAX_LEVEL)?);
                if low > high {
                    return Err(DecodeError::Scale { chunk });
                }
                let codes = &bytes[4..];
                check_code_padding(codes, len, chunk)?;
                Ok(Self::Int2(table(low, high), codes))
            }
        }
    }

    /// Calls `apply` with every weight and its value, in order.
    pub fn for_each<T>(&self, target: &mut [T], mut apply: impl FnMut(&mut T, f32)) {
        match *self {
            Self::Int8(scale, codes) => {
                for (slot, &code) in target.iter_mut().zip(codes) {
                    apply(slot, f32::from(code as i8) * scale);
                }
            }
            // A table of what each byte stands for: loads instead of shifts and selections.
            Self::Int4(scale, codes) => {
                // Shifting up and down again carries the sign of a 4-bit number.
                let value = |code: u8| f32::from((code << 4) as i8 >> 4) * scale;
                let pairs: [[f32; 2]; 256] =
                    std::array::from_fn(|byte| [value(byte as u8), value((byte >> 4) as u8)]);
                each(target, codes, &pairs, apply);
            }
            Self::Int2(table, codes) => {
                let fours: [[f32; 4]; 256] = std::array::from_fn(|byte| {
                    std::array::from_fn(|place| table[byte >> (2 * place) & 3])
                });
                each(target, codes, &fours, apply);
            }
            Self::Float32(values) => {
                for (slot, bytes) in target.iter_mut().zip(values) {
                    apply(slot, f32::from_le_bytes(*bytes));
                }
            }
        }
    }

    /// Sum of the squares of what it sends to a chunk of `len` weights.
    pub fn square_sum(&self, len: usize) -> f64 {
        match *self {
            Self::Int8(scale, codes) => {
                let codes = codes.iter().map(|&code| i32::from(code as i8));
                square(scale) * codes.map(|code| f64::from(code * code)).sum::<f64>()
            }
            Self::Int4(scale, codes) => {
                let squared = |code: u8| i32::from((code << 4) as i8 >> 4).pow(2);
                let codes = codes.iter().map(|&code| squared(code) + squared(code >> 4));
                square(scale) * f64::from(codes.sum::<i32>())
            }
            Self::Int2(table, codes) => {
                let upper: u32 = codes.iter().map(|byte| (byte & 0xAA).count_ones()).sum();
                square(table[0]) * (len as f64 - f64::from(upper))
                    + square(table[2]) * f64::from(upper)
            }
            Self::Float32(values) => values
                .iter()
                .map(|bytes| square(f32::from_le_bytes(*bytes)))
                .sum(),
        }
    }
}

/// Calls `apply` with every weight and its value, `N` of them for each byte.
fn each<T, const N: usize>(
    target: &mut [T],
    codes: &[u8],
    values: &[[f32; N]; 256],
    mut apply: impl FnMut(&mut T, f32),
) {
    let (whole, tail) = target.as_chunks_mut::<N>();
    for (slots, &code) in whole.iter_mut().zip(codes) {
        for (slot, value) in slots.iter_mut().zip(values[usize::from(code)]) {
            apply(slot, value);
        }
    }
    if let Some(&code) = codes.get(whole.len()) {
        for (slot, value) in tail.iter_mut().zip(values[usize::from(code)]) {
            apply(slot, value);
        }
    }
}
