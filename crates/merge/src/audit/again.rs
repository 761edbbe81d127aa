//! What training an audited assignment again gave, in the drawn chunks: what is compared, and
//! what whoever trained it sends. Layout and drawn chunks are known to both sides, so that the
//! bytes hold values alone, and their size is known before one is read.
//!
//! Typical length (float64), numerics class (UTF-8, filled up with zeros to [`CLASS_BYTES`]), then
//! for each drawn chunk, rising, its progress (float32); all little-endian.
//!
//! Not here: whether to believe it. Who lies about its typical length or its progress makes
//! itself differ from others.

use super::{Opened, WrongOpening, distance, largest, length_of, typical_length};
use crate::Layout;

/// Most bytes of a numerics class.
pub const CLASS_BYTES: usize = 200;
/// Bytes before the values.
const HEAD: usize = 8 + CLASS_BYTES;

/// What training an assignment again gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Again {
    class: String,
    /// [`typical_length`] of all progress.
    typical: f64,
    /// Of the drawn chunks, rising.
    progress: Vec<Vec<f32>>,
}

/// Why bytes are no such thing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadAgain {
    /// Not the bytes for these chunks.
    #[error("the progress in the drawn chunks has {expected} bytes, not {got}")]
    Size {
        /// For the chunks that were drawn.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// A length must be finite and above zero.
    #[error("the typical length of progress is {typical}; it must be finite and above 0")]
    Typical {
        /// What it is said to be.
        typical: f64,
    },
    /// The class is no text.
    #[error("the numerics class is not UTF-8 with nothing but zeros behind it")]
    Class,
    /// A value is not finite.
    #[error("drawn chunk {place} has a value that is no finite number")]
    NotFinite {
        /// Which of the draw, from 0.
        place: usize,
    },
}

impl Again {
    /// Of these chunks, by a device of this numerics class (cut to [`CLASS_BYTES`]), from the
    /// weights before and after ([`Layout::len`] each). Chunks that do not exist are left out.
    pub fn of(
        layout: &Layout,
        chunks: &[usize],
        (global, local): (&[f32], &[f32]),
        class: &str,
    ) -> Self {
        let chunks = chunks.iter().filter_map(|&number| {
            let chunk = layout.chunks().get(number)?;
            let range = chunk.start..chunk.start + chunk.len;
            let pairs = global.get(range.clone())?.iter().zip(local.get(range)?);
            Some(pairs.map(|(g, l)| g - l).collect())
        });
        Self {
            class: class[..class.floor_char_boundary(CLASS_BYTES)].to_owned(),
            typical: typical_length(layout, global, local),
            progress: chunks.collect(),
        }
    }

    /// The numerics class in which it was trained, as whoever trained it says.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Size of the bytes for these chunks.
    pub fn bytes_of(layout: &Layout, chunks: &[usize]) -> usize {
        let weights = chunks.iter().filter_map(|&number| {
            let chunk = layout.chunks().get(number)?;
            Some(chunk.len)
        });
        HEAD + 4 * weights.sum::<usize>()
    }

    /// As it is sent.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = self.typical.to_le_bytes().to_vec();
        bytes.extend_from_slice(self.class.as_bytes());
        bytes.resize(HEAD, 0);
        for value in self.progress.iter().flatten() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads what was sent about these chunks. Bytes of any other size are refused first.
    pub fn read(layout: &Layout, chunks: &[usize], bytes: &[u8]) -> Result<Self, BadAgain> {
        let (expected, got) = (Self::bytes_of(layout, chunks), bytes.len());
        let head = bytes.split_first_chunk::<HEAD>();
        let Some((head, mut rest)) = head.filter(|_| got == expected) else {
            return Err(BadAgain::Size { expected, got });
        };
        let (typical, class) = head.split_first_chunk::<8>().ok_or(BadAgain::Class)?;
        let typical = f64::from_le_bytes(*typical);
        if !(typical.is_finite() && typical > 0.0) {
            return Err(BadAgain::Typical { typical });
        }
        let mut progress = Vec::with_capacity(chunks.len());
        for chunk in chunks
            .iter()
            .filter_map(|&number| layout.chunks().get(number))
        {
            let (values, after) = rest.split_at(4 * chunk.len);
            rest = after;
            let values = values.as_chunks::<4>().0.iter();
            let values: Vec<f32> = values.map(|word| f32::from_le_bytes(*word)).collect();
            if !values.iter().all(|value| value.is_finite()) {
                let place = progress.len();
                return Err(BadAgain::NotFinite { place });
            }
            progress.push(values);
        }
        Ok(Self {
            class: class_in(class)?,
            typical,
            progress,
        })
    }

    /// How far a worker's progress in these chunks, which are the drawn ones, is from this: the
    /// largest [`Opened::distance`].
    pub fn farthest(&self, opened: &[Opened]) -> f64 {
        let claimed = opened.iter().map(|chunk| &*chunk.progress);
        self.far_from_all(claimed, opened.len())
    }

    /// How far another training of the same is from this.
    pub fn far_from(&self, other: &Self) -> f64 {
        let claimed = other.progress.iter().map(Vec::as_slice);
        self.far_from_all(claimed, other.progress.len())
    }

    /// Refuses a claim with a chunk in which more is unsent than honest rounds leave
    /// ([`Opened::check_unsent`]).
    pub fn check_unsent(&self, decay: f32, opened: &[Opened]) -> Result<(), WrongOpening> {
        let mut pairs = opened.iter().zip(&self.progress);
        pairs.try_for_each(|(chunk, own)| {
            let own = length_of(own.iter().copied());
            chunk.check_unsent_of(decay, own.max(self.typical))
        })
    }

    fn far_from_all<'a>(&self, claimed: impl Iterator<Item = &'a [f32]>, count: usize) -> f64 {
        if count != self.progress.len() {
            return f64::INFINITY;
        }
        let pairs = claimed.zip(&self.progress);
        largest(
            pairs.map(|(claimed, own)| match claimed.len() == own.len() {
                true => distance(claimed, own.iter().copied(), self.typical),
                false => f64::INFINITY,
            }),
        )
    }
}

/// The text before the zeros.
fn class_in(bytes: &[u8]) -> Result<String, BadAgain> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let (text, zeros) = bytes.split_at(end.unwrap_or(bytes.len()));
    let text = std::str::from_utf8(text).map_err(|_| BadAgain::Class)?;
    match zeros.iter().all(|byte| *byte == 0) {
        true => Ok(text.to_owned()),
        false => Err(BadAgain::Class),
    }
}
