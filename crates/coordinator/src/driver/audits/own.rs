//! Training assignments again with the coordinator's own trainer, one after the other.

use std::sync::Arc;

use anyhow::{Context, bail};
use opengpu_merge::audit::Again;
use opengpu_rounds::{Audit, Hash, Revision, RunId};
use opengpu_trainer_protocol::{SharedFile, SharedFolder, TrainRequest};

use super::proof::drawn;
use crate::blobs::Blobs;
use crate::driver::weights_file::WeightsFile;
use crate::driver::{LiveRun, way_to};
use crate::trainer::{Trainer, token_files};

/// The coordinator's trainer for audits, and what it works on.
pub struct Own {
    /// Where weights and shards are.
    pub blobs: Blobs,
    /// Trains again.
    pub trainer: Arc<Trainer>,
    /// For the weights that it reads and writes.
    pub shared: SharedFolder,
    /// Weights of the base that was audited last: those of a round have the same.
    pub base: Option<(RunId, Revision, WeightsFile)>,
}

impl Own {
    /// What training the assignment again gives.
    pub(super) async fn train(&mut self, run: &LiveRun, audit: &Audit) -> anyhow::Result<Again> {
        let held = self.base.as_ref();
        if held.is_none_or(|(of, base, _)| (*of, *base) != (run.id, audit.base)) {
            self.base = None;
            let weights = self.weights_of(run, audit.base).await?;
            self.base = Some((run.id, audit.base, weights));
        }
        let (_, _, base) = self.base.as_ref().context("the base was just made")?;
        let out = WeightsFile::name(run.id, "audited");
        let bytes = 4 * run.layout.len() as u64;
        let out = WeightsFile::Copy(self.shared.create(&out, bytes)?.path().to_owned());
        let training = &run.dataset.training;
        let shards = training.shards.iter();
        let files = shards.map(|shard| self.blobs.path(shard.hash)).collect();
        let span = run.state().span_of_audited(audit);
        let request = TrainRequest {
            blocks: audit.blocks.iter().map(|b| (b.start, b.end)).collect(),
            blocks_per_epoch: run.spec.round.blocks_per_epoch,
            block_sequences: run.spec.block_sequences,
            seed: run.spec.seed,
            progress_from: span.from,
            progress_to: span.to,
            at_most_blocks: Some(audit.blocks_completed),
            out: out.path().to_owned(),
            slowdown: 1.0,
        };
        let tokens = token_files(&run.dataset, training, files);
        let inner = run.spec.inner.clone();
        let trained = self
            .trainer
            .train(&run.model, base.path(), tokens, inner, request)
            .await?;
        if trained.blocks_completed != audit.blocks_completed {
            bail!(
                "the trainer completed {} blocks of {}",
                trained.blocks_completed,
                audit.blocks_completed
            );
        }
        let (global, local) = (
            SharedFile::open(base.path())?,
            SharedFile::open(out.path())?,
        );
        let (layout, chunks) = (Arc::clone(&run.layout), drawn(run, audit));
        let again = tokio::task::spawn_blocking(move || {
            let weights = (global.as_f32(), local.as_f32());
            Again::of(&layout, &chunks, weights, &trained.numerics_class)
        });
        Ok(again.await?)
    }

    /// Weights of a revision that something was assigned on. Only decoding and subtracting, as
    /// every node does it.
    async fn weights_of(&self, run: &LiveRun, revision: Revision) -> anyhow::Result<WeightsFile> {
        let way = way_to(&run.state(), revision);
        let way = way.with_context(|| format!("the weights of revision {revision} are gone"))?;
        let start = self.blobs.read(way.checkpoint.weights).await?;
        let mut merges = Vec::new();
        for merge in &way.merges {
            merges.push(self.blobs.read(merge.merge).await?);
        }
        let file = self.shared.create(
            &WeightsFile::name(run.id, "audit-base"),
            4 * run.layout.len() as u64,
        )?;
        let digest: Hash = way.digest();
        WeightsFile::made_of(file, &run.layout, start, merges, digest)
            .await
            .with_context(|| format!("the weights of revision {revision}"))
    }
}
