//! Inner steps over an assignment's blocks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use opengpu_dataset::TokenStream;
use opengpu_trainer_protocol::{InnerSettings, InnerState, ModelConfig, TrainRequest};

use crate::adamw::AdamW;
use crate::error::{Result, TrainerError};
use crate::flat;
use crate::model::{Form, Llama};
use crate::tokens::{Blocks, Pair};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Signals from the thread that reads requests while one is worked on.
#[derive(Debug, Default)]
pub struct Signals {
    /// Finish after the current block.
    pub finish: AtomicBool,
    /// Give up: the process is to end.
    pub stop: AtomicBool,
}

/// What training a prefix of an assignment gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trained {
    /// Completed blocks.
    pub blocks: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens.
    pub tokens: u64,
    /// Mean loss over all steps.
    pub loss: f64,
    /// Duration.
    pub seconds: f64,
}

/// Progress since the last one.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Blocks done.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Mean loss since the last.
    pub loss: f64,
    /// Speed since the last.
    pub tokens_per_second: f64,
}

/// One optimiser step after another on one model; the weights are flat.
pub struct InnerLoop {
    model: ModelConfig,
    settings: InnerSettings,
    device: Device,
    optimiser: AdamW,
    gradient: Vec<f32>,
}

impl InnerLoop {
    /// With zero moments.
    pub fn new(model: &ModelConfig, settings: &InnerSettings) -> Self {
        Self {
            model: model.clone(),
            settings: settings.clone(),
            device: Device::flex().autodiff(),
            optimiser: AdamW::new(model),
            gradient: vec![0.0; model.parameters()],
        }
    }

    /// One step on a batch at a learning rate; returns the loss before it.
    pub fn step(&mut self, weights: &mut [f32], batch: &Pair, rate: f64) -> Result<f64> {
        let length = self.model.max_position_embeddings;
        let llama = Llama::new(&self.model, weights, &self.device, Form::Fused);
        let (inputs, targets) = (&batch.inputs, &batch.targets);
        let loss = llama.loss_and_gradient(inputs, targets, length, &mut self.gradient);
        if !loss.is_finite() {
            return Err(TrainerError::NotFinite(format!(
                "The training loss became {loss}; lower the learning rate (it is {rate:.3e} here) \
                 or roll the run back to an earlier checkpoint."
            )));
        }
        let norm = self
            .optimiser
            .step(weights, &self.gradient, &self.settings, rate);
        if !norm.is_finite() {
            return Err(TrainerError::NotFinite(format!(
                "The gradient's norm became {norm} at a loss of {loss}; lower the learning rate \
                 (it is {rate:.3e} here) or roll the run back to an earlier checkpoint."
            )));
        }
        Ok(f64::from(loss))
    }

