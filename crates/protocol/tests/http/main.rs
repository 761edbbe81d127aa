//! The client against a server that misbehaves as servers and links do.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod downloads;
mod requests;
mod server;
