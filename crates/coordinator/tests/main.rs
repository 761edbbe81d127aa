//! One test binary for the whole crate, because linking it takes longer than running it.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod server;
mod store;
