//! Training one assignment, and making its update.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use opengpu_protocol::wire::{Activity, AssignmentPlan, UpdateNotice};
use opengpu_rounds::{AssignmentId, Commitment, FeedbackId, Hash, RunId};
use opengpu_trainer_protocol::{
    Progress, ReplyBody, RequestBody, SharedFile, Sign, TrainRequest, TrainerError,
};
use tokio::sync::watch;

use super::Device;
use super::job::{Buffers, Job};
use super::trainer::preparation;
use crate::journal::{Entry, Journal};

/// How often progress is told, and the trainer that its time is over.
const TICK: Duration = Duration::from_secs(2);
/// A trainer tells how far it is at least after each block. One that is silent for the time of
/// so many, and for so long at least, is taken to hang, and is replaced.
const SILENT_BLOCKS: f64 = 20.0;
const LEAST_SILENCE: Duration = Duration::from_secs(20);
/// While its speed is not known it may be as slow as so many floating-point operations a second.
const SLOWEST_DEVICE: f64 = 1e9;
const LEAST_SILENCE_UNKNOWN: Duration = Duration::from_secs(120);

/// What a trainer says of a finished assignment.
struct Trained {
    blocks_completed: u64,
    loss: f64,
    seconds: f64,
    numerics_class: String,
}

/// How long a trainer may be silent while it trains or is measured.
pub(super) fn longest_silence(job: &Job, slowdown: f64) -> Duration {
    if job.blocks_per_second > 0.0 {
        let blocks = Duration::try_from_secs_f64(SILENT_BLOCKS / job.blocks_per_second);
        return blocks.unwrap_or(Duration::MAX).max(LEAST_SILENCE);
    }
    // A token costs about six operations a parameter, forward and backward; a measurement
    // trains several blocks before it speaks.
    let tokens = (job.spec.block_sequences * job.model.max_position_embeddings) as f64;
    let operations = 4.0 * 6.0 * job.layout.len() as f64 * tokens;
    let block = Duration::try_from_secs_f64(operations * slowdown / SLOWEST_DEVICE);
    block.unwrap_or(Duration::MAX).max(LEAST_SILENCE_UNKNOWN)
}

impl Device {
    /// Tells the trainer of model and data.
    pub(super) async fn load(&mut self) -> anyhow::Result<()> {
        self.prepare("loading the model into the trainer");
        let weights = self.shared.folder.find(&self.weights_name());
        let weights = weights.context("the weights are gone from shared memory")?;
        let job = self.job()?;
        let request = RequestBody::Load {
            model: job.model.clone(),
            weights,
            tokens: Some(job.tokens.clone()),
            inner: job.spec.inner.clone(),
        };
        let expected = job.layout.len() as u64;
        match self.ask(request).await? {
            ReplyBody::Loaded { parameters } if parameters == expected => {}
            other => anyhow::bail!(
                "the trainer answered {other:?} where a model of {expected} weights was loaded"
            ),
        }
        self.job()?.loaded = true;
        Ok(())
    }

    /// Measures the speed.
    pub(super) async fn calibrate(&mut self) -> anyhow::Result<()> {
        self.prepare("measuring the speed");
        let slowdown = self.settings.slowdown.max(1.0);
        let job = self.job()?;
        let (block_sequences, silence) = (job.spec.block_sequences, longest_silence(job, slowdown));
        let request = RequestBody::Calibrate { block_sequences };
        match self.ask_within(request, silence).await? {
            ReplyBody::Calibrated {
                blocks_per_second,
                micro_batch,
                numerics_class,
                ..
            } => {
                self.job()?.blocks_per_second = (blocks_per_second / slowdown).max(1e-6);
                let device = self.number;
                tracing::info!(
                    device,
                    blocks_per_second,
                    micro_batch,
                    numerics_class,
                    "calibrated"
                );
                Ok(())
            }
            other => anyhow::bail!("the trainer answered {other:?} to a calibration"),
        }
    }

    pub(super) async fn ask(&mut self, request: RequestBody) -> anyhow::Result<ReplyBody> {
        let process = self.trainer.process().context("the trainer is gone")?;
        let answer = process.request(request).await;
        drop(process);
        answer.map_err(|error| {
            self.trainer.note(&error);
            error.into()
        })
    }

    /// The same with a patience of its own: the answer takes a while.
    async fn ask_within(
        &mut self,
        request: RequestBody,
        silence: Duration,
    ) -> anyhow::Result<ReplyBody> {
        let process = self.trainer.process().context("the trainer is gone")?;
        let answer = {
            let (told, mut heard) = watch::channel(String::new());
            let asking = process.ask(request, silence, move |sign| {
                if let Some(what) = preparation(sign) {
                    told.send_replace(what);
                }
            });
            tokio::pin!(asking);
            loop {
                tokio::select! {
                    biased;
                    answer = &mut asking => break answer,
                    Ok(()) = heard.changed() => {
                        let what = heard.borrow_and_update().clone();
                        self.prepare(&what);
                    }
                }
            }
        };
        drop(process);
        answer.map_err(|error| {
            self.trainer.note(&error);
            error.into()
        })
    }

