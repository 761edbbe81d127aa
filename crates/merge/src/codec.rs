//! The codecs by name and by their number on the wire.

use crate::CHUNK;

/// How a vector of weights is compressed. `docs/codec.md` has the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Top `k` of each chunk of 4096 by magnitude: packed indices, 2-bit values, scales.
    Sparse {
        /// Kept per chunk, 1 to 4096.
        k: u16,
    },
    /// Every weight in 8 bits.
    Int8,
    /// Every weight in 4 bits.
    Int4,
    /// Every weight in 2 bits.
    Int2,
    /// Every weight exactly (control).
    Float32,
}

impl Codec {
    /// Whether every coordinate is sent, so that a zero is a statement and not an absence.
    pub fn is_dense(self) -> bool {
        !matches!(self, Self::Sparse { .. })
    }

    /// Whether the settings of the codec are in range: `k` from 1 to 4096.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Sparse { k } => (1..=CHUNK).contains(&usize::from(k)),
            _ => true,
        }
    }

    /// Number and `k` in a header.
    pub(crate) fn to_wire(self) -> (u8, u16) {
        match self {
            Self::Sparse { k } => (1, k),
            Self::Int8 => (2, 0),
            Self::Int4 => (3, 0),
            Self::Int2 => (4, 0),
            Self::Float32 => (5, 0),
        }
    }

    /// The codec of that number and `k`, if there is one.
    pub(crate) fn from_wire(number: u8, k: u16) -> Option<Self> {
        let codec = match number {
            1 => Self::Sparse { k },
            2 => Self::Int8,
            3 => Self::Int4,
            4 => Self::Int2,
            5 => Self::Float32,
            _ => return None,
        };
        (codec.is_valid() && codec.to_wire().1 == k).then_some(codec)
    }

    /// Largest record of a chunk of `len` weights; for a dense codec its only size.
    pub(crate) fn max_record_bytes(self, len: usize) -> usize {
        match self {
            Self::Sparse { k } => {
                let kept = len.min(usize::from(k));
                6 + (2 * kept).div_ceil(8) + (12 * kept).div_ceil(8)
            }
            Self::Int8 => 2 + len,
            Self::Int4 => 2 + len.div_ceil(2),
            Self::Int2 => 4 + len.div_ceil(4),
            Self::Float32 => 4 * len,
        }
    }
}
