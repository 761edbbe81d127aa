//! What coordinator, agent, portal and command line say to each other: the wire types, the
//! signature on a node's requests, and the HTTP client that all callers share. No server.
pub mod audits;
mod byte_range;
mod check;
pub mod client;
mod download;
pub mod identity;
pub mod ledger;
pub mod operator;
pub mod possession;
pub mod query;
mod replay;
mod run_spec;
pub mod signing;
pub mod standing;
mod tolerance;
pub mod wire;

pub use byte_range::byte_range;
pub use check::SpecError;
pub use client::{Client, ClientError};
pub use download::{CHUNK_BYTES, Download};
pub use ed25519_dalek::SigningKey;
pub use replay::ReplayWindow;
pub use run_spec::{
    Aggregator, Codec, Nodes, RunSpec, SyncSettings, TrustSettings, outer_settings,
};
