//! Held-out losses: which are due, and the one queue in which they are measured. Rounds
//! never wait for it; a quick look that finds the queue full is left out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use opengpu_protocol::wire::Evaluation;
use opengpu_rounds::{Input, Phase, Revision};
use opengpu_trainer_protocol::TokenFiles;
use tokio::sync::mpsc;

use super::LiveRun;
use super::probe::Merged;
use super::spike::Probe;
use super::weights_file::WeightsFile;
use crate::Coordinator;
use crate::trainer::{Trainer, token_files};

/// Windows of a quick look.
const QUICK_WINDOWS: usize = 64;
/// Attempts at an evaluation, and the pause after the first that failed.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// Evaluations that may wait.
pub const QUEUE: usize = 4;

/// A held-out loss that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// Of which weights.
    pub revision: Revision,
    /// Over all held-out tokens, or a quick look.
    pub full: bool,
}

/// What is measured.
pub enum What {
    /// A held-out loss.
    HeldOut(Due),
    /// A merge, and what stood out in it.
    Merge(Merged),
}

/// An evaluation to be made.
pub struct Evaluate {
    /// Of which run.
    pub run: Arc<LiveRun>,
    /// What.
    pub what: What,
    /// Its weights.
    pub weights: WeightsFile,
}

/// What is due now: the first weights in full, every so many rounds a quick look, the last
/// weights in full.
pub fn due(run: &LiveRun) -> Option<Due> {
    if run.dataset.held_out.tokens == 0 {
        return None;
    }
    let (revision, has_weights, finished, first) = {
        let state = run.state();
        let first = state
            .checkpoints()
            .iter()
            .find(|c| c.revision.number == 0)
            .map(|c| c.revision);
        (
            state.revision(),
            state.digest().is_some(),
            state.phase() == Phase::Finished,
            first,
        )
    };
    if !has_weights {
        return None;
    }
    let losses = run.losses();
    let in_full = |revision| {
        let known = losses.evaluations.get(&revision);
        known.is_some_and(|known| {
            known.bits_per_byte.is_some() || run.dataset.held_out.text_bytes == 0
        })
    };
    if let Some(first) = first
        && !in_full(first)
    {
        return Some(Due {
            revision: first,
            full: true,
        });
    }
    if finished {
        return (!in_full(revision)).then_some(Due {
            revision,
            full: true,
        });
    }
    let every = run.spec.evaluate_every;
    let quick = every > 0
        && revision.number > 0
        && revision.number.is_multiple_of(every)
        && !losses.evaluations.contains_key(&revision);
    quick.then_some(Due {
        revision,
        full: false,
    })
}

/// Measures until nobody can ask any more.
pub async fn measure(coordinator: Coordinator, mut queue: mpsc::Receiver<Evaluate>) {
    let (store, blobs) = (coordinator.store(), coordinator.blobs());
    let (trainer, shared) = (coordinator.trainer(), coordinator.shared_folder());
    while let Some(Evaluate { run, what, weights }) = queue.recv().await {
        let held_out = &run.dataset.held_out;
        let files = held_out
            .shards
            .iter()
            .map(|shard| blobs.path(shard.hash))
            .collect();
        let tokens = token_files(&run.dataset, held_out, files);
        let probe = Probe {
            run: &run,
            blobs,
            trainer: &trainer,
            shared: &shared,
            tokens: &tokens,
        };
        let due = match what {
            What::HeldOut(due) => due,
            What::Merge(merged) => {
                probe.merge(&merged, &weights, &coordinator).await;
                continue;
            }
        };
        let measured = evaluate(&trainer, &run, due, weights.path(), &tokens).await;
        drop(weights);
        if let Ok(evaluation) = &measured {
            let loss = evaluation.nats_per_token;
            let look = probe
                .look(due.revision, loss.is_finite().then_some(loss))
                .await;
            // Before it is stored: what is cut short between the two is measured again.
            if let Err(error) = run.ask(Input::HeldOut(look), None).await {
                tracing::warn!(run = %run.id, revision = %due.revision, %error, "nothing followed from a held-out loss");
            }
        }
        match measured.and_then(finite) {
            Ok(mut evaluation) => {
                if !due.full {
                    evaluation.bits_per_byte = None;
                }
                tracing::info!(
                    run = %run.id, revision = %due.revision, full = due.full,
                    nats_per_token = evaluation.nats_per_token, "held-out loss"
                );
                {
                    let mut losses = run.losses();
                    losses.unmeasured.remove(&due.revision);
                    losses.evaluations.insert(due.revision, evaluation);
                }
                if let Err(error) = store.put_evaluation(run.id, &evaluation).await {
                    tracing::error!(
                        error = format!("{:#}", anyhow::Error::from(error)),
                        "a held-out loss could not be stored"
                    );
                }
                run.changed();
            }
            Err(error) => {
                tracing::error!(
                    run = %run.id, revision = %due.revision, error = format!("{error:#}"),
                    "a held-out loss could not be measured, and is given up"
                );
                run.unmeasured(due, &error);
            }
        }
    }
}

/// Weights that have diverged have no loss that could be written down.
fn finite(evaluation: Evaluation) -> anyhow::Result<Evaluation> {
    let fine = evaluation.nats_per_token.is_finite()
        && evaluation.bits_per_byte.is_none_or(f64::is_finite);
    ensure!(
        fine,
        "the loss is {}: the model has diverged",
        evaluation.nats_per_token
    );
    Ok(evaluation)
}

/// Evaluates, and again after a pause if the trainer failed: whoever follows the run waits for
/// the loss of its last weights.
async fn evaluate(
    trainer: &Trainer,
    run: &LiveRun,
    due: Due,
    weights: &Path,
    tokens: &TokenFiles,
) -> anyhow::Result<Evaluation> {
    let windows = (!due.full).then_some(QUICK_WINDOWS);
    let mut attempt = 1;
    loop {
        let measured = trainer
            .evaluate(due.revision, &run.model, weights, tokens.clone(), windows)
            .await;
        match measured {
            Err(error) if attempt < ATTEMPTS => {
                tracing::warn!(
                    run = %run.id, revision = %due.revision, attempt, error = format!("{error:#}"),
                    "a held-out loss could not be measured; it is tried again"
                );
                tokio::time::sleep(PAUSE * attempt).await;
                attempt += 1;
            }
            last => return last,
        }
    }
}
