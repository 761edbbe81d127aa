//! Inner steps over an assignment's blocks.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opengpu_dataset::TokenStream;
use opengpu_trainer_protocol::{InnerSettings, InnerState, ModelConfig, TrainRequest};

use crate::compute::{Compute, Forms};
use crate::device::{Chosen, Kind, Memory};
use crate::error::{Result, TrainerError};
use crate::flat;
use crate::gradient::Gradient;
use crate::kernels::{OutOfMemory, buffer};
use crate::memory::{self, Plan};
use crate::model::Llama;
use crate::optimiser::Optimiser;
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

/// One optimiser step after another on one model.
pub struct InnerLoop {
    model: ModelConfig,
    settings: InnerSettings,
    compute: Compute,
    plan: Plan,
    /// Whether memory ran out during the assignment, so that its steps were not all alike.
    cut_again: bool,
    optimiser: Optimiser,
}

impl InnerLoop {
    /// With zero moments, on the CPU.
    pub fn new(model: &ModelConfig, settings: &InnerSettings) -> Self {
        Self::on(model, settings, &Chosen::cpu())
    }

    /// With zero moments, on a device.
    pub fn on(model: &ModelConfig, settings: &InnerSettings, device: &Chosen) -> Self {
        let (mut compute, complaint) = Compute::of(settings, device);
        if let Some(complaint) = complaint {
            eprintln!("{complaint}");
        }
        let budget = match device.memory {
            Memory::Shared => memory::budget(),
            Memory::Own(Some(bytes)) => memory::most_of(bytes).min(memory::allowed()),
            // The first step finds out.
            Memory::Own(None) => memory::allowed(),
        };
        if device.kind == Kind::Cpu {
            memory::hold_to(budget, model, settings.optimizer);
        }
        let plan = Plan::fitting(model, settings, budget);
        compute.recompute = plan.recompute;
        Self {
            model: model.clone(),
            settings: settings.clone(),
            compute,
            plan,
            cut_again: false,
            optimiser: Optimiser::default(),
        }
    }

    /// With batches cut into parts of at most so many sequences.
    pub fn with_micro_batch(mut self, sequences: usize) -> Self {
        self.plan.micro_batch = sequences.clamp(1, self.settings.batch_sequences.max(1));
        self
    }

    /// With other forms of the operations.
    pub fn with_forms(mut self, forms: Forms) -> Self {
        self.compute.forms = forms;
        self
    }

    /// Inside one class the same assignment gives the same bytes.
    pub fn numerics_class(&self) -> String {
        let class = self.compute.numerics_class(self.plan.micro_batch);
        match self.cut_again {
            true => format!("{class}, approximately"),
            false => class,
        }
    }

    /// Sequences worked on at a time.
    pub fn micro_batch(&self) -> usize {
        self.plan.micro_batch
    }

    /// A model to train, with these flat weights.
    pub fn place(&self, weights: &[f32]) -> Llama {
        Llama::new(&self.model, weights, &self.compute)
    }

    /// One step on a batch at a learning rate; returns the loss before it.
    pub fn step(&mut self, llama: &mut Llama, batch: &Pair, rate: f64) -> Result<f64> {
        let (loss, gradient) = self.loss_and_gradient(llama, batch)?;
        if !loss.is_finite() {
            return Err(TrainerError::NotFinite(format!(
                "The training loss became {loss}; lower the learning rate (it is {rate:.3e} here) \
                 or roll the run back to an earlier checkpoint."
            )));
        }
        let norm = self.optimiser.step(llama, gradient, &self.settings, rate);
        if !norm.is_finite() {
            return Err(TrainerError::NotFinite(format!(
                "The gradient's norm became {norm} at a loss of {loss}; lower the learning rate \
                 (it is {rate:.3e} here) or roll the run back to an earlier checkpoint."
            )));
        }
        Ok(loss)
    }

