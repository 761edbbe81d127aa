//! What the crate promises, as seen from outside.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod aggregation;
mod allocation;
mod audit;
mod breakdown;
mod clipping;
mod collusion;
mod document;
mod feedback;
mod golden;
mod hostile;
mod memory;
mod round_trip;
mod rounds;
mod values;
