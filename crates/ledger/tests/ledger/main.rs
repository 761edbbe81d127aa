//! What the crate promises, as seen from outside.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod document;
mod entries;
mod export;
mod golden;
mod heads;
mod hostile;
mod receipts;
mod sums;
mod tree;
mod values;
