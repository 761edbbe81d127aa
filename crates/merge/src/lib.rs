//! Compression, error feedback, aggregation and the outer optimiser, pure.
mod codec;

pub use codec::Codec;