    /// Trains the assignment from `weights`, which then hold the result, until it is done
    /// or a signal ends it. After an error the moments start again at zero.
    pub fn train(
        &mut self,
        weights: &mut [f32],
        tokens: &mut TokenStream,
        request: &TrainRequest,
        signals: &Signals,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Trained> {
        let blocks = check(request, &self.model, &self.settings, tokens)?;
        if self.settings.state == InnerState::Reset {
            self.optimiser = AdamW::new(&self.model);
        }
        let result = self.train_blocks(weights, tokens, request, blocks, signals, report);
        if result.is_err() {
            self.optimiser = AdamW::new(&self.model);
        }
        result
    }

    fn train_blocks(
        &mut self,
        weights: &mut [f32],
        tokens: &mut TokenStream,
        request: &TrainRequest,
        blocks: Blocks,
        signals: &Signals,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Trained> {
        let length = self.model.max_position_embeddings;
        let batch_sequences = self.settings.batch_sequences;
        let of: u64 = request.blocks.iter().map(|(start, end)| end - start).sum();
        let steps_per_block = (blocks.sequences / batch_sequences) as u64;
        let start = Instant::now();
        let mut trained = Trained::default();
        let (mut losses, mut recent) = (0.0, Recent::new());
        let mut batch = Pair::default();
        for block in request.blocks.iter().flat_map(|&(start, end)| start..end) {
            let mut sequences = blocks.sequences_of(block);
            for _ in 0..steps_per_block {
                let began = Instant::now();
                batch.clear();
                for sequence in sequences.by_ref().take(batch_sequences) {
                    batch.push(tokens, sequence * length as u64, length)?;
                }
                // The rate is that of the step's middle, so that the first step of a run
                // does something and cutting a run into assignments changes nothing.
                let part = (trained.steps as f64 + 0.5) / (of * steps_per_block) as f64;
                let from = request.progress_from;
                let rate = self
                    .settings
                    .rate_at(from + (request.progress_to - from) * part);
                let loss = self.step(weights, &batch, rate)?;
                losses += loss;
                trained.steps += 1;
                trained.tokens += batch.inputs.len() as u64;
                recent.add(loss, batch.inputs.len());
                rest(began.elapsed(), request.slowdown, signals);
                if signals.stop.load(Ordering::Relaxed) {
                    return Err(TrainerError::Failed("The trainer was told to stop.".into()));
                }
                if let Some((loss, tokens_per_second)) = recent.due() {
                    report(Progress {
                        done: trained.blocks,
                        of,
                        loss,
                        tokens_per_second,
                    });
                }
            }
            trained.blocks += 1;
            if signals.finish.load(Ordering::Relaxed) {
                break;
            }
        }
        flat::check_finite(weights, "the trained weights")?;
        trained.loss = losses / (trained.steps.max(1)) as f64;
        trained.seconds = start.elapsed().as_secs_f64();
        Ok(trained)
    }
}

/// Loss and speed since the last progress.
struct Recent {
    since: Instant,
    losses: f64,
    steps: u32,
    tokens: usize,
}

impl Recent {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            losses: 0.0,
            steps: 0,
            tokens: 0,
        }
    }
    fn add(&mut self, loss: f64, tokens: usize) {
        self.losses += loss;
        self.steps += 1;
        self.tokens += tokens;
    }
    fn due(&mut self) -> Option<(f64, f64)> {
        let elapsed = self.since.elapsed();
        if elapsed < PROGRESS_EVERY || self.steps == 0 {
            return None;
        }
        let figures = (
            self.losses / f64::from(self.steps),
            self.tokens as f64 / elapsed.as_secs_f64(),
        );
        *self = Self::new();
        Some(figures)
    }
}

/// Sleeps so that what took `worked` takes `slowdown` times as long; wakes for signals.
fn rest(worked: Duration, slowdown: f64, signals: &Signals) {
    let mut left = worked.mul_f64((slowdown - 1.0).clamp(0.0, 1e3));
    let piece = Duration::from_millis(20);
    while !left.is_zero() && !signals.stop.load(Ordering::Relaxed) {
        let now = left.min(piece);
        std::thread::sleep(now);
        left -= now;
    }
}

/// Refuses an assignment that does not fit the loaded model and data.
fn check(
    request: &TrainRequest,
    model: &ModelConfig,
    settings: &InnerSettings,
    tokens: &TokenStream,
) -> Result<Blocks> {
    let refuse = |message: String| Err(TrainerError::BadRequest(message));
    let (sequences, batch) = (request.block_sequences, settings.batch_sequences);
    if batch == 0 || sequences == 0 || sequences % batch != 0 {
        return refuse(format!(
            "block_sequences is {sequences}; it must be a multiple of batch_sequences {batch}"
        ));
    }
    let length = model.max_position_embeddings;
    let available = opengpu_dataset::blocks_per_epoch(tokens.len(), length, sequences);
    if request.blocks_per_epoch == 0 || request.blocks_per_epoch > available {
        return refuse(format!(
            "blocks_per_epoch is {}, but {} tokens hold {available} blocks of {sequences} \
             sequences of {length} tokens",
            request.blocks_per_epoch,
            tokens.len()
        ));
    }
    if request.blocks.is_empty() {
        return refuse("The assignment has no blocks.".into());
    }
    if let Some((start, end)) = request.blocks.iter().find(|(start, end)| start >= end) {
        return refuse(format!("The block range {start} to {end} is empty."));
    }
    let numbers = [request.progress_from, request.progress_to, request.slowdown];
    if numbers.iter().any(|number| !number.is_finite()) {
        return refuse("progress_from, progress_to and slowdown must be finite numbers.".into());
    }
    Ok(Blocks {
        seed: request.seed,
        per_epoch: request.blocks_per_epoch,
        sequences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slowdown_stretches_work_in_proportion_and_a_stop_cuts_it_short() {
        let signals = Signals::default();
        let worked = Duration::from_millis(30);
        let start = Instant::now();
        rest(worked, 1.0, &signals);
        assert!(start.elapsed() < Duration::from_millis(30));
        let start = Instant::now();
        rest(worked, 3.0, &signals);
        assert!(start.elapsed() >= Duration::from_millis(60));
        signals.stop.store(true, Ordering::Relaxed);
        let start = Instant::now();
        rest(Duration::from_secs(3600), 3.0, &signals);
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
