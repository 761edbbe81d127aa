//! The bytes of openings. Layout and drawn chunks are known to both sides, so that they hold
//! values and paths alone, and their size is known before one is read.
//!
//! For each drawn chunk, rising: its values in what was accumulated now (float32,
//! little-endian), its path; then, if there is an update before, the same of that.

use super::WrongOpening;
use super::tree::{self, HASH};
use crate::Layout;

/// Openings as they were read; each value and path in bounds, nothing proven.
#[derive(Clone, Debug)]
pub struct Openings {
    now: Vec<Opening>,
    before: Vec<Opening>,
}

#[derive(Clone, Debug)]
struct Opening {
    values: Vec<f32>,
    path: Vec<[u8; HASH]>,
}

/// Size of the openings of these chunks.
pub fn openings_bytes(layout: &Layout, chunks: &[usize], has_before: bool) -> usize {
    let each = chunks.iter().filter_map(|&number| {
        let chunk = layout.chunks().get(number)?;
        Some(4 * chunk.len + HASH * tree::path_length(layout, number))
    });
    each.sum::<usize>() * (1 + usize::from(has_before))
}

/// Opens chunks of what was accumulated now and of what was accumulated before
/// ([`Layout::len`] values each). Chunks that do not exist are left out.
pub fn write_openings(
    layout: &Layout,
    chunks: &[usize],
    now: &[f32],
    before: Option<&[f32]>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(openings_bytes(layout, chunks, before.is_some()));
    let buffers: Vec<_> = std::iter::once(now)
        .chain(before)
        .map(|values| (values, tree::levels(layout, values)))
        .collect();
    for &number in chunks {
        let Some(chunk) = layout.chunks().get(number) else {
            continue;
        };
        for (values, levels) in &buffers {
            for value in &values[tree::range(chunk)] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            bytes.extend(tree::path(levels, number).into_iter().flatten());
        }
    }
    bytes
}

impl Openings {
    /// Reads openings of these chunks. Bytes of any other size are refused first.
    pub fn read(
        layout: &Layout,
        chunks: &[usize],
        has_before: bool,
        bytes: &[u8],
    ) -> Result<Self, WrongOpening> {
        let expected = openings_bytes(layout, chunks, has_before);
        if bytes.len() != expected {
            return Err(WrongOpening::Size {
                expected,
                got: bytes.len(),
            });
        }
        let mut read = Self {
            now: Vec::with_capacity(chunks.len()),
            before: Vec::new(),
        };
        let mut rest = bytes;
        for &number in chunks {
            let Some(chunk) = layout.chunks().get(number) else {
                continue;
            };
            let length = tree::path_length(layout, number);
            let mut next = || {
                let (values, after) = rest.split_at(4 * chunk.len);
                let (path, after) = after.split_at(HASH * length);
                rest = after;
                let values = values.as_chunks::<4>().0.iter();
                Opening {
                    values: values.map(|word| f32::from_le_bytes(*word)).collect(),
                    path: path.as_chunks::<HASH>().0.to_vec(),
                }
            };
            read.now.push(next());
            if has_before {
                read.before.push(next());
            }
        }
        Ok(read)
    }

    /// Values and path of the drawn chunk at `place` of the draw, in what was accumulated now.
    pub(super) fn now(&self, place: usize) -> (&[f32], &[[u8; HASH]]) {
        self.now[place].parts()
    }

    /// The same in what was accumulated before.
    pub(super) fn before(&self, place: usize) -> (&[f32], &[[u8; HASH]]) {
        self.before[place].parts()
    }
}

impl Opening {
    fn parts(&self) -> (&[f32], &[[u8; HASH]]) {
        (&self.values, &self.path)
    }
}
