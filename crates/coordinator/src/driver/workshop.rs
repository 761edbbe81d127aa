//! Where a run's weights live and all arithmetic on them happens: merges, checkpoints,
//! copies for the trainer. One job at a time, on threads of its own; the driver goes on
//! deciding meanwhile.
//!
//! Weights are always made from the log: the newest checkpoint, then each merge since,
//! computed again from the payloads that went into it and compared with what was logged.
//! So a restart needs no more than the log and the blobs, and whatever this holds in memory
//! may be thrown away at any time.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use opengpu_merge::{Layout, OuterSettings, OuterState, Weighted, merge_round, subtract};
use opengpu_rounds::{
    Checkpoint, Hash, MergeRecord, PendingMerge, PendingUpdate, Regard, Revision, Run, weights,
};
use opengpu_trainer_protocol::SharedFolder;
use tokio::sync::{mpsc, oneshot};

use super::LiveRun;
use super::weights_file::WeightsFile;
use crate::blobs::Blobs;
use crate::trainer::Trainer;

/// How the weights of a revision are made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The revision.
    pub target: Revision,
    checkpoint: Checkpoint,
    merges: Vec<MergeRecord>,
}

impl Recipe {
    /// For the newest revision of a run; None before its first weights.
    pub fn newest(run: &Run) -> Option<Self> {
        let checkpoint = *run.checkpoint()?;
        let merges = run.merges_since_checkpoint().cloned().collect();
        Some(Self {
            target: run.revision(),
            checkpoint,
            merges,
        })
    }

    /// For a revision that is a kept checkpoint.
    pub fn of_checkpoint(run: &Run, revision: Revision) -> Option<Self> {
        let checkpoint = *run
            .checkpoints()
            .iter()
            .find(|kept| kept.revision == revision)?;
        Some(Self {
            target: revision,
            checkpoint,
            merges: Vec::new(),
        })
    }

    fn digest(&self) -> Hash {
        self.merges
            .last()
            .map_or(self.checkpoint.weights, |merge| merge.digest)
    }
}

/// What is asked of the workshop.
pub enum Job {
    /// Make the first weights.
    Initialise,
    /// Compute a merge on the recipe's weights.
    Merge(PendingMerge, Recipe),
    /// Write a base checkpoint.
    Checkpoint(Recipe),
    /// Copy the weights to a file, unless a merge went on from them already.
    Copy(Recipe, oneshot::Sender<anyhow::Result<WeightsFile>>),
}

/// What came of a job.
pub enum Done {
    /// A merge is computed and its blob durable.
    Merged {
        /// What was asked.
        round: u64,
        /// The blob.
        merge: Hash,
        /// Its size.
        merge_bytes: u64,
        /// Digest of the new weights.
        digest: Hash,
        /// Clip factors.
        factors: Vec<f32>,
        /// What was found about each update.
        regards: Vec<Regard>,
    },
    /// The updates can't be merged, now or ever.
    Unmergeable(String),
    /// A checkpoint is durable.
    Checkpointed(Checkpoint),
    /// Something failed that may succeed later.
    Failed {
        /// What.
        job: Failed,
        /// Why.
        error: anyhow::Error,
    },
}

/// Which job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A merge.
    Merge,
    /// A checkpoint, the first weights included.
    Checkpoint,
}

impl Failed {
    /// The job, for a person.
    pub fn what(self) -> &'static str {
        match self {
            Self::Merge => "merging",
            Self::Checkpoint => "writing a checkpoint",
        }
    }
}

/// What the workshop works with.
pub struct Workshop {
    run: Arc<LiveRun>,
    blobs: Blobs,
    trainer: Arc<Trainer>,
    shared: SharedFolder,
    merge_seconds: prometheus_client::metrics::histogram::Histogram,
    held: Option<Held>,
}

/// Weights and the outer optimiser's state that belongs to them.
struct Held {
    digest: Hash,
    weights: Vec<f32>,
    outer: OuterState,
}

