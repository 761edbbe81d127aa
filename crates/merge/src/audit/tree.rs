//! A Merkle tree over the chunks of a buffer: its root commits to every value, and a chunk is
//! opened with a path of one hash a level.
//!
//! Hashes are BLAKE3 with a first byte that tells leaves (0) from inner nodes (1), so that
//! neither can be passed off as the other. A leaf also holds its chunk's number. A node
//! without a sibling moves up a level as it is.

use rayon::prelude::*;

use super::WrongOpening;
use crate::Layout;
use crate::layout::Chunk;

/// Bytes of a hash.
pub(super) const HASH: usize = 32;

/// The root over all chunks of `values` ([`Layout::len`] of them).
pub fn commitment(layout: &Layout, values: &[f32]) -> [u8; HASH] {
    let levels = levels(layout, values);
    levels
        .last()
        .and_then(|top| top.first())
        .copied()
        .unwrap_or_default()
}

/// All levels of the tree, leaves first; the last has one hash.
pub(super) fn levels(layout: &Layout, values: &[f32]) -> Vec<Vec<[u8; HASH]>> {
    let chunks = layout.chunks();
    let numbered = chunks.par_iter().enumerate();
    let leaves = numbered.map(|(number, chunk)| leaf(number, &values[range(chunk)]));
    let mut levels = vec![leaves.collect::<Vec<_>>()];
    while let Some(below) = levels.last()
        && below.len() > 1
    {
        let above = below.chunks(2).map(|pair| match pair {
            [left, right] => inner(left, right),
            lone => lone[0],
        });
        let above = above.collect();
        levels.push(above);
    }
    levels
}

/// The siblings of chunk `number` from the bottom up.
pub(super) fn path(levels: &[Vec<[u8; HASH]>], number: usize) -> Vec<[u8; HASH]> {
    let mut index = number;
    let mut path = Vec::new();
    for level in levels {
        path.extend(level.get(index ^ 1));
        index /= 2;
    }
    path
}

/// How many hashes the path of chunk `number` has.
pub(super) fn path_length(layout: &Layout, number: usize) -> usize {
    let (mut index, mut count, mut length) = (number, layout.chunk_count(), 0);
    while count > 1 {
        length += usize::from(index ^ 1 < count);
        index /= 2;
        count = count.div_ceil(2);
    }
    length
}

/// Checks that `values` are chunk `number` of the buffer that `root` commits to. The path has
/// [`path_length`] hashes.
pub(super) fn verify(
    layout: &Layout,
    root: &[u8; HASH],
    number: usize,
    values: &[f32],
    path: &[[u8; HASH]],
) -> Result<(), WrongOpening> {
    let (mut index, mut count) = (number, layout.chunk_count());
    let mut hash = leaf(number, values);
    let mut siblings = path.iter();
    while count > 1 {
        if index ^ 1 < count {
            let sibling = siblings
                .next()
                .ok_or(WrongOpening::Path { chunk: number })?;
            hash = match index % 2 {
                0 => inner(&hash, sibling),
                _ => inner(sibling, &hash),
            };
        }
        index /= 2;
        count = count.div_ceil(2);
    }
    if siblings.next().is_none() && hash == *root {
        Ok(())
    } else {
        Err(WrongOpening::Path { chunk: number })
    }
}

/// The weights of a chunk in the whole buffer.
pub(super) fn range(chunk: &Chunk) -> std::ops::Range<usize> {
    chunk.start..chunk.start + chunk.len
}

fn leaf(number: usize, values: &[f32]) -> [u8; HASH] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[0]);
    hasher.update(&(number as u64).to_le_bytes());
    let mut bytes = [0; 4 * 256];
    for part in values.chunks(256) {
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&bytes[..4 * part.len()]);
    }
    *hasher.finalize().as_bytes()
}

fn inner(left: &[u8; HASH], right: &[u8; HASH]) -> [u8; HASH] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[1]);
    hasher.update(left);
    hasher.update(right);
    *hasher.finalize().as_bytes()
}
