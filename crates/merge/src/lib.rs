//! The compression of weights, error feedback, aggregation, the outer optimiser and the
//! digest: what turns many workers' progress into one step that all nodes take alike.
//!
//! Pure: no I/O, no clock, no randomness; bytes and numbers in, bytes and numbers out. Every
//! result is a function of the arguments alone, bit for bit the same on every platform with
//! IEEE 754 arithmetic (subnormal numbers included) and for any number of threads. The
//! format is specified in `docs/codec.md`.
//!
//! - [`encode`], [`check`], [`subtract`], [`add_scaled`]: payloads.
//! - [`feedback`]: the worker's side.
//! - [`merge_round`]: the coordinator's side.
//! - [`audit`]: whether an update is what training gives.
//! - [`digest`]: the name of a revision's weights.

mod aggregate;
pub mod audit;
mod bfloat;
mod clip;
mod codec;
mod dense;
mod digest;
mod encode;
mod error;
pub mod feedback;
mod header;
mod indices;
mod layout;
mod levels;
mod merge_round;
mod outer;
mod payload;
mod select;
mod sparse;

pub use aggregate::{
    Aggregator, FULL_AGREEMENT, LEAST_TO_COMPARE, RECORD_DECAY, Regard, TWIN_COSINE, record,
};
pub use clip::Clipping;
pub use codec::Codec;
pub use digest::digest;
pub use encode::{encode, max_bytes};
pub use error::{DecodeError, EncodeError, MergeError, StateError};
pub use layout::{CHUNK, Layout};
pub use merge_round::{Merge, Weighted, merge_round};
pub use outer::{OuterSettings, OuterState};
pub use payload::Payload;

/// Checks a payload from the first to the last byte, and that it is in this codec.
pub fn check(codec: Codec, layout: &Layout, bytes: &[u8]) -> Result<(), DecodeError> {
    let found = Payload::parse(layout, bytes)?.codec();
    if found == codec {
        Ok(())
    } else {
        Err(DecodeError::WrongCodec {
            expected: codec,
            found,
        })
    }
}

/// Applies a merge: `weights −= value`. On an error the weights were not changed.
pub fn subtract(layout: &Layout, bytes: &[u8], weights: &mut [f32]) -> Result<(), DecodeError> {
    Payload::parse(layout, bytes)?.subtract(layout, weights)
}

/// `target += value · scale`. On an error the target was not changed.
pub fn add_scaled(
    layout: &Layout,
    bytes: &[u8],
    scale: f32,
    target: &mut [f32],
) -> Result<(), DecodeError> {
    Payload::parse(layout, bytes)?.add_scaled(layout, scale, target)
}