    /// Trains an assignment until its blocks are done or its time is over, and journals the
    /// update that comes of it.
    pub(super) async fn train(&mut self, assignment: AssignmentPlan) -> anyhow::Result<()> {
        let deadline = self.deadline(&assignment).unwrap_or_else(Instant::now);
        let process = self.trainer.process().context("the trainer is gone")?;
        let number = self.number;
        self.shared
            .board
            .device(number, |status| status.round = Some(assignment.round));
        let name = self.local_name();
        let folder = self.shared.folder.clone();
        let slowdown = self.settings.slowdown.max(1.0);
        let job = self.job()?;
        let (run, lineage) = (job.run, job.lineage);
        // The block that is then under way ends by the deadline: all others wait for the
        // last update of a round.
        let block = Duration::try_from_secs_f64(1.0 / job.blocks_per_second).unwrap_or_default();
        let finish_at = deadline.checked_sub(block).unwrap_or(deadline);
        let silence = longest_silence(job, slowdown);
        // Made here, so that its space is there and stays ours; the trainer writes it.
        let out = folder
            .create(&name, job.layout.len() as u64 * 4)?
            .path()
            .to_owned();
        let request = TrainRequest {
            blocks: assignment
                .blocks
                .iter()
                .map(|range| (range.start, range.end))
                .collect(),
            blocks_per_epoch: job.blocks_per_epoch,
            block_sequences: job.spec.block_sequences,
            seed: job.spec.seed,
            progress_from: assignment.progress_from,
            progress_to: assignment.progress_to,
            at_most_blocks: None,
            out: out.clone(),
            slowdown,
        };
        let id = assignment.assignment;
        let doing = |progress: Option<Progress>| Activity::Training {
            assignment: id,
            blocks_done: progress.map_or(0, |progress| progress.done),
            loss: progress.map_or(0.0, |progress| finite(progress.loss)),
            tokens_per_second: progress.map_or(0.0, |progress| finite(progress.tokens_per_second)),
        };
        self.say(doing(None), None);

        let latest = Arc::new(Mutex::new(None));
        let heard = latest.clone();
        let training = process.ask(RequestBody::Train(request), silence, move |sign| {
            if let Sign::Progress(progress) = sign {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
            }
        });
        tokio::pin!(training);
        let mut told: Option<Instant> = None;
        let mut tick = tokio::time::interval(TICK);
        let answer = loop {
            // Told again while it goes on: a trainer ignores it until it has read its task.
            let due = told.is_none_or(|at| at.elapsed() >= TICK);
            if due && (Instant::now() >= finish_at || self.is_obsolete(run, lineage, id)) {
                told = Some(Instant::now());
                let _ = tokio::time::timeout(TICK / 10, process.finish()).await;
            }
            tokio::select! {
                biased;
                answer = &mut training => break answer,
                result = self.outbox.answered() => self.sent(result).await,
                _ = self.shared.line.changed() => self.settle_verdicts().await,
                () = tokio::time::sleep_until(finish_at.into()), if told.is_none() => {}
                _ = tick.tick() => {
                    self.settle_verdicts().await;
                    let progress = *latest.lock().unwrap_or_else(PoisonError::into_inner);
                    self.say(doing(progress), None);
                }
            }
        };
        let trained = match answer {
            Ok(ReplyBody::Trained {
                blocks_completed,
                loss,
                seconds,
                numerics_class,
                ..
            }) => Trained {
                blocks_completed,
                loss,
                seconds,
                numerics_class,
            },
            Ok(other) => {
                self.give_up(id, &format!("the trainer answered {other:?}"));
                return Ok(());
            }
            Err(error) => return self.training_failed(&assignment, &error),
        };
        if self.job()?.lineage != lineage {
            return Ok(());
        }
        self.trained(&assignment, trained, &out).await
    }

    /// Whether the coordinator plans something else by now. A plan without the worker says
    /// nothing: a coordinator that was started anew has yet to hear of it.
    fn is_obsolete(&self, run: RunId, lineage: u32, id: AssignmentId) -> bool {
        let Some(planned) = self.plan().and_then(|plan| plan.run) else {
            return false;
        };
        let assignment = planned.assignment.map(|planned| planned.assignment);
        planned.run != run
            || planned.revision.lineage != lineage
            || assignment.is_some_and(|planned| planned != id)
    }

