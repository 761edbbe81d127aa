//! Reading a payload: an update or a merge, in whatever codec its header names.
//!
//! [`Payload::parse`] checks every byte before anything is applied, so that a bad payload
//! changes nothing. It allocates in proportion to the layout, never to what a payload says.

use rayon::prelude::*;

use crate::layout::{Chunk, span};
use crate::{CHUNK, Codec, DecodeError, Layout, dense, header, sparse};

/// A payload that was checked from the first to the last byte.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    codec: Codec,
    bytes: &'a [u8],
    /// Where the first record of each group of chunks starts.
    offsets: Vec<usize>,
}

impl<'a> Payload<'a> {
    /// Checks a payload for a model: size, header, scales, values, order and bounds of
    /// indices, unused bits.
    pub fn parse(layout: &Layout, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::parse_each(layout, bytes, |_, _| ())
    }

    /// The same, and the Euclidean norm of what is sent to each tensor.
    pub fn parse_with_norms(
        layout: &Layout,
        bytes: &'a [u8],
    ) -> Result<(Self, Vec<f64>), DecodeError> {
        let mut norms = vec![0f64; layout.tensors().len()];
        let payload = Self::parse_each(layout, bytes, |chunk, record| {
            norms[chunk.tensor] += record.square_sum(chunk.len);
        })?;
        norms.iter_mut().for_each(|norm| *norm = norm.sqrt());
        Ok((payload, norms))
    }

    fn parse_each(
        layout: &Layout,
        bytes: &'a [u8],
        mut each: impl FnMut(&Chunk, &Record),
    ) -> Result<Self, DecodeError> {
        let codec = header::read(layout, bytes)?;
        let limit = crate::max_bytes(codec, layout);
        if bytes.len() > limit {
            return Err(DecodeError::TooLong {
                limit,
                got: bytes.len(),
            });
        }
        let mut payload = Self {
            codec,
            bytes,
            offsets: Vec::with_capacity(layout.groups().len()),
        };
        let mut chosen = [0; CHUNK];
        let mut offset = header::BYTES;
        for (number, chunk) in layout.chunks().iter().enumerate() {
            if number.is_multiple_of(crate::layout::GROUP) {
                payload.offsets.push(offset);
            }
            let mut records = Records {
                codec,
                bytes: &bytes[offset..],
                check: true,
            };
            match records.next(chunk, number, &mut chosen) {
                Ok(record) => {
                    each(chunk, &record);
                    offset = bytes.len() - records.bytes.len();
                }
                Err(DecodeError::TooShort { needed, .. }) => {
                    let needed = offset.saturating_add(needed);
                    return Err(DecodeError::TooShort {
                        needed,
                        got: bytes.len(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        if offset != bytes.len() {
            return Err(DecodeError::TooLong {
                limit: offset,
                got: bytes.len(),
            });
        }
        Ok(payload)
    }

    /// The codec that its header names.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// `weights[i] -= value[i]` for every weight that is sent. One float32 subtraction each:
    /// the same bits on every machine.
    pub fn subtract(&self, layout: &Layout, weights: &mut [f32]) -> Result<(), DecodeError> {
        self.apply(layout, weights, |weight, value| *weight -= value)
    }

    /// `target[i] += value[i] * scale`, one multiplication and one addition each.
    pub fn add_scaled(
        &self,
        layout: &Layout,
        scale: f32,
        target: &mut [f32],
    ) -> Result<(), DecodeError> {
        if !scale.is_finite() {
            return Err(DecodeError::Factor {
                found: scale.to_string(),
            });
        }
        self.apply(layout, target, |slot, value| *slot += value * scale)
    }

    /// Does something with every weight that is sent.
    fn apply(
        &self,
        layout: &Layout,
        target: &mut [f32],
        apply: impl Fn(&mut f32, f32) + Sync,
    ) -> Result<(), DecodeError> {
        if target.len() != layout.len() {
            return Err(DecodeError::WrongTarget {
                expected: layout.len(),
                got: target.len(),
            });
        }
        let parts = layout.split(target);
        parts
            .into_par_iter()
            .zip(layout.groups().collect::<Vec<_>>())
            .enumerate()
            .try_for_each(|(group, (part, chunks))| {
                let mut records = self.group(group);
                let mut chosen = [0; CHUNK];
                let first = span(chunks).start;
                for chunk in chunks {
                    let record = records.next(chunk, 0, &mut chosen)?;
                    let from = chunk.start - first;
                    record.for_each(&chosen, &mut part[from..from + chunk.len], &apply);
                }
                Ok(())
            })
    }

    /// Calls `each` with chunk, tensor, index in the chunk and value of every weight that is
    /// sent, in order.
    pub(crate) fn each_sent(
        &self,
        layout: &Layout,
        mut each: impl FnMut(usize, usize, usize, f32),
    ) {
        let mut chosen = [0; CHUNK];
        let mut indices: [u16; CHUNK] = std::array::from_fn(|index| index as u16);
        let mut number = 0;
        for (group, chunks) in layout.groups().enumerate() {
            let mut records = self.group(group);
            for chunk in chunks {
                // Checked before: an error is out of reach here.
                if let Ok(record) = records.next(chunk, 0, &mut chosen) {
                    record.for_each(&chosen, &mut indices[..chunk.len], |index, value| {
                        each(number, chunk.tensor, usize::from(*index), value);
                    });
                }
                number += 1;
            }
        }
    }

    /// The bytes of the records of these chunks, given by number.
    pub(crate) fn records_of(
        &self,
        layout: &Layout,
        numbers: &[usize],
    ) -> Result<Vec<&'a [u8]>, DecodeError> {
        let mut chosen = [0; CHUNK];
        let mut found = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let (mut records, chunk) = self.at(layout, number)?;
            let from = records.bytes;
            records.next(&chunk, number, &mut chosen)?;
            found.push(&from[..from.len() - records.bytes.len()]);
        }
        Ok(found)
    }

    /// Calls `each` with place in `numbers`, index in the chunk and value of every weight that
    /// is sent in these chunks.
    pub(crate) fn each_in(
        &self,
        layout: &Layout,
        numbers: &[usize],
        mut each: impl FnMut(usize, usize, f32),
    ) -> Result<(), DecodeError> {
        let mut chosen = [0; CHUNK];
        let mut indices: [u16; CHUNK] = std::array::from_fn(|index| index as u16);
        for (place, &number) in numbers.iter().enumerate() {
            let (mut records, chunk) = self.at(layout, number)?;
            let record = records.next(&chunk, number, &mut chosen)?;
            record.for_each(&chosen, &mut indices[..chunk.len], |index, value| {
                each(place, usize::from(*index), value);
            });
        }
        Ok(())
    }

    /// The records from chunk `number` on.
    fn at(&self, layout: &Layout, number: usize) -> Result<(Records<'a>, Chunk), DecodeError> {
        let chunks = layout.chunks();
        let Some(chunk) = chunks.get(number) else {
            return Err(DecodeError::WrongTarget {
                expected: chunks.len(),
                got: number,
            });
        };
        let group = number / crate::layout::GROUP;
        let mut records = self.group(group);
        let mut chosen = [0; CHUNK];
        for passed in &chunks[group * crate::layout::GROUP..number] {
            records.next(passed, number, &mut chosen)?;
        }
        Ok((records, *chunk))
    }

    /// Hash of all its bytes.
    pub(crate) fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.bytes).as_bytes()
    }

    /// The records of a group of chunks.
    pub(crate) fn group(&self, group: usize) -> Records<'a> {
        Records {
            codec: self.codec,
            bytes: &self.bytes[self.offsets[group]..],
            check: false,
        }
    }
}

/// Records of neighbouring chunks, one after the other.
pub(crate) struct Records<'a> {
    codec: Codec,
    bytes: &'a [u8],
    check: bool,
}

