//! The built-in training application: a Llama decoder on Burn, trained over the blocks of
//! an assignment, spoken to over JSON lines.
//!
//! It reads and writes only the files that a request names, opens no connection and knows
//! nothing of rounds, updates or the coordinator.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod compute;
pub mod device;
mod error;
mod evaluate;
mod export;
mod flat;
mod gradient;
mod import;
mod initialise;
mod kernels;
mod memory;
mod model;
mod ops;
mod optimiser;
mod preparing;
mod sample;
mod serve;
mod session;
mod tokens;
mod train;

pub use compute::{Compute, Form, Forms};
pub use error::{Result, TrainerError};
pub use evaluate::{Evaluated, evaluate};
pub use gradient::Gradient;
pub use kernels::precision::{Precision, has_bfloat16};
pub use memory::limit_memory;
pub use model::Llama;
pub use serve::{run, serve};
pub use tokens::{Blocks, Pair, open_tokens};
pub use train::{InnerLoop, Progress, Signals, Trained};

/// Fresh flat weights of a model, decided by a seed.
pub fn fresh_weights(model: &opengpu_trainer_protocol::ModelConfig, seed: u64) -> Vec<f32> {
    initialise::weights(model, seed)
}
