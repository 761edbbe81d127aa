//! The codecs by name.

/// How a vector of weights is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Top `k` of each chunk of 4096 by magnitude: 12-bit indices, 2-bit values, scales.
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
