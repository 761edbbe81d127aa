//! What the state asks for: derived from it after every decision, so that the state itself
//! is the outbox. Asking twice is harmless; what is in flight is remembered only to save work.

use std::collections::BTreeSet;
use std::time::Duration;

use opengpu_rounds::{Input, Revision};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::LiveRun;
use super::evaluator::{Due, Evaluate, QUEUE, What, due};
use super::probe::Merged;
use super::spike::awaits_look;
use super::weights_file::WeightsFile;
use super::workshop::{Done, Failed, Job, Recipe};

/// First pause before something that failed is tried again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Attempts at a copy of the weights for an evaluation.
const COPIES: u32 = 5;

/// Work in flight for one run.
pub struct Effects {
    jobs: mpsc::Sender<Job>,
    evaluations: mpsc::Sender<Evaluate>,
    merge: Option<(u64, Revision)>,
    checkpoint: bool,
    asked: BTreeSet<Due>,
    copying: Option<(What, oneshot::Receiver<anyhow::Result<WeightsFile>>)>,
    /// The newest merge, if it is still to be probed.
    merged: Option<Merged>,
    failed_copies: u32,
    copy_not_before: Option<Instant>,
    /// What failed last, for which nothing is started before then.
    failing: Option<Failed>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Effects {
    /// Nothing in flight.
    pub fn new(jobs: mpsc::Sender<Job>, evaluations: mpsc::Sender<Evaluate>) -> Self {
        Self {
            jobs,
            evaluations,
            merge: None,
            checkpoint: false,
            asked: BTreeSet::new(),
            copying: None,
            merged: None,
            failed_copies: 0,
            copy_not_before: None,
            failing: None,
            pause: FIRST_PAUSE,
            not_before: None,
        }
    }

    /// When [`look`](Self::look) should be called again even if nothing happens.
    pub fn wake(&self) -> Option<Instant> {
        if self.copying.is_some() {
            return Some(Instant::now() + Duration::from_millis(50));
        }
        self.not_before
    }

    /// Forgets what is in flight, after the state was read again.
    pub fn forget(&mut self) {
        self.merge = None;
        self.checkpoint = false;
    }

    /// Starts what the state asks for and is not in flight.
    pub fn look(&mut self, run: &std::sync::Arc<LiveRun>) {
        self.hand_over_copy(run);
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        self.not_before = None;
        // A full queue is no loss: the state asks again at the next look.
        let (merge, checkpoint, recipe) = {
            let state = run.state();
            let merge = state.pending_merge();
            let checkpoint = state.pending_checkpoint(run.spec.checkpoint_every);
            (merge, checkpoint, Recipe::newest(&state))
        };
        match (merge, &recipe) {
            (Some(pending), Some(recipe)) => {
                let key = (pending.round, pending.base);
                if self.merge != Some(key)
                    && self
                        .jobs
                        .try_send(Job::Merge(pending, recipe.clone()))
                        .is_ok()
                {
                    self.merge = Some(key);
                }
            }
            _ => self.merge = None,
        }
        // One at a time: while a large one is written the run goes on, and the next one that
        // is due is that of whatever is newest then.
        if checkpoint.is_some() && !self.checkpoint && !awaits_look(run) {
            let job = recipe.clone().map_or(Job::Initialise, Job::Checkpoint);
            if self.jobs.try_send(job).is_ok() {
                self.checkpoint = true;
            }
        }
        self.look_at_evaluations(run, recipe.as_ref());
        self.look_at_merge(run, recipe);
    }

    /// What came of a job, as an input for the state; None when there is nothing to decide.
    pub fn input_of(&mut self, run: &LiveRun, done: Done) -> Option<Input> {
        match done {
            Done::Merged {
                round,
                merge,
                merge_bytes,
                digest,
                factors,
                regards,
            } => {
                self.succeeded(run, Failed::Merge);
                Some(Input::MergeDone {
                    round,
                    merge,
                    merge_bytes,
                    digest,
                    factors,
                    regards,
                })
            }
            Done::Unmergeable(reason) => Some(Input::MergeFailed { reason }),
            Done::Checkpointed(checkpoint) => {
                self.succeeded(run, Failed::Checkpoint);
                self.checkpoint = false;
                Some(Input::CheckpointDone {
                    revision: checkpoint.revision,
                    weights: checkpoint.weights,
                    outer_state: checkpoint.outer_state,
                })
            }
            Done::Failed { job, error } => {
                tracing::error!(
                    run = %run.id, ?job, error = format!("{error:#}"),
                    again_in_seconds = self.pause.as_secs(), "work for a run failed and will be tried again"
                );
                run.set_trouble(Some(format!(
                    "{} failed and is tried again: {error:#}",
                    job.what()
                )));
                self.failing = Some(job);
                match job {
                    Failed::Merge => self.merge = None,
                    Failed::Checkpoint => self.checkpoint = false,
                }
                self.not_before = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LAST_PAUSE);
                None
            }
        }
    }

