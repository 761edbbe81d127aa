//! A worker of the fleet: what it trains, what it says it trained, what it sends, commits
//! itself to and opens. The agent's part, without its network and its files.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use opengpu_dataset::TokenStream;
use opengpu_merge::audit::{commitment, write_openings};
use opengpu_merge::{Codec, Layout, encode, feedback};
use opengpu_protocol::SyncSettings;
use opengpu_rounds::{
    AssignmentId, Commitment, FeedbackId, Hash, Lease, Outcome, Run, ScheduleSpan, WorkerId,
};
use opengpu_trainer::{InnerLoop, Signals};
use opengpu_trainer_protocol::{InnerSettings, TrainRequest};

use super::honest::Kind;
use crate::Data;
use crate::attack::Attack;

pub(super) struct Worker {
    inner: InnerLoop,
    feedback: Vec<f32>,
    /// What it does, if it is hostile.
    pub(super) attack: Option<Attack>,
    /// What is unusual about it, if it is honest and one looks at that.
    pub(super) kind: Option<Kind>,
    /// Blocks of its newest assignment that it says it completed.
    pub(super) completed: u64,
    /// Lives of its error feedback before this one.
    lives: u64,
    /// Whether it passed its probation before this run.
    pub(super) known: bool,
    /// Audits that it passed in this run.
    pub(super) passed: u32,
    /// What it made this round and the round before.
    pub(super) progress: Vec<f32>,
    before: Vec<f32>,
    /// What it accumulated for its last update and for the one before, for audits.
    kept: Option<Vec<f32>>,
    kept_before: Option<Vec<f32>>,
    previous: Option<AssignmentId>,
    /// Updates without a verdict, and those that it took back a part of since its last one.
    unsettled: BTreeMap<AssignmentId, Hash>,
    taken_back: Vec<AssignmentId>,
}

/// What is the same for all assignments.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    pub(super) blocks_per_epoch: u64,
    pub(super) block_sequences: usize,
    pub(super) seed: u64,
}

impl Schedule {
    /// Training these blocks, while the run goes so far.
    pub(super) fn request(&self, span: ScheduleSpan, blocks: Vec<(u64, u64)>) -> TrainRequest {
        TrainRequest {
            blocks,
            blocks_per_epoch: self.blocks_per_epoch,
            block_sequences: self.block_sequences,
            seed: self.seed,
            progress_from: span.from,
            progress_to: span.to,
            at_most_blocks: None,
            out: Default::default(),
            slowdown: 1.0,
        }
    }
}

impl Worker {
    pub(super) fn new(
        data: &Data,
        inner: &InnerSettings,
        layout: &Layout,
        (attack, kind): (Option<Attack>, Option<Kind>),
        known: bool,
    ) -> Self {
        Self {
            inner: match kind {
                Some(kind) => kind.inner_loop(&data.model, inner),
                None => InnerLoop::new(&data.model, inner),
            },
            feedback: vec![0.0; layout.len()],
            attack,
            kind,
            completed: 0,
            lives: 0,
            known,
            passed: 0,
            progress: vec![0.0; layout.len()],
            before: vec![0.0; layout.len()],
            kept: None,
            kept_before: None,
            previous: None,
            unsettled: BTreeMap::new(),
            taken_back: Vec::new(),
        }
    }

    /// Trains its assignment, or as much of it as it cares to, and notes its progress.
    /// Returns the tokens trained.
    pub(super) fn train(
        &mut self,
        (run, lease): (&Run, &Lease),
        schedule: Schedule,
        tokens: &mut TokenStream,
        weights: &[f32],
        keep_unsent: f32,
    ) -> Result<u64> {
        let effort = self.attack.map_or(1.0, Attack::effort);
        let mut left = (lease.block_count() as f64 * effort).ceil() as u64;
        let mut blocks = Vec::new();
        for range in lease.blocks() {
            let end = range.end.min(range.start + left);
            left -= end - range.start;
            if end > range.start {
                blocks.push((range.start, end));
            }
        }
        self.completed = lease.block_count();
        let mut request = schedule.request(run.span_of(lease), blocks);
        if let Some(kind) = self.kind {
            self.completed = kind.completes(self.completed);
            request.at_most_blocks = Some(self.completed);
        }
        let mut local = weights.to_vec();
        for (weight, unsent) in local.iter_mut().zip(&self.feedback) {
            *weight -= keep_unsent * unsent;
        }
        let signals = Signals::default();
        let (trained, local) = self
            .inner
            .train(local, tokens, &request, &signals, &mut |_| ())?;
        std::mem::swap(&mut self.before, &mut self.progress);
        for ((made, global), local) in self.progress.iter_mut().zip(weights).zip(&local) {
            *made = global - local;
        }
        Ok(trained.tokens)
    }

