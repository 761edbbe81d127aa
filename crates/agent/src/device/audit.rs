//! Training another worker's assignment again, as a node is asked that an operator vouches for.
//! Whose it was is not said, and what was sent for it stays with the coordinator.
//!
//! Whatever goes wrong here is said to the coordinator, which asks somebody else, and keeps the
//! device from nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use opengpu_merge::audit::Again;
use opengpu_protocol::Download;
use opengpu_protocol::audits::{AuditDeclined, AuditPlan};
use opengpu_rounds::{Hash, RunId};
use opengpu_trainer_protocol::{ReplyBody, RequestBody, SharedFile, Sign, TrainRequest};
use tokio::sync::watch;

use super::Device;
use super::job::Job;
use super::train::longest_silence;
use crate::connection::chain;
use crate::mirror::read_weights;

/// How often it is looked whether the audit is still asked for.
const TICK: Duration = Duration::from_secs(2);
/// Answered audits that are remembered: a plan names one until the answer arrived.
const REMEMBERED: usize = 16;

/// Weights that an audited assignment starts from.
enum Base {
    /// Those that the worker holds.
    Held,
    /// Others, in a file of their own.
    Made(SharedFile),
}

impl Device {
    /// Trains an assignment again and answers, or says why not.
    pub(super) async fn audit(&mut self, plan: AuditPlan) -> anyhow::Result<()> {
        let (run, number) = (self.job()?.run, plan.number);
        self.audited.push_back(number);
        while self.audited.len() > REMEMBERED {
            self.audited.pop_front();
        }
        self.prepare("training an assignment again, for an audit");
        let again = self.train_again(&plan).await;
        // The second file of weights is given back at once.
        let _ = self.shared.folder.remove(&self.audit_name());
        match again {
            Ok(Some(again)) => self.answer(run, number, &again),
            Ok(None) => tracing::info!(
                device = self.number,
                number,
                "an audit is not asked for any more"
            ),
            Err(error) => self.decline(run, number, format!("{error:#}")),
        }
        Ok(())
    }

    fn answer(&self, run: RunId, number: u64, again: &Again) {
        let (client, device, bytes) = (self.shared.client.clone(), self.number, again.write());
        tokio::spawn(async move {
            let hash = Hash::of(&bytes);
            match client.put_audit(run, number, hash, bytes.into()).await {
                Ok(()) => tracing::info!(device, %run, number, "trained an assignment again"),
                Err(error) => tracing::info!(
                    device, %run, number, error = chain(&error),
                    "what training an assignment again gave was not taken"
                ),
            }
        });
    }

    fn decline(&self, run: RunId, number: u64, reason: String) {
        let (client, device) = (self.shared.client.clone(), self.number);
        tracing::warn!(device, %run, number, reason, "an assignment can't be trained again here");
        tokio::spawn(async move {
            let declined = AuditDeclined { reason };
            if let Err(error) = client.decline_audit(run, number, &declined).await {
                tracing::info!(device, %run, number, error = chain(&error), "an audit was not declined");
            }
        });
    }

    /// None: it is not asked for any more.
    async fn train_again(&mut self, plan: &AuditPlan) -> anyhow::Result<Option<Again>> {
        let job = self.job()?;
        if plan.chunks.len() > job.layout.chunk_count() {
            bail!("more chunks are asked for than the model has");
        }
        let base = self.base_of(plan).await?;
        if let Base::Made(weights) = &base {
            let path = weights.path().to_owned();
            self.load_other(path).await?;
        }
        let out = self.local_name();
        let bytes = self.job()?.layout.len() as u64 * 4;
        let out = self.shared.folder.create(&out, bytes)?.path().to_owned();
        let trained = self.train_blocks(plan, &out).await;
        let Some(class) = trained? else {
            return Ok(None);
        };
        let chunks: Vec<usize> = plan.chunks.iter().map(|chunk| *chunk as usize).collect();
        let again = self.compute(move |job, buffers| {
            let local = SharedFile::open(&out).context("the trainer left no weights")?;
            let global = match &base {
                Base::Held => &buffers.weights,
                Base::Made(weights) => weights,
            };
            let weights = (global.as_f32(), local.as_f32());
            anyhow::Ok(Again::of(&job.layout, &chunks, weights, &class))
        });
        again.await?.map(Some)
    }