impl<'a> Records<'a> {
    /// The record of the next chunk. For a sparse one its indices go to `chosen`.
    pub fn next(
        &mut self,
        chunk: &Chunk,
        number: usize,
        chosen: &mut [u16; CHUNK],
    ) -> Result<Record<'a>, DecodeError> {
        if let Codec::Sparse { k } = self.codec {
            let record = sparse::Record::read(self.bytes, k.into(), chunk.len, number, chosen)?;
            self.bytes = &self.bytes[record.bytes..];
            return Ok(Record::Sparse(record));
        }
        let needed = self.codec.max_record_bytes(chunk.len);
        let Some((record, rest)) = self.bytes.split_at_checked(needed) else {
            return Err(DecodeError::TooShort {
                needed,
                got: self.bytes.len(),
            });
        };
        self.bytes = rest;
        dense::Record::read(self.codec, record, chunk.len, number, self.check).map(Record::Dense)
    }
}

/// What is sent of one chunk.
pub(crate) enum Record<'a> {
    Sparse(sparse::Record<'a>),
    Dense(dense::Record<'a>),
}

impl Record<'_> {
    /// Does something with every weight that is sent, in order.
    pub fn for_each<T>(
        &self,
        chosen: &[u16; CHUNK],
        target: &mut [T],
        apply: impl FnMut(&mut T, f32),
    ) {
        match self {
            Self::Sparse(record) => record.for_each(chosen, target, apply),
            Self::Dense(record) => record.for_each(target, apply),
        }
    }

    /// Sum of the squares of what is sent.
    fn square_sum(&self, len: usize) -> f64 {
        match self {
            Self::Sparse(record) => record.square_sum(),
            Self::Dense(record) => record.square_sum(len),
        }
    }
}
