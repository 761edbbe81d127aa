//! Data of a run: reading text, training a tokenizer, cutting tokens in shards, reading
//! them back, and the order in which an epoch goes through them.
mod permutation;

pub use permutation::Permutation;
