//! Getting the weights of a revision: from what is held, from the disk, or from the
//! coordinator, each step verified by digest.

use std::time::Instant;

use anyhow::{Context, bail};
use opengpu_protocol::Download;
use opengpu_protocol::wire::{CheckpointRef, MergeRef, Outcome, Verdict};
use opengpu_rounds::{Hash, Revision};

use super::Device;
use super::job::Buffers;
use crate::mirror::read_weights;

impl Device {
    /// Holds the weights of revision `to` afterwards. `anew`: fetches all of it again,
    /// because what is here was found wrong.
    pub(super) async fn sync(&mut self, to: Revision, anew: bool) -> anyhow::Result<()> {
        self.prepare(&format!("getting revision {to}"));
        let disputed = if anew { self.job()?.digest } else { None };
        if anew {
            tracing::warn!(device = self.number, revision = %to, "the digest is not the coordinator's; fetching the weights again");
            let job = self.job()?;
            job.revision = None;
            job.digest = None;
            job.mirror.clear()?;
        } else if self.job()?.revision.is_none() {
            self.take_up_what_is_here(to.lineage).await?;
        }
        let ahead = self.job()?.revision.filter(|held| {
            let same = held.lineage == to.lineage;
            same && held.number > to.number
        });
        if ahead.is_some() {
            self.forget_what_never_was(to).await;
        }
        self.follow(to).await?;
        if let (Some(disputed), Some(digest)) = (disputed, self.job()?.digest) {
            self.fetched_anew = Some((digest, Instant::now()));
            if digest == disputed {
                let problem = format!(
                    "revision {to} was fetched again and has the digest {digest} again, which the coordinator disputes although its own history leads there"
                );
                tracing::warn!(device = self.number, problem);
                self.shared
                    .board
                    .device(self.number, |status| status.problem = Some(problem));
            }
        }
        Ok(())
    }

    /// After a start: the newest revision of this lineage that is in shared memory or can be
    /// made from the disk.
    async fn take_up_what_is_here(&mut self, lineage: u32) -> anyhow::Result<()> {
        let found = self
            .compute(move |job, buffers| {
                let weights = buffers.weights.as_f32_mut();
                let digest = Hash(opengpu_merge::digest(weights));
                let mut here = job.mirror.revisions().filter(|(r, _)| r.lineage == lineage);
                if let Some(held) = here.find(|(_, known)| *known == digest) {
                    return Some(held);
                }
                let newest = job.mirror.revisions().find(|(r, _)| r.lineage == lineage)?;
                job.mirror
                    .replay(newest.1, &job.layout, weights)
                    .then_some(newest)
            })
            .await?;
        if let Some((revision, digest)) = found {
            tracing::info!(device = self.number, %revision, "took weights up that were here");
            let job = self.job()?;
            job.revision = Some(revision);
            job.digest = Some(digest);
        }
        Ok(())
    }

    /// The coordinator was restored from a backup and will give its later assignments out again
    /// under the same numbers: what was done under them says nothing of the new ones.
    async fn forget_what_never_was(&mut self, to: Revision) {
        let Some(run) = self.job.as_ref().map(|job| job.run) else {
            return;
        };
        let later = |entry: &&crate::journal::Entry| {
            entry.run == run && entry.notice.base.number > to.number
        };
        let later = self.journal.entries().filter(later);
        let later: Vec<_> = later.map(|entry| entry.notice.assignment).collect();
        for assignment in later {
            let reason = format!("the coordinator went back to revision {to}");
            let outcome = Outcome::NotMerged { reason };
            let verdict = Verdict {
                assignment,
                accepted: false,
                outcome,
            };
            self.carry_out_verdict(run, verdict).await;
        }
        self.given_up.retain(|(of, _)| *of != run);
    }

    /// Asks for the way to `to` and goes it.
    async fn follow(&mut self, to: Revision) -> anyhow::Result<()> {
        let job = self.job()?;
        let (run, held) = (
            job.run,
            job.revision.filter(|held| held.lineage == to.lineage),
        );
        if held == Some(to) {
            return Ok(());
        }
        let after = held.unwrap_or(Revision {
            lineage: to.lineage,
            number: 0,
        });
        let history = self.shared.client.history(run, after).await?;
        let goes_on = held.is_some_and(|held| {
            held.number < to.number
                && history
                    .merges
                    .iter()
                    .any(|merge| merge.revision.number == held.number + 1)
        });
        let from = if goes_on {
            after
        } else {
            self.start_at(history.checkpoint, to.lineage).await?;
            history.checkpoint.revision
        };
        let mut at = from.number;
        for merge in history.merges {
            if merge.revision.number != at + 1 || at >= to.number {
                continue; // Before what is held, or past what is wanted.
            }
            self.prepare(&format!("applying merge {} of {}", merge.revision, to));
            self.apply(merge).await?;
            at += 1;
        }
        if at != to.number {
            bail!(
                "the coordinator's history leads to revision {}.{at}, not to {to}",
                to.lineage
            );
        }
        Ok(())
    }

