//! What coordinator, agent, portal and command line say to each other: the wire types, the
//! signature on a node's requests, and the HTTP client that all callers share. No server.
pub mod operator;
mod replay;
mod run_spec;
pub mod signing;
pub mod wire;

pub use ed25519_dalek::SigningKey;
pub use replay::ReplayWindow;
pub use run_spec::{Codec, RunSpec, SyncSettings};
