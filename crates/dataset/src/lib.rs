//! Data of a run: reading text, learning a tokenizer, cutting tokens in shards, reading them
//! back, and the order in which an epoch goes through them.
//!
//! It knows files and nothing of networks: what [`prepare`] returns is enough to send a
//! dataset to a coordinator, and [`TokenStream`] reads the shards wherever they ended up.
//! The formats are described in `docs/datasets.md`.
mod bytes;
mod classes;
mod corpus;
mod error;
mod held_out;
mod learn;
mod permutation;
mod prepare;
mod read;
mod shards;
mod sources;
mod stream;
mod tokenizer;
mod words;

pub use corpus::HELD_OUT_ONE_IN;
pub use error::DatasetError;
pub use held_out::held_out_text;
pub use permutation::Permutation;
pub use prepare::{END_OF_TEXT_ID, Options, Prepared, PreparedPart, Progress, Stage, prepare};
pub use shards::Shard;
pub use stream::{StreamError, TokenStream, blocks_per_epoch, sequences};
pub use tokenizer::{END_OF_TEXT, LEAST_VOCABULARY};
