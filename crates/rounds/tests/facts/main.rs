//! Facts about rounds.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
mod auditors;
mod audits;
mod closing;
mod forming;
mod golden;
mod length;
mod people;
mod probe;
mod properties;
mod rollback;
mod simulated;
mod standing;
mod story;
mod updates;
