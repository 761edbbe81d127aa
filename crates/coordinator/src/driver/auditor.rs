//! Audits: assignments that the coordinator's own trainer trains again, one after the other.
//! Rounds wait for none but the updates that are held for theirs.
//!
//! The proof comes first, for it costs nothing ([`opengpu_merge::audit`]): that the payload is
//! what the codec makes of what its worker committed itself to, and that this follows from the
//! worker's update before. Then the assignment is trained again from the weights it started
//! from. What differs is trained once more before it counts as different.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use opengpu_merge::audit::{
    Before, Claim, Opened, WrongOpening, check_openings, draw_chunks, farthest, typical_length,
};
use opengpu_rounds::{
    AssignmentId, Audit, AuditOutcome, Finding, Hash, Input, Revision, Run, RunId,
};
use opengpu_trainer_protocol::{SharedFile, SharedFolder, TrainRequest};
use tokio::sync::mpsc;

use super::LiveRun;
use super::weights_file::WeightsFile;
use crate::blobs::Blobs;
use crate::trainer::{Trainer, token_files};

/// Attempts at an audit, and the pause after the first that failed.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// So many times what is allowed is no difference of hardware.
const FAR_OFF: f64 = 10.0;
/// Audits that may wait here; the others wait in their run's state.
pub const QUEUE: usize = 4;

/// An audit to be made.
pub struct AuditJob {
    /// Of which run.
    pub run: Arc<LiveRun>,
    /// Of which update.
    pub assignment: AssignmentId,
    /// What is known of it.
    pub audit: Audit,
}

/// Makes audits.
pub struct Auditor {
    /// Where payloads, openings, weights and shards are.
    pub blobs: Blobs,
    /// Trains again.
    pub trainer: Arc<Trainer>,
    /// For the weights that it reads and writes.
    pub shared: SharedFolder,
    /// Weights of the base that was audited last: those of a round have the same.
    pub base: Option<(RunId, Revision, WeightsFile)>,
}

/// What a claim is checked with, off the runtime.
struct Evidence {
    payload: bytes::Bytes,
    before: Option<Earlier>,
    openings: bytes::Bytes,
}

/// The worker's update before, and what was taken back since.
struct Earlier {
    root: Hash,
    payload: bytes::Bytes,
    taken_back: Vec<(bytes::Bytes, f32)>,
}

impl Auditor {
    /// Audits until nobody can ask any more.
    pub async fn work(mut self, mut queue: mpsc::Receiver<AuditJob>) {
        while let Some(AuditJob {
            run,
            assignment,
            audit,
        }) = queue.recv().await
        {
            if run.state().audit(assignment).is_none() {
                continue;
            }
            let finding = self.find(&run, assignment, &audit).await;
            tracing::info!(
                run = %run.id, %assignment, worker = %audit.worker, outcome = ?finding.outcome,
                code = finding.code, measured = finding.measured, reason = finding.reason, "audited"
            );
            let input = Input::Audited {
                assignment,
                finding,
            };
            if let Err(error) = run.ask(input, None).await {
                // The state still asks for it.
                tracing::warn!(run = %run.id, %assignment, %error, "an audit's finding could not be stored");
                run.forget_audit(assignment);
            }
        }
    }

