//! What can be wrong, in sentences with the number.

use crate::Codec;

/// Why a payload was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends too early.
    #[error("the payload has {got} bytes, at least {needed} are needed")]
    TooShort {
        /// Least bytes that would do.
        needed: usize,
        /// Bytes there are.
        got: usize,
    },
    /// It is longer than the codec and the layout allow.
    #[error("the payload has {got} bytes, at most {limit} are allowed for this codec and model")]
    TooLong {
        /// Most bytes allowed.
        limit: usize,
        /// Bytes there are.
        got: usize,
    },
    /// It does not start as a payload does.
    #[error("this is no payload: it does not start with `OGPU`")]
    Magic,
    /// It is of another version of the format.
    #[error("the payload is of format version {found}, this program reads version 1")]
    Version {
        /// The version it says.
        found: u8,
    },
    /// The header names no codec that there is.
    #[error("the header names codec {number} with k = {k}, which does not exist")]
    UnknownCodec {
        /// The number it says.
        number: u8,
        /// The `k` it says.
        k: u16,
    },
    /// It is in a codec other than the run's.
    #[error("the payload is in codec {found:?}, the run uses {expected:?}")]
    WrongCodec {
        /// The run's.
        expected: Codec,
        /// The payload's.
        found: Codec,
    },
    /// It was made for another model.
    #[error(
        "the payload is for another model: {found} weights, this one has {expected} (or other tensors)"
    )]
    WrongLayout {
        /// Weights of this model.
        expected: u64,
        /// Weights it says.
        found: u64,
    },
    /// A scale is negative, not finite or above the limit.
    #[error("a scale of chunk {chunk} is negative, not finite or above the limit")]
    Scale {
        /// Where.
        chunk: usize,
    },
    /// A chunk sends more weights than it may.
    #[error("chunk {chunk} sends {found} weights, at most {limit} are allowed")]
    Count {
        /// Where.
        chunk: usize,
        /// How many.
        found: usize,
        /// Of so many.
        limit: usize,
    },
    /// The head of a chunk names no way to pack indices.
    #[error("chunk {chunk} packs its indices in a way that does not exist: {tag}")]
    Tag {
        /// Where.
        chunk: usize,
        /// What it says.
        tag: u8,
    },
    /// Indices are not rising, or one is there twice.
    #[error("the indices of chunk {chunk} do not rise")]
    IndexOrder {
        /// Where.
        chunk: usize,
    },
    /// An index is not in the chunk.
    #[error("an index of chunk {chunk} is beyond its {len} weights")]
    IndexRange {
        /// Where.
        chunk: usize,
        /// Its length.
        len: usize,
    },
    /// A value is one that no encoder writes.
    #[error("a value of chunk {chunk} is out of range or not finite")]
    Value {
        /// Where.
        chunk: usize,
    },
    /// Unused bits are not zero.
    #[error("unused bits of chunk {chunk} are not zero")]
    Padding {
        /// Where.
        chunk: usize,
    },
    /// The buffer to apply it to is not this model's.
    #[error("the buffer has {got} weights, the model has {expected}")]
    WrongTarget {
        /// Weights of the model.
        expected: usize,
        /// Weights of the buffer.
        got: usize,
    },
    /// The factor to apply it with is not finite.
    #[error("the factor {found} is not finite")]
    Factor {
        /// As given, in words.
        found: String,
    },
}

impl DecodeError {
    /// What was measured and what was allowed, or the nearest that was, where the check
    /// compares two numbers.
    pub fn compared(&self) -> Option<(u64, u64)> {
        let pair = |measured: usize, allowed: usize| Some((measured as u64, allowed as u64));
        match *self {
            Self::TooShort { needed, got } => pair(got, needed),
            Self::TooLong { limit, got } => pair(got, limit),
            Self::Version { found } => Some((found.into(), 1)),
            Self::WrongLayout { expected, found } => Some((found, expected)),
            Self::Count { found, limit, .. } => pair(found, limit),
            Self::WrongTarget { expected, got } => pair(got, expected),
            Self::Magic
            | Self::UnknownCodec { .. }
            | Self::WrongCodec { .. }
            | Self::Scale { .. }
            | Self::Tag { .. }
            | Self::IndexOrder { .. }
            | Self::IndexRange { .. }
            | Self::Value { .. }
            | Self::Padding { .. }
            | Self::Factor { .. } => None,
        }
    }
}

/// Why values could not be encoded. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Not a number, or infinite.
    #[error("weight {index} is not finite; start this worker again from the global weights")]
    NotFinite {
        /// The first such weight.
        index: usize,
    },
    /// `k` is out of range.
    #[error("k = {k} is out of range, 1 to 4096 are allowed")]
    BadK {
        /// As given.
        k: u16,
    },
    /// A buffer is not this model's.
    #[error("a buffer has {got} weights, the model has {expected}")]
    WrongLength {
        /// Weights of the model.
        expected: usize,
        /// Weights of the buffer.
        got: usize,
    },
    /// The decay is not in 0 to 1.
    #[error("the decay {found} of the error feedback is out of range, 0 to 1 are allowed")]
    BadDecay {
        /// As given, in words.
        found: String,
    },
}

/// Why a round could not be merged. Neither weights nor state were changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// There is nothing to merge.
    #[error("a round without updates cannot be merged")]
    Empty,
    /// A weight is zero, negative or not finite.
    #[error("update {update} has weight {weight}; it must be finite and above 0")]
    BadWeight {
        /// Which update, in the order given.
        update: usize,
        /// As given, in words.
        weight: String,
    },
    /// A payload does not decode.
    #[error("update {update} does not decode")]
    BadPayload {
        /// Which update, in the order given.
        update: usize,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A setting is out of range.
    #[error("{setting} is {found}, allowed is {allowed}")]
    BadSetting {
        /// Its name.
        setting: &'static str,
        /// As given, in words.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The weights or the state are not this model's.
    #[error("{what} has {got} values, the model and its settings need {expected}")]
    WrongLength {
        /// `weights`, `feedback` or `momentum`.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values there are.
        got: usize,
    },
    /// The weights or the state were damaged.
    #[error("value {index} of {what} is not finite or beyond 2^100; go back to a checkpoint")]
    NotFinite {
        /// `weights`, `feedback` or `momentum`.
        what: &'static str,
        /// The first such value.
        index: usize,
    },
    /// The merge that was made does not decode: a fault of this program.
    #[error("the merge that was made does not decode: a fault of this program")]
    OwnMerge {
        /// What is wrong with it.
        source: DecodeError,
    },
}

/// Why the bytes of an outer state were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// They do not start as a state does, or are of another version.
    #[error("this is no outer state of version 1")]
    NotAState,
    /// They are of another model or of other settings.
    #[error("the outer state has {got} bytes, this model and its settings need {expected}")]
    WrongLength {
        /// Bytes needed.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// They were made for another model.
    #[error("the outer state is of another model")]
    WrongLayout,
    /// They were damaged.
    #[error("value {index} of the outer state is not finite or beyond 2^100")]
    NotFinite {
        /// The first such value.
        index: usize,
    },
}