    /// The trainer's class, once it trained all blocks; None: it is not asked for any more.
    async fn train_blocks(
        &mut self,
        plan: &AuditPlan,
        out: &Path,
    ) -> anyhow::Result<Option<String>> {
        let process = self.trainer.process().context("the trainer is gone")?;
        let slowdown = self.settings.slowdown.max(1.0);
        let job = self.job()?;
        let (run, silence) = (job.run, longest_silence(job, slowdown));
        let request = request(job, plan, out, slowdown);
        let (told, mut heard) = watch::channel(0);
        let training = process.ask(RequestBody::Train(request), silence, move |sign| {
            if let Sign::Progress(progress) = sign {
                told.send_replace(progress.done);
            }
        });
        tokio::pin!(training);
        let mut tick = tokio::time::interval(TICK);
        let mut wanted = true;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut training => break answer,
                result = self.outbox.answered() => self.sent(result).await,
                _ = self.shared.line.changed() => self.settle_verdicts().await,
                _ = tick.tick() => {
                    self.settle_verdicts().await;
                    let (done, of) = (*heard.borrow_and_update(), plan.blocks_completed);
                    self.prepare(&format!("training an assignment again, for an audit ({done} of {of} blocks)"));
                    wanted = wanted && self.is_asked(run, plan.number);
                    if !wanted {
                        let _ = tokio::time::timeout(TICK / 10, process.finish()).await;
                    }
                }
            }
        };
        let answer = answer.inspect_err(|error| {
            self.trainer.note(error);
            if let Some(job) = &mut self.job {
                job.loaded = false;
            }
        });
        match answer? {
            _ if !wanted => Ok(None),
            ReplyBody::Trained {
                blocks_completed,
                numerics_class,
                ..
            } if blocks_completed == plan.blocks_completed => Ok(Some(numerics_class)),
            ReplyBody::Trained {
                blocks_completed, ..
            } => bail!(
                "the trainer completed {blocks_completed} blocks of {}",
                plan.blocks_completed
            ),
            other => bail!("the trainer answered {other:?} to an audit"),
        }
    }

    /// Whether the coordinator still asks for it. A plan without the worker says nothing.
    fn is_asked(&self, run: RunId, number: u64) -> bool {
        let Some(planned) = self.plan().and_then(|plan| plan.run) else {
            return true;
        };
        planned.run == run && planned.audit.is_some_and(|audit| audit.number == number)
    }

    /// The weights that the assignment starts from: those that are held, or made of what is on the
    /// disk, or fetched as a node does that joins.
    async fn base_of(&mut self, plan: &AuditPlan) -> anyhow::Result<Base> {
        let limit = self.settings.memory_bytes;
        let (name, folder) = (self.audit_name(), self.shared.folder.clone());
        let job = self.job()?;
        let digest = plan.digest;
        if job.digest == Some(digest) {
            return Ok(Base::Held);
        }
        let bytes = job.layout.len() as u64 * 4;
        if let Some(limit) = limit
            && bytes > limit
        {
            bail!("the weights that it starts from take {bytes} bytes, {limit} are allowed here");
        }
        let mut weights = folder.create(&name, bytes)?;
        let (mut weights, made) = self
            .compute(move |job, _| {
                let made = job.mirror.replay(digest, &job.layout, weights.as_f32_mut());
                (weights, made)
            })
            .await?;
        if !made {
            weights = self.fetch_base(plan, weights).await?;
        }
        Ok(Base::Made(weights))
    }

    async fn fetch_base(
        &mut self,
        plan: &AuditPlan,
        mut weights: SharedFile,
    ) -> anyhow::Result<SharedFile> {
        let (client, digest) = (self.shared.client.clone(), plan.digest);
        let job = self.job()?;
        let run = job.run;
        let down = job.spec.sync.down.into();
        let limit = opengpu_merge::max_bytes(down, &job.layout) as u64;
        let bytes = job.layout.len() as u64 * 4;
        let history = client.history_to(run, plan.base).await?;
        let start = history.checkpoint.weights;
        let path = job.mirror.base_path(start);
        // That of the mirror stays; another one goes once it was read.
        let kept = job.mirror.revisions().any(|(_, known)| known == start);
        let size = Download::new(start, &path, bytes)
            .run(&client, &|_, _| ())
            .await?;
        self.shared.home.count_written(size);
        let read = self
            .compute(move |_, _| {
                let read = read_weights(&path, weights.as_f32_mut());
                if !kept {
                    let _ = std::fs::remove_file(&path);
                }
                read.map(|()| weights)
            })
            .await?;
        let mut weights = read?;
        for merge in history.merges {
            let bytes = client.blob(merge.merge, limit.min(merge.bytes)).await?;
            let applied = self
                .compute(move |job, _| {
                    opengpu_merge::check(down, &job.layout, &bytes)?;
                    opengpu_merge::subtract(&job.layout, &bytes, weights.as_f32_mut())?;
                    anyhow::Ok(weights)
                })
                .await?;
            weights = applied?;
        }
        let found = Hash(opengpu_merge::digest(weights.as_f32()));
        if found != digest {
            bail!("the weights that it starts from have the digest {found}, not {digest}");
        }
        Ok(weights)
    }

    /// Has the trainer take other weights; its own are loaded again before it goes on.
    async fn load_other(&mut self, weights: PathBuf) -> anyhow::Result<()> {
        let job = self.job()?;
        job.loaded = false;
        let request = RequestBody::Load {
            model: job.model.clone(),
            weights,
            tokens: Some(job.tokens.clone()),
            inner: job.spec.inner.clone(),
        };
        match self.ask(request).await? {
            ReplyBody::Loaded { .. } => Ok(()),
            other => bail!("the trainer answered {other:?} where a model was loaded"),
        }
    }

    fn audit_name(&self) -> String {
        format!("audit-{}", self.number)
    }
}

fn request(job: &Job, plan: &AuditPlan, out: &Path, slowdown: f64) -> TrainRequest {
    TrainRequest {
        blocks: plan.blocks.iter().map(|b| (b.start, b.end)).collect(),
        blocks_per_epoch: job.blocks_per_epoch,
        block_sequences: job.spec.block_sequences,
        seed: job.spec.seed,
        progress_from: plan.progress_from,
        progress_to: plan.progress_to,
        at_most_blocks: Some(plan.blocks_completed),
        out: out.to_owned(),
        slowdown,
    }
}