impl Workshop {
    /// An empty one.
    pub fn new(
        run: Arc<LiveRun>,
        blobs: Blobs,
        trainer: Arc<Trainer>,
        shared: SharedFolder,
        merge_seconds: prometheus_client::metrics::histogram::Histogram,
    ) -> Self {
        Self {
            run,
            blobs,
            trainer,
            shared,
            merge_seconds,
            held: None,
        }
    }

    /// Works until nobody can ask any more.
    pub async fn work(mut self, mut jobs: mpsc::Receiver<Job>, done: mpsc::Sender<Done>) {
        while let Some(job) = jobs.recv().await {
            let result = match job {
                Job::Initialise => self
                    .initialise()
                    .await
                    .map(Done::Checkpointed)
                    .unwrap_or_else(|error| Done::Failed {
                        job: Failed::Checkpoint,
                        error,
                    }),
                Job::Merge(pending, recipe) => {
                    self.merge(pending, recipe)
                        .await
                        .unwrap_or_else(|error| Done::Failed {
                            job: Failed::Merge,
                            error,
                        })
                }
                Job::Checkpoint(recipe) => self
                    .checkpoint(recipe)
                    .await
                    .map(Done::Checkpointed)
                    .unwrap_or_else(|error| Done::Failed {
                        job: Failed::Checkpoint,
                        error,
                    }),
                Job::Copy(recipe, reply) => {
                    // Whoever asked may have gone; the copy is then removed by being dropped.
                    let _ = reply.send(self.copy(recipe).await);
                    continue;
                }
            };
            if done.send(result).await.is_err() {
                return;
            }
        }
    }

    async fn initialise(&mut self) -> anyhow::Result<Checkpoint> {
        let parameters = self.run.layout.len();
        let name = WeightsFile::name(self.run.id, "first");
        let file = self.shared.create(&name, 4 * parameters as u64)?;
        let file_path = file.path().to_owned();
        drop(file);
        let guard = WeightsFile::Copy(file_path);
        self.trainer
            .initialise(&self.run.model, self.run.spec.seed, guard.path())
            .await?;
        let (weights, bytes) = self.blobs.put_file(guard.path()).await?;
        if bytes != 4 * parameters as u64 {
            bail!("the trainer wrote {bytes} bytes of first weights for {parameters} parameters");
        }
        drop(guard);
        let layout = Arc::clone(&self.run.layout);
        let settings = self.run.outer_settings();
        let outer =
            blocking(move || Ok(OuterState::new(&layout, &settings).to_bytes(&layout))).await?;
        let outer_state = self.blobs.put(outer).await?;
        Ok(Checkpoint {
            revision: Revision {
                lineage: 0,
                number: 0,
            },
            weights,
            outer_state,
        })
    }

    async fn merge(&mut self, pending: PendingMerge, recipe: Recipe) -> anyhow::Result<Done> {
        let weighing = self.run.spec.round.weighing;
        let started = Instant::now();
        let updates = pending.updates.len();
        tracing::info!(run = %self.run.id, round = pending.round, updates, "merge begins");
        let held = self.make(&recipe).await?;
        let payloads = read_payloads(&self.blobs, &pending.updates).await?;
        let layout = Arc::clone(&self.run.layout);
        let settings = self.run.outer_settings();
        let updates = pending.updates.clone();
        let merged = blocking(move || {
            Ok(compute(
                &layout,
                (&settings, weighing),
                held,
                &updates,
                &payloads,
            ))
        })
        .await?;
        match merged {
            (held, Err(reason)) => {
                self.held = Some(held);
                Ok(Done::Unmergeable(reason))
            }
            (held, Ok(merge)) => {
                let merge_bytes = merge.bytes.len() as u64;
                let hash = self.blobs.put(merge.bytes).await?;
                let digest = held.digest;
                self.held = Some(held);
                self.merge_seconds.observe(started.elapsed().as_secs_f64());
                let regards = regards(weighing, &pending.updates, &merge.regards);
                let (round, factors) = (pending.round, merge.factors);
                Ok(Done::Merged {
                    round,
                    merge: hash,
                    merge_bytes,
                    digest,
                    factors,
                    regards,
                })
            }
        }
    }

