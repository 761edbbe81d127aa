//! The control: synchronous data-parallel training, which is one worker whose batch is the
//! whole fleet's.

use anyhow::Result;
use opengpu_trainer::{InnerLoop, Signals, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, TrainRequest};

use crate::{Data, Figures};

/// Trains for `steps` steps with the batch of `workers` workers, exchanging every gradient.
pub fn synchronous(
    data: &Data,
    inner: &InnerSettings,
    workers: u64,
    steps: u64,
    seed: u64,
) -> Result<Figures> {
    let batch = inner.batch_sequences * workers as usize;
    let inner = InnerSettings {
        batch_sequences: batch,
        ..inner.clone()
    };
    let weights = fresh_weights(&data.model, seed);
    let request = TrainRequest {
        blocks: vec![(0, steps)],
        blocks_per_epoch: data.blocks(batch),
        block_sequences: batch,
        seed,
        progress_from: 0.0,
        progress_to: 1.0,
        at_most_blocks: None,
        out: Default::default(),
        slowdown: 1.0,
    };
    let mut tokens = data.training()?;
    let (trained, weights) = InnerLoop::new(&data.model, &inner).train(
        weights,
        &mut tokens,
        &request,
        &Signals::default(),
        &mut |_| (),
    )?;
    // Each step every worker sends its gradient as float32 and receives the mean.
    let exchanged = 4.0;
    Ok(Figures {
        nats: data.held_out_loss(&weights)?,
        up: exchanged,
        down: exchanged,
        rounds: steps,
        tokens: trained.tokens,
        counted: None,
        audited: None,
    })
}