    /// Mean loss and gradient over a batch, in parts that fit into memory: where one does
    /// not, the batch begins again with smaller ones.
    fn loss_and_gradient(&mut self, llama: &mut Llama, batch: &Pair) -> Result<(f64, Gradient)> {
        loop {
            let plan = self.plan;
            let attempt = || in_parts(llama, batch, self.model.max_position_embeddings, plan);
            let bytes = match catch_unwind(AssertUnwindSafe(attempt)) {
                Ok(result) => return Ok(result),
                Err(panic) => match missing_bytes(&*panic) {
                    Some(bytes) => bytes,
                    None => resume_unwind(panic),
                },
            };
            llama.forget_unfinished();
            buffer::release_idle();
            let Some(smaller) = plan.smaller() else {
                return Err(TrainerError::OutOfMemory(format!(
                    "A training step of one sequence does not fit into memory ({bytes} bytes more \
                     could not be had); train a smaller model or a shorter context here, free \
                     memory, or allow more (`join --memory`)."
                )));
            };
            eprintln!(
                "Out of memory ({bytes} bytes more could not be had); going on with {} sequences \
                 at a time{}.",
                smaller.micro_batch,
                if smaller.recompute {
                    " and recomputation"
                } else {
                    ""
                }
            );
            self.plan = smaller;
            self.cut_again = true;
            self.compute.recompute = smaller.recompute;
            llama.set_recompute(smaller.recompute);
        }
    }

    /// Trains the assignment from `weights` until it is done or a signal ends it; returns
    /// the weights that result. After an error the moments start again at zero.
    pub fn train(
        &mut self,
        weights: Vec<f32>,
        tokens: &mut TokenStream,
        request: &TrainRequest,
        signals: &Signals,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(Trained, Vec<f32>)> {
        let blocks = check(request, &self.model, &self.settings, tokens)?;
        self.cut_again = false;
        if self.settings.state == InnerState::Reset {
            self.optimiser = Optimiser::default();
        }
        let mut llama = self.place(&weights);
        drop(weights);
        let result = self.train_blocks(&mut llama, tokens, request, blocks, signals, report);
        buffer::release_idle();
        match result {
            Ok(trained) => {
                let weights = llama.weights();
                flat::check_finite(&weights, "the trained weights")?;
                Ok((trained, weights))
            }
            Err(error) => {
                self.optimiser = Optimiser::default();
                Err(error)
            }
        }
    }

    fn train_blocks(
        &mut self,
        llama: &mut Llama,
        tokens: &mut TokenStream,
        request: &TrainRequest,
        blocks: Blocks,
        signals: &Signals,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Trained> {
        let length = self.model.max_position_embeddings;
        let batch_sequences = self.settings.batch_sequences;
        let of: u64 = request
            .blocks
            .iter()
            .fold(0u64, |sum, (start, end)| sum.saturating_add(end - start));
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
                let progress = from + (request.progress_to - from) * part;
                let warmup = self.settings.round_factor(trained.steps);
                let rate = self.settings.rate_at(progress) * warmup;
                let loss = self.step(llama, &batch, rate)?;
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
            let enough = request
                .at_most_blocks
                .is_some_and(|most| trained.blocks >= most);
            if enough || signals.finish.load(Ordering::Relaxed) {
                break;
            }
        }
        trained.loss = losses / (trained.steps.max(1)) as f64;
        trained.seconds = start.elapsed().as_secs_f64();
        Ok(trained)
    }
}

/// The bytes that were missing, if a computation ended for want of memory. Burn's GPU
/// backends say so in words alone, without a number.
fn missing_bytes(panic: &(dyn Any + Send)) -> Option<usize> {
    if let Some(out_of_memory) = panic.downcast_ref::<OutOfMemory>() {
        return Some(out_of_memory.bytes);
    }
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied())?;
    let text = text.to_lowercase().replace(['_', '-'], " ");
    (text.contains("out of memory") || text.contains("outofmemory")).then_some(0)
}

/// Mean loss and gradient over a batch, a part after the other.
fn in_parts(llama: &mut Llama, batch: &Pair, length: usize, plan: Plan) -> (f64, Gradient) {
    let part = plan.micro_batch * length;
    let parts = batch.inputs.chunks(part).zip(batch.targets.chunks(part));
    let (mut mean, mut sum) = (0.0, None::<Gradient>);
    for (inputs, targets) in parts {
        let share = inputs.len() as f32 / batch.inputs.len() as f32;
        let (loss, gradient) = llama.loss_and_gradient(inputs, targets, length, share);
        mean += f64::from(loss) * f64::from(share);
        sum = Some(match sum {
            None => gradient,
            Some(sum) => sum.plus(gradient),
        });
    }
    (mean, sum.expect("a batch has sequences"))
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
