//! Tests of whole processes: the binary as a user runs it, real HTTP, real kill -9.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod audits;
mod bad_input;
mod cluster;
mod faults;
#[cfg(feature = "gpu")]
mod gpu;
mod invariants;
mod join;
mod kill;
mod ledger;
mod pages;
mod rollback;
mod stranger;
mod up;
