//! The trainer through its protocol, and its arithmetic against references.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod assignments;
mod checkpoints;
mod errors;
mod golden;
#[cfg(feature = "gpu")]
mod gpu;
mod operations;