    fn training_failed(
        &mut self,
        assignment: &AssignmentPlan,
        error: &TrainerError,
    ) -> anyhow::Result<()> {
        self.trainer.note(error);
        if let Some(job) = &mut self.job {
            job.loaded = false;
        }
        if error.is_fatal() {
            // A new trainer tries it again, if there is time left by then.
            anyhow::bail!("{error}");
        }
        self.give_up(assignment.assignment, &error.to_string());
        Ok(())
    }

    /// Takes the update out of the error feedback and journals it.
    async fn trained(
        &mut self,
        assignment: &AssignmentPlan,
        trained: Trained,
        out: &Path,
    ) -> anyhow::Result<()> {
        let id = assignment.assignment;
        self.shared
            .board
            .device(self.number, |status| status.trained += 1);
        tracing::info!(
            device = self.number,
            round = assignment.round,
            blocks = trained.blocks_completed,
            seconds = trained.seconds,
            loss = trained.loss,
            "trained"
        );
        if trained.blocks_completed == 0 {
            self.give_up(id, "not one block was done in time");
            return Ok(());
        }
        if trained.seconds > 0.0 {
            let measured = trained.blocks_completed as f64 / trained.seconds;
            let job = self.job()?;
            // Half of the newest and half of the past: machines have other things to do.
            let past = if job.blocks_per_second > 0.0 {
                job.blocks_per_second
            } else {
                measured
            };
            job.blocks_per_second = 0.5 * (measured + past);
        }
        self.say(Activity::Sending { assignment: id }, None);
        let worker = self.worker.context("the device was not offered")?;
        let (base, out) = (assignment.base, out.to_owned());
        let mut journal = self.journal.clone();
        let notice = move |payload: &[u8], feedback, commitment: Option<Commitment>| UpdateNotice {
            worker,
            assignment: id,
            base,
            blocks_completed: trained.blocks_completed,
            payload: Hash::of(payload),
            payload_bytes: payload.len() as u64,
            feedback,
            loss: finite(trained.loss),
            train_seconds: finite(trained.seconds),
            numerics_class: commitment.is_some().then_some(trained.numerics_class),
            commitment,
        };
        let made = self
            .compute(move |job, buffers| {
                let made = make_update(job, buffers, &mut journal, id, notice, &out);
                (journal, made)
            })
            .await;
        let made = match made {
            Ok((journal, made)) => {
                self.journal = journal;
                made
            }
            Err(error) => {
                self.journal = Journal::open(&self.shared.home, self.number)?;
                return Err(error);
            }
        };
        match made {
            Ok(entry) => self.outbox.add(&entry),
            Err(error) => {
                self.give_up(id, &format!("its update could not be made: {error:#}"));
                if self.job()?.spec.round.audit.enabled {
                    self.start_feedback("the update could not be made").await?;
                }
            }
        }
        Ok(())
    }
}

/// JSON has no word for other numbers.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// On the blocking pool: Δ into the error feedback, the payload out of it and into the
/// journal, before the feedback counts as clean.
fn make_update(
    job: &Job,
    buffers: &mut Buffers,
    journal: &mut Journal,
    id: AssignmentId,
    notice: impl FnOnce(&[u8], FeedbackId, Option<Commitment>) -> UpdateNotice,
    out: &Path,
) -> anyhow::Result<Entry> {
    let local = SharedFile::open(out).context("the trainer left no weights")?;
    let (layout, codec, decay) = (&job.layout, job.up(), job.spec.sync.feedback_decay);
    let Buffers { weights, feedback } = buffers;
    let (global, life) = (weights.as_f32(), feedback.id());
    if job.spec.round.audit.enabled {
        let local = local.as_f32();
        return feedback.send_committed(
            id,
            layout,
            |e| {
                opengpu_merge::feedback::accumulate(codec, layout, decay, e, global, local)?;
                Ok(())
            },
            |e, commitment| {
                let payload = opengpu_merge::encode(codec, layout, e)?;
                let entry = Entry {
                    run: job.run,
                    notice: notice(&payload, life, Some(commitment)),
                };
                journal.write(entry.clone(), &payload)?;
                Ok(entry)
            },
        );
    }
    let taken = feedback.send(id, |values| {
        let sent =
            opengpu_merge::feedback::send(codec, layout, decay, values, global, local.as_f32());
        let payload = sent?;
        let entry = Entry {
            run: job.run,
            notice: notice(&payload, life, None),
        };
        if let Err(error) = journal.write(entry.clone(), &payload) {
            // Back into the buffer: the progress goes into the next update instead.
            opengpu_merge::feedback::restore(layout, &payload, 1.0, values)?;
            return Err(anyhow::Error::from(error));
        }
        Ok(entry)
    });
    if taken.is_err() {
        feedback.nothing_sent();
    }
    taken
}
