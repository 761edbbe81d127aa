//! How a model's flat weights are cut: tensors in canonical order, each in chunks of 4096
//! with a shorter last one. A chunk never spans two tensors, because their weights differ
//! in scale.

use std::ops::Range;

/// Weights in a chunk; the last chunk of a tensor may have fewer.
pub const CHUNK: usize = 4096;

/// Chunks that one task of a parallel loop works on: a MiB of weights. Which task does
/// which chunk never changes a result, as no chunk looks at another.
pub(crate) const GROUP: usize = 64;

/// The tensors of a model and their chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<usize>,
    chunks: Vec<Chunk>,
    len: usize,
    fingerprint: [u8; 8],
}

/// A chunk of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// First weight, counted from the start of the model.
    pub start: usize,
    /// Weights, 1 to [`CHUNK`].
    pub len: usize,
    /// Of which tensor.
    pub tensor: usize,
}

impl Layout {
    /// Cuts tensors of these lengths, in canonical order. A tensor without weights is
    /// counted and has no chunk.
    ///
    /// # Panics
    /// When the lengths add up to more than a machine can address. Lengths come from a
    /// model that was checked before, never from a payload.
    pub fn new(lens: impl IntoIterator<Item = usize>) -> Self {
        let tensors: Vec<usize> = lens.into_iter().collect();
        let mut hasher = blake3::Hasher::new();
        let mut chunks = Vec::new();
        let mut start = 0usize;
        for (tensor, &len) in tensors.iter().enumerate() {
            hasher.update(&(len as u64).to_le_bytes());
            let end = start.checked_add(len).expect("a model fits into memory");
            while start < end {
                let len = (end - start).min(CHUNK);
                chunks.push(Chunk { start, len, tensor });
                start += len;
            }
        }
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self {
            tensors,
            chunks,
            len: start,
            fingerprint,
        }
    }

    /// Weights in all tensors together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no weight at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lengths of the tensors, in order.
    pub fn tensors(&self) -> &[usize] {
        &self.tensors
    }

    /// Chunks in all tensors together.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// The weights of each chunk, in order.
    pub fn chunk_ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.chunks
            .iter()
            .map(|chunk| chunk.start..chunk.start + chunk.len)
    }

    /// First 8 bytes of the BLAKE3 of the tensors' lengths, each as a little-endian u64:
    /// tells layouts of the same total length apart.
    pub fn fingerprint(&self) -> [u8; 8] {
        self.fingerprint
    }

    /// The chunks, in groups of neighbours.
    pub(crate) fn groups(&self) -> impl ExactSizeIterator<Item = &[Chunk]> {
        self.chunks.chunks(GROUP)
    }

    /// All chunks in order.
    pub(crate) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Cuts a vector over all weights into one slice for each group.
    pub(crate) fn split<'a, T>(&self, mut values: &'a mut [T]) -> Vec<&'a mut [T]> {
        let mut parts = Vec::with_capacity(self.groups().len());
        for group in self.groups() {
            let (head, tail) = values.split_at_mut(span(group).len());
            parts.push(head);
            values = tail;
        }
        parts
    }
}

/// The weights that neighbouring chunks cover.
pub(crate) fn span(chunks: &[Chunk]) -> Range<usize> {
    match (chunks.first(), chunks.last()) {
        (Some(first), Some(last)) => first.start..last.start + last.len,
        _ => 0..0,
    }
}
