//! The control: synchronous data-parallel training, which is one worker whose batch is the
//! whole fleet's.

use anyhow::Result;
use opengpu_trainer::{InnerLoop, Signals, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, TrainRequest};

use crate::{Data, Federated, Figures};

/// Trains on as many tokens in as many steps as `like` does, exchanging every gradient.
pub fn synchronous(like: &Federated, data: &Data) -> Result<Figures> {
    let batch = like.inner.batch_sequences * like.workers as usize;
    let inner = InnerSettings {
        batch_sequences: batch,
        ..like.inner.clone()
    };
    let steps = like.rounds * like.steps;
    let mut weights = fresh_weights(&data.model, like.seed);
    let request = TrainRequest {
        blocks: vec![(0, steps)],
        blocks_per_epoch: data.blocks(batch),
        block_sequences: batch,
        seed: like.seed,
        progress_from: 0.0,
        progress_to: 1.0,
        out: Default::default(),
        slowdown: 1.0,
    };
    let mut tokens = data.training()?;
    let trained = InnerLoop::new(&data.model, &inner).train(
        &mut weights,
        &mut tokens,
        &request,
        &Signals::default(),
        &mut |_| (),
    )?;
    // A ring all-reduce sends and receives nearly twice the gradient in each step.
    let exchanged = 2.0 * 4.0 * like.steps as f64;
    Ok(Figures {
        nats: data.held_out_loss(&weights)?,
        up: exchanged,
        down: exchanged,
        rounds: like.rounds,
        tokens: trained.tokens,
    })
}
