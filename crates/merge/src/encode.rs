//! Writing a payload.

use std::ops::Range;

use rayon::prelude::*;

use crate::layout::{Chunk, span};
use crate::{Codec, EncodeError, Layout, dense, header, sparse};

/// Largest payload that the codec can make for the layout; no larger one is ever read.
pub fn max_bytes(codec: Codec, layout: &Layout) -> usize {
    let records = layout
        .chunks()
        .iter()
        .map(|chunk| codec.max_record_bytes(chunk.len));
    header::BYTES + records.sum::<usize>()
}

/// Compresses `values` and leaves in them what was *not* sent: every value minus what a
/// decoder will read for it, one float32 subtraction each.
///
/// The result is a function of codec, layout and values alone, the same on every machine
/// and for any number of threads. Values that are not finite are refused before anything
/// is changed. Values beyond 2^64 are sent as far as the format goes; the rest stays.
pub fn encode(codec: Codec, layout: &Layout, values: &mut [f32]) -> Result<Vec<u8>, EncodeError> {
    check_request(codec, layout, values.len())?;
    if let Some(index) = first_not_finite(values) {
        return Err(EncodeError::NotFinite { index });
    }
    Ok(encode_each(codec, layout, values, |_, _| ()))
}

/// Compresses finite values chunk by chunk, each after `prepare` changed it: it is given the
/// chunk's place in the whole buffer and its values.
pub(crate) fn encode_each(
    codec: Codec,
    layout: &Layout,
    values: &mut [f32],
    prepare: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<u8> {
    let parts = layout.split(values);
    let groups: Vec<_> = layout.groups().collect();
    let records = parts
        .into_par_iter()
        .zip(groups)
        .map(|(part, chunks)| {
            let mut encoder = Encoder::new(codec, chunks);
            let first = span(chunks).start;
            for chunk in chunks {
                let whole = chunk.start..chunk.start + chunk.len;
                let values = &mut part[whole.start - first..whole.end - first];
                prepare(whole, values);
                encoder.encode(values);
            }
            encoder.bytes
        })
        .collect();
    join(codec, layout, records)
}

/// Refuses a codec out of range and a buffer of another model.
pub(crate) fn check_request(codec: Codec, layout: &Layout, got: usize) -> Result<(), EncodeError> {
    if let Codec::Sparse { k } = codec
        && !codec.is_valid()
    {
        return Err(EncodeError::BadK { k });
    }
    if got != layout.len() {
        return Err(EncodeError::WrongLength {
            expected: layout.len(),
            got,
        });
    }
    Ok(())
}

/// The first value that is NaN or infinite.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<usize> {
    first_beyond(values, f32::MAX)
}

/// The first value that is NaN or beyond a limit.
pub(crate) fn first_beyond(values: &[f32], limit: f32) -> Option<usize> {
    let limit = limit.to_bits();
    let beyond = |value: &f32| (value.to_bits() & 0x7FFF_FFFF) > limit;
    let step = 1 << 16;
    // Whole blocks are tested without a branch for each value.
    let block = values
        .par_chunks(step)
        .position_first(|block| block.iter().fold(false, |any, value| any | beyond(value)))?;
    values[block * step..]
        .iter()
        .position(beyond)
        .map(|offset| block * step + offset)
}

/// Compresses neighbouring chunks.
pub(crate) struct Encoder {
    codec: Codec,
    sparse: sparse::Encoder,
    /// The records so far.
    pub bytes: Vec<u8>,
}

impl Encoder {
    /// An encoder with room for the records of these chunks.
    pub fn new(codec: Codec, chunks: &[Chunk]) -> Self {
        let room = chunks
            .iter()
            .map(|chunk| codec.max_record_bytes(chunk.len))
            .sum();
        Self {
            codec,
            sparse: sparse::Encoder::new(),
            bytes: Vec::with_capacity(room),
        }
    }

    /// Appends the record of a chunk of finite values and leaves in them what is not sent.
    pub fn encode(&mut self, values: &mut [f32]) {
        match self.codec {
            Codec::Sparse { k } => self.sparse.encode(k.into(), values, &mut self.bytes),
            codec => dense::encode(codec, values, &mut self.bytes),
        }
    }
}

/// A payload from the records of all groups.
pub(crate) fn join(codec: Codec, layout: &Layout, records: Vec<Vec<u8>>) -> Vec<u8> {
    let length = header::BYTES + records.iter().map(Vec::len).sum::<usize>();
    let mut bytes = Vec::with_capacity(length);
    header::write(codec, layout, &mut bytes);
    for record in records {
        bytes.extend_from_slice(&record);
    }
    bytes
}