    /// What comes of an audit, tried again after a pause where something failed here.
    async fn find(&mut self, run: &LiveRun, assignment: AssignmentId, audit: &Audit) -> Finding {
        let mut attempt = 1;
        loop {
            match self.audit(run, audit).await {
                Ok(finding) => return finding,
                Err(error) if attempt < ATTEMPTS => {
                    tracing::warn!(
                        run = %run.id, %assignment, attempt, error = format!("{error:#}"),
                        "an audit could not be made; it is tried again"
                    );
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(error) => {
                    tracing::error!(run = %run.id, %assignment, error = format!("{error:#}"), "an audit is given up");
                    return Finding {
                        outcome: AuditOutcome::Undecided,
                        code: "not_audited".into(),
                        reason: "the coordinator could not train it again; this is not the worker's fault".into(),
                        measured: None,
                        allowed: None,
                    };
                }
            }
        }
    }

    async fn audit(&mut self, run: &LiveRun, audit: &Audit) -> anyhow::Result<Finding> {
        let evidence = self.evidence(audit).await?;
        let opened = match prove(run, audit, evidence).await? {
            Ok(opened) => opened,
            Err(wrong) => return Ok(Finding::failed("not_proven", wrong.to_string(), None)),
        };
        let allowed = run.spec.audit_tolerance(audit.blocks_completed);
        let mut measured = f64::INFINITY;
        // A difference is confirmed before anybody is accused of it.
        for _ in 0..2 {
            let again = self.train_again(run, audit).await?;
            let decay = run.spec.sync.feedback_decay;
            if let Err(wrong) = again.check_unsent(decay, &opened) {
                return Ok(Finding::failed("not_proven", wrong.to_string(), None));
            }
            measured = measured.min(again.farthest(&opened));
            // What is far off is not rounding, and not worth a second training.
            if measured > FAR_OFF * allowed {
                break;
            }
            if measured <= allowed {
                return Ok(Finding::passed(measured, allowed));
            }
        }
        let reason = format!(
            "its progress differs from what training its assignment again gives: by {measured:.3} of its length, {allowed} is allowed"
        );
        let numbers = measured.is_finite().then_some((measured, allowed));
        Ok(Finding::failed("progress_differs", reason, numbers))
    }

    async fn evidence(&self, audit: &Audit) -> anyhow::Result<Evidence> {
        let openings = audit.openings.context("nothing was opened yet")?;
        let before = match &audit.before {
            None => None,
            Some(before) => {
                let mut taken_back = Vec::new();
                for (payload, part) in &before.taken_back {
                    taken_back.push((self.blobs.read(*payload).await?, *part));
                }
                let payload = self.blobs.read(before.payload).await?;
                Some(Earlier {
                    root: before.root,
                    payload,
                    taken_back,
                })
            }
        };
        Ok(Evidence {
            payload: self.blobs.read(audit.payload).await?,
            before,
            openings: self.blobs.read(openings).await?,
        })
    }

    /// The weights before and after training the assignment again.
    async fn train_again(&mut self, run: &LiveRun, audit: &Audit) -> anyhow::Result<Again> {
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
        let (from, to) = {
            let state = run.state();
            let number = audit.base.number;
            (state.progress(number), state.progress(number + 1))
        };
        let request = TrainRequest {
            blocks: audit.blocks.iter().map(|b| (b.start, b.end)).collect(),
            blocks_per_epoch: run.spec.round.blocks_per_epoch,
            block_sequences: run.spec.block_sequences,
            seed: run.spec.seed,
            progress_from: from,
            progress_to: to,
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
        if trained != audit.blocks_completed {
            bail!(
                "the trainer completed {trained} blocks of {}",
                audit.blocks_completed
            );
        }
        let (global, local) = (
            SharedFile::open(base.path())?,
            SharedFile::open(out.path())?,
        );
        Ok(Again {
            typical: typical_length(&run.layout, global.as_f32(), local.as_f32()),
            global,
            local,
            _out: out,
        })
    }

    /// Weights of a revision that something was assigned on: the newest kept checkpoint up to
    /// it, and the merges since. Only decoding and subtracting, as every node does it.
    async fn weights_of(&self, run: &LiveRun, revision: Revision) -> anyhow::Result<WeightsFile> {
        let way = Way::to(&run.state(), revision)
            .with_context(|| format!("the weights of revision {revision} are gone"))?;
        let start = self.blobs.read(way.start).await?;
        let mut merges = Vec::new();
        for merge in way.merges {
            merges.push(self.blobs.read(merge).await?);
        }
        let file = self.shared.create(
            &WeightsFile::name(run.id, "audit-base"),
            4 * run.layout.len() as u64,
        )?;
        WeightsFile::made_of(file, &run.layout, start, merges, Some(way.digest))
            .await
            .with_context(|| format!("the weights of revision {revision}"))
    }
}

/// How a revision's weights are made.
struct Way {
    start: Hash,
    merges: Vec<Hash>,
    digest: Hash,
}

impl Way {
    fn to(state: &Run, revision: Revision) -> Option<Self> {
        if !state.is_live(revision) {
            return None;
        }
        let start = state.checkpoint_up_to(revision.number)?;
        let merges: Vec<_> = state
            .merges()
            .filter(|merge| {
                (start.revision.number + 1..=revision.number).contains(&merge.revision.number)
            })
            .collect();
        if merges.len() as u64 != revision.number - start.revision.number {
            return None;
        }
        Some(Self {
            start: start.weights,
            digest: merges.last().map_or(start.weights, |merge| merge.digest),
            merges: merges.iter().map(|merge| merge.merge).collect(),
        })
    }
}

/// Weights before and after.
struct Again {
    global: SharedFile,
    local: SharedFile,
    /// [`typical_length`] of the progress between them.
    typical: f64,
    _out: WeightsFile,
}

impl Again {
    fn check_unsent(&self, decay: f32, opened: &[Opened]) -> Result<(), WrongOpening> {
        let weights = (self.global.as_f32(), self.local.as_f32());
        let mut chunks = opened.iter();
        chunks.try_for_each(|chunk| chunk.check_unsent(decay, weights, self.typical))
    }

    fn farthest(&self, opened: &[Opened]) -> f64 {
        let weights = (self.global.as_f32(), self.local.as_f32());
        farthest(opened, weights, self.typical)
    }
}

/// Whether a claim follows from its worker's commitments.
async fn prove(
    run: &LiveRun,
    audit: &Audit,
    evidence: Evidence,
) -> anyhow::Result<Result<Vec<Opened>, WrongOpening>> {
    let layout = Arc::clone(&run.layout);
    let (codec, decay) = (run.spec.sync.up.into(), run.spec.sync.feedback_decay);
    let chunks = drawn(run, audit);
    let root = audit.root.0;
    let proved = tokio::task::spawn_blocking(move || {
        let before = evidence.before.as_ref();
        let claim = Claim {
            codec,
            decay,
            payload: &evidence.payload,
            root,
            before: before.map(|earlier| Before {
                root: earlier.root.0,
                payload: &earlier.payload,
                given_back: earlier
                    .taken_back
                    .iter()
                    .map(|(payload, part)| (payload.as_ref(), *part))
                    .collect(),
            }),
            chunks: &chunks,
        };
        check_openings(&layout, &claim, &evidence.openings)
    });
    Ok(proved.await?)
}

/// The chunks that an audit's number draws.
pub fn drawn(run: &LiveRun, audit: &Audit) -> Vec<usize> {
    draw_chunks(&run.layout, audit.draw, run.spec.trust.audit_chunks)
}