    async fn checkpoint(&mut self, recipe: Recipe) -> anyhow::Result<Checkpoint> {
        tracing::info!(run = %self.run.id, revision = %recipe.target, "checkpoint begins");
        let held = self.make(&recipe).await?;
        let copied = self.write_copy(held).await;
        let file = copied?;
        let (weights, _) = self.blobs.put_file(file.path()).await?;
        drop(file);
        if weights != recipe.digest() {
            bail!(
                "the weights of revision {} do not have its digest",
                recipe.target
            );
        }
        let layout = Arc::clone(&self.run.layout);
        let held = self.held.take().context("the weights were just written")?;
        let (held, outer) = blocking(move || {
            let bytes = held.outer.to_bytes(&layout);
            Ok((held, bytes))
        })
        .await?;
        self.held = Some(held);
        let outer_state = self.blobs.put(outer).await?;
        Ok(Checkpoint {
            revision: recipe.target,
            weights,
            outer_state,
        })
    }

    async fn copy(&mut self, recipe: Recipe) -> anyhow::Result<WeightsFile> {
        if recipe.merges.is_empty() {
            return Ok(WeightsFile::Blob(
                self.blobs.path(recipe.checkpoint.weights),
            ));
        }
        let held = self.make(&recipe).await?;
        self.write_copy(held).await
    }

    /// Writes what is held to a file of its own, and holds it again.
    async fn write_copy(&mut self, held: Held) -> anyhow::Result<WeightsFile> {
        let mut file = self.shared.create(
            &WeightsFile::name(self.run.id, "copy"),
            4 * held.weights.len() as u64,
        )?;
        let (held, path) = blocking(move || {
            file.as_f32_mut().copy_from_slice(&held.weights);
            Ok((held, file.path().to_owned()))
        })
        .await?;
        self.held = Some(held);
        Ok(WeightsFile::Copy(path))
    }

    /// The recipe's weights, from what is held where that is on the way to them. They are
    /// taken out of `held`; whoever keeps them unspoilt puts them back.
    async fn make(&mut self, recipe: &Recipe) -> anyhow::Result<Held> {
        let position = self.held.as_ref().and_then(|held| {
            if held.digest == recipe.checkpoint.weights {
                return Some(0);
            }
            recipe
                .merges
                .iter()
                .position(|merge| merge.digest == held.digest)
                .map(|index| index + 1)
        });
        let (mut held, from) = match (self.held.take(), position) {
            (Some(held), Some(position)) => (held, position),
            (dropped, _) => {
                drop(dropped);
                (self.load(&recipe.checkpoint).await?, 0)
            }
        };
        if from < recipe.merges.len() {
            tracing::info!(
                run = %self.run.id,
                merges = recipe.merges.len() - from,
                revision = %recipe.target,
                "computing merges again"
            );
        }
        for record in &recipe.merges[from..] {
            held = self.replay(held, record).await?;
        }
        Ok(held)
    }

    async fn load(&self, checkpoint: &Checkpoint) -> anyhow::Result<Held> {
        let layout = Arc::clone(&self.run.layout);
        let settings = self.run.outer_settings();
        let weights = self.blobs.read(checkpoint.weights).await?;
        let outer = self.blobs.read(checkpoint.outer_state).await?;
        let digest = checkpoint.weights;
        blocking(move || {
            if weights.len() != 4 * layout.len() {
                bail!(
                    "checkpoint {digest} has {} bytes, not {}",
                    weights.len(),
                    4 * layout.len()
                );
            }
            let words = weights.as_chunks::<4>().0;
            let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
            drop(weights);
            let outer = OuterState::from_bytes(&layout, &settings, &outer)?;
            Ok(Held {
                digest,
                weights: values,
                outer,
            })
        })
        .await
    }