    /// What it says its progress was; `honest` is what each honest worker made.
    pub(super) fn claimed(&self, layout: &Layout, honest: &[&[f32]], seed: u64) -> Vec<f32> {
        let Some(attack) = self.attack else {
            return self.progress.clone();
        };
        let mut forged = attack.forge(layout, &self.progress, &self.before, honest, seed);
        differ(&mut forged, seed);
        forged
    }

    /// The payload of its update. With audits, what it commits itself to as well: whatever it
    /// claims, it commits itself to what it really accumulated of that, for then all but the
    /// progress itself is in order.
    pub(super) fn send(
        &mut self,
        layout: &Layout,
        sync: &SyncSettings,
        assignment: AssignmentId,
        claimed: &[f32],
        audited: bool,
    ) -> Result<(Vec<u8>, Option<Commitment>)> {
        let codec: Codec = sync.up.into();
        let decay = sync.feedback_decay;
        let none = vec![0.0; layout.len()];
        let e = &mut self.feedback;
        let (payload, committed) = if audited {
            feedback::accumulate(codec, layout, decay, e, claimed, &none)?;
            self.kept_before = self.kept.replace(e.clone());
            let committed = Commitment {
                root: Hash(commitment(layout, e)),
                previous: self.previous.replace(assignment),
                taken_back: std::mem::take(&mut self.taken_back),
            };
            (encode(codec, layout, e)?, Some(committed))
        } else {
            let payload = feedback::send(codec, layout, decay, e, claimed, &none)?;
            (payload, None)
        };
        self.unsettled.insert(assignment, Hash::of(&payload));
        Ok((payload, committed))
    }

    /// The drawn chunks of its last update and of the one before.
    pub(super) fn open(&self, layout: &Layout, chunks: &[usize]) -> Result<Vec<u8>> {
        let now = self.kept.as_deref().context("it sent nothing to open")?;
        let before = self.kept_before.as_deref();
        Ok(write_openings(layout, chunks, now, before))
    }

    /// The life of its error feedback.
    pub(super) fn life(&self, id: WorkerId) -> FeedbackId {
        FeedbackId(id.0 + (self.lives << 32))
    }

    /// Its numerics class.
    pub(super) fn class(&self) -> String {
        self.inner.numerics_class()
    }

    /// Its update was refused: it forgets what it did not send, and goes on in a new life.
    pub(super) fn begin_anew(&mut self) {
        self.lives += 1;
        self.feedback.fill(0.0);
        (self.kept, self.kept_before, self.previous) = (None, None, None);
        self.unsettled.clear();
        self.taken_back.clear();
    }

    /// Takes back what was not merged of the updates that have their verdict now.
    pub(super) fn settle(
        &mut self,
        (run, id): (&Run, WorkerId),
        layout: &Layout,
        blobs: &BTreeMap<Hash, Vec<u8>>,
    ) -> Result<()> {
        let member = run.member(id).context("a worker is no member")?;
        let settled: Vec<(AssignmentId, f32)> = self
            .unsettled
            .keys()
            .filter_map(|update| match member.verdict(*update)?.outcome {
                Outcome::Waiting => None,
                Outcome::Merged { factor, .. } => Some((*update, 1.0 - factor)),
                Outcome::NotMerged { .. } => Some((*update, 1.0)),
            })
            .collect();
        for (update, part) in settled {
            let Some(payload) = self.unsettled.remove(&update) else {
                continue;
            };
            if part > 0.0 {
                let payload = blobs.get(&payload).context("a payload is gone")?;
                feedback::restore(layout, payload, part, &mut self.feedback)?;
                self.taken_back.push(update);
            }
        }
        Ok(())
    }
}

/// The same bytes are taken for one assignment only: an attacker changes one weight of what it
/// sends, so that those of others or of another round are not refused for that.
fn differ(forged: &mut [f32], seed: u64) {
    let largest = forged
        .iter()
        .fold(0f32, |largest, value| largest.max(value.abs()));
    let at = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    let at = (at % forged.len().max(1) as u64) as usize;
    if let Some(value) = forged.get_mut(at) {
        *value = if largest > 0.0 { largest } else { 1e-6 };
    }
}