    /// The weights of a checkpoint, from the disk if they can be made there.
    async fn start_at(&mut self, checkpoint: CheckpointRef, lineage: u32) -> anyhow::Result<()> {
        let digest = checkpoint.weights;
        // The same weights have another name in a new lineage.
        let revision = Revision {
            lineage,
            number: checkpoint.revision.number,
        };
        let job = self.job()?;
        job.revision = None;
        job.digest = None;
        let known = job.mirror.revisions().any(|(_, known)| known == digest);
        let made = known
            && self
                .compute(move |job, buffers| {
                    job.mirror
                        .replay(digest, &job.layout, buffers.weights.as_f32_mut())
                })
                .await?;
        if made {
            tracing::info!(device = self.number, %revision, "made a checkpoint from the disk");
            self.job()?.mirror.cut_after(digest)?;
        } else {
            self.download(CheckpointRef {
                revision,
                weights: digest,
            })
            .await?;
        }
        let job = self.job()?;
        job.revision = Some(revision);
        job.digest = Some(digest);
        Ok(())
    }

    async fn download(&mut self, checkpoint: CheckpointRef) -> anyhow::Result<()> {
        let what = format!("downloading checkpoint {}", checkpoint.revision);
        self.prepare(&what);
        let job = self.job()?;
        let bytes = job.layout.len() as u64 * 4;
        let path = job.mirror.base_path(checkpoint.weights);
        // What is there under this name was just found wanting.
        let _ = std::fs::remove_file(&path);
        let (board, number) = (self.shared.board.clone(), self.number);
        let progress = move |done: u64, of: u64| {
            let what = format!("{what} ({done} of {of} bytes)");
            board.device(number, |status| {
                status.activity = Some(opengpu_protocol::wire::Activity::Preparing { what });
            });
        };
        let download = Download::new(checkpoint.weights, &path, bytes);
        let size = download.run(&self.shared.client, &progress).await?;
        self.shared.home.count_written(size);
        self.job()?.mirror.restart_at(checkpoint)?;
        let digest = self
            .compute(move |_, buffers| {
                let weights = buffers.weights.as_f32_mut();
                read_weights(&path, weights)?;
                anyhow::Ok(Hash(opengpu_merge::digest(weights)))
            })
            .await??;
        if digest != checkpoint.weights {
            bail!(
                "checkpoint {} has the digest {digest} on this disk",
                checkpoint.revision
            );
        }
        Ok(())
    }

    /// Applies one merge to the weights and checks what comes out.
    async fn apply(&mut self, merge: MergeRef) -> anyhow::Result<()> {
        let job = self.job()?;
        let limit = opengpu_merge::max_bytes(job.spec.sync.down.into(), &job.layout) as u64;
        let bytes = self
            .shared
            .client
            .blob(merge.merge, limit.min(merge.bytes))
            .await?;
        let number = self.number;
        let applied = self
            .compute(move |job, buffers| {
                let weights = buffers.weights.as_f32_mut();
                let checked = opengpu_merge::check(job.spec.sync.down.into(), &job.layout, &bytes);
                checked.with_context(|| format!("merge {} is malformed", merge.revision))?;
                // From here on the buffer is neither revision until the digest is right.
                job.revision = None;
                job.digest = None;
                opengpu_merge::subtract(&job.layout, &bytes, weights)?;
                let digest = Hash(opengpu_merge::digest(weights));
                if digest != merge.digest {
                    tracing::warn!(
                        device = number, revision = %merge.revision, %digest, expected = %merge.digest,
                        "weights differ after a merge; starting from the checkpoint again"
                    );
                    job.mirror.clear()?;
                    bail!("after merge {} the weights have the digest {digest}, not {}", merge.revision, merge.digest);
                }
                job.mirror.add(merge, &bytes, weights)?;
                anyhow::Ok(())
            })
            .await?;
        applied?;
        let job = self.job()?;
        job.revision = Some(merge.revision);
        job.digest = Some(merge.digest);
        Ok(())
    }

    /// Runs a computation over the buffers on the blocking pool. If it panics, the run is
    /// taken up anew: nothing half done is trusted.
    pub(super) async fn compute<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut super::job::Job, &mut Buffers) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut job = self.job.take().context("no run was taken up")?;
        let mut buffers = job.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut job, &mut buffers);
            job.put_back(buffers);
            (job, result)
        });
        let (job, result) = done
            .await
            .context("a computation over the weights failed")?;
        self.job = Some(job);
        Ok(result)
    }
}
