//! What coordinator, agent, portal and command line say to each other.
mod run_spec;
pub mod wire;

pub use run_spec::{Codec, RunSpec, SyncSettings};