    /// Computes a logged merge again. Should the result differ from the log (a payload is
    /// gone or damaged), the logged merge is what every node applied, so it is applied here
    /// too; the outer state is then not what it was, which only costs some progress.
    async fn replay(&self, held: Held, record: &MergeRecord) -> anyhow::Result<Held> {
        let layout = Arc::clone(&self.run.layout);
        let weighing = self.run.spec.round.weighing;
        let settings = self.run.outer_settings();
        let logged = self.blobs.read(record.merge).await?;
        let payloads = read_payloads(&self.blobs, &record.updates).await;
        let record = record.clone();
        blocking(move || {
            // A copy for the moment, in case the result is not what was logged.
            let before = held.weights.clone();
            let computed = match payloads {
                Ok(payloads) if !payloads.is_empty() => {
                    compute(&layout, (&settings, weighing), held, &record.updates, &payloads)
                }
                Ok(_) => (held, Err("its updates are no longer listed".to_owned())),
                Err(error) => (held, Err(format!("{error:#}"))),
            };
            let (mut held, why) = match computed {
                (held, Ok(merge)) if merge.bytes == *logged && held.digest == record.digest => {
                    return Ok(held);
                }
                (held, Ok(_)) => (held, "the merge came out differently".to_owned()),
                (held, Err(reason)) => (held, reason),
            };
            tracing::error!(
                revision = %record.revision, why,
                "a merge could not be computed again; its blob is applied, and the outer state is not exact"
            );
            held.weights = before;
            subtract(&layout, &logged, &mut held.weights)?;
            held.digest = Hash(opengpu_merge::digest(&held.weights));
            if held.digest != record.digest {
                bail!("revision {} has digest {} and not {}", record.revision, held.digest, record.digest);
            }
            Ok(held)
        })
        .await
    }
}

/// What is held either way, and the merge or why there is none.
type Computed = (Held, Result<opengpu_merge::Merge, String>);

fn compute(
    layout: &Layout,
    (settings, weighing): (&OuterSettings, u32),
    mut held: Held,
    updates: &[PendingUpdate],
    payloads: &[bytes::Bytes],
) -> Computed {
    let weighted: Vec<Weighted> = updates
        .iter()
        .zip(weights(weighing, updates))
        .zip(payloads)
        .map(|((update, weight), payload)| Weighted {
            payload,
            weight,
            record: update.record,
        })
        .collect();
    match merge_round(
        layout,
        settings,
        &weighted,
        &mut held.outer,
        &mut held.weights,
    ) {
        Ok(merge) => {
            held.digest = Hash(merge.digest);
            (held, Ok(merge))
        }
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::from(error));
            (held, Err(reason))
        }
    }
}

/// The findings of the arithmetic in the words of the log.
fn regards(
    weighing: u32,
    updates: &[PendingUpdate],
    found: &[opengpu_merge::Regard],
) -> Vec<Regard> {
    let weights = weights(weighing, updates);
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let of = |(weight, found): (&f32, &opengpu_merge::Regard)| Regard {
        counted: (f64::from(found.share) * total / f64::from(*weight)) as f32,
        agreement: found.agreement,
        record: found.record,
        needed: found.needed,
        twin: found.twin.map(|(other, _)| updates[other].assignment),
    };
    weights.iter().zip(found).map(of).collect()
}

async fn read_payloads(
    blobs: &Blobs,
    updates: &[PendingUpdate],
) -> anyhow::Result<Vec<bytes::Bytes>> {
    let mut payloads = Vec::with_capacity(updates.len());
    for update in updates {
        payloads.push(blobs.read(update.payload).await?);
    }
    Ok(payloads)
}

/// Runs arithmetic on a thread that serves nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("arithmetic panicked")?
}
