//! Facts about rounds.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
mod simulated;