    /// Ends the trouble with this kind of job; another kind may still fail.
    fn succeeded(&mut self, run: &LiveRun, job: Failed) {
        if self.failing == Some(job) {
            self.failing = None;
            self.pause = FIRST_PAUSE;
            run.set_trouble(None);
        }
    }

    fn look_at_evaluations(&mut self, run: &LiveRun, recipe: Option<&Recipe>) {
        let (Some(due), Some(recipe)) = (due(run), recipe) else {
            return;
        };
        let too_soon = self
            .copy_not_before
            .is_some_and(|time| Instant::now() < time);
        if self.copying.is_some()
            || too_soon
            || self.asked.contains(&due)
            || self.evaluations.capacity() == 0
        {
            return;
        }
        // Older weights than the newest are at hand only as a checkpoint.
        let recipe = if due.revision == recipe.target {
            recipe.clone()
        } else {
            let state = run.state();
            let Some(recipe) = Recipe::of_checkpoint(&state, due.revision) else {
                return;
            };
            recipe
        };
        let (reply, copy) = oneshot::channel();
        if self.jobs.try_send(Job::Copy(recipe, reply)).is_ok() {
            self.copying = Some((What::HeldOut(due), copy));
            self.asked.insert(due);
        }
    }

    /// A merge is durable. What was not begun of the one before it is left out.
    pub fn probe(&mut self, merged: Option<Merged>) {
        self.merged = merged;
    }

    /// Has the newest merge probed, if there is time for that: the weights have not gone on, and
    /// few held-out losses wait.
    fn look_at_merge(&mut self, run: &LiveRun, recipe: Option<Recipe>) {
        if self.copying.is_some() {
            return;
        }
        let Some(merged) = self.merged.take() else {
            return;
        };
        let newest = recipe.filter(|recipe| recipe.target == merged.revision);
        let Some(recipe) = newest.filter(|_| self.evaluations.capacity() > QUEUE / 2) else {
            tracing::debug!(run = %run.id, revision = %merged.revision, "a merge was not probed: measuring is behind");
            return;
        };
        let (reply, copy) = oneshot::channel();
        if self.jobs.try_send(Job::Copy(recipe, reply)).is_ok() {
            self.copying = Some((What::Merge(merged), copy));
        }
    }

    fn hand_over_copy(&mut self, run: &std::sync::Arc<LiveRun>) {
        let Some((what, mut copy)) = self.copying.take() else {
            return;
        };
        let copied = copy.try_recv();
        let due = match (&what, &copied) {
            (_, Err(oneshot::error::TryRecvError::Empty)) => {
                self.copying = Some((what, copy));
                return;
            }
            (What::HeldOut(due), _) => Some(*due),
            (What::Merge(_), _) => None,
        };
        match copied {
            Ok(Ok(weights)) => {
                self.failed_copies = 0;
                let run = std::sync::Arc::clone(run);
                let sent = self.evaluations.try_send(Evaluate { run, what, weights });
                if let Some(due) = due.filter(|_| sent.is_err()) {
                    self.asked.remove(&due);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(run = %run.id, error = format!("{error:#}"), "no weights for an evaluation");
                let Some(due) = due else { return };
                self.failed_copies += 1;
                if self.failed_copies < COPIES {
                    self.asked.remove(&due);
                    let pause = FIRST_PAUSE * 2u32.pow(self.failed_copies);
                    self.copy_not_before = Some(Instant::now() + pause);
                } else {
                    run.unmeasured(due, &error);
                }
            }
            Err(_) => {}
        }
    }
}
