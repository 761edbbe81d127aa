//! The state of a run: what its log folds to. Every field follows from the events alone.
//!
//! Sizes are bounded over any number of rounds: finished rounds shrink to a summary (the
//! last [`KEPT_ROUNDS`]), verdicts to the last [`KEPT_VERDICTS`] of each worker, merges to
//! those since the older of the [`KEPT_CHECKPOINTS`] newest checkpoints, blocks to the ranges
//! that are *not* done. It grows only with the number of workers that ever took part and
//! with the number of rollbacks.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::audit::Committed;
use crate::blocks::{BlockPool, Piece};
use crate::event::{is_whole, whole};
use crate::length::Counted;
use crate::probe::Trial;
use crate::shared::Shared;
use crate::{
    AssignmentId, Audit, BlockRange, Event, EventKind, FeedbackId, Hash, NodeId, Regard, Revision,
    RoundSettings, ScheduleSpan, WorkerId,
};

/// Version of the state's serialised form. Raised when a field changes its meaning: then
/// stored snapshots of another version are to be ignored and the log folded instead.
pub const STATE_VERSION: u32 = 1;
/// Summaries of finished rounds that are kept.
pub const KEPT_ROUNDS: usize = 200;
/// Verdicts kept for each worker. Those that still wait are kept beyond it.
pub const KEPT_VERDICTS: usize = 64;
/// Ended lives of error feedback that are remembered for each worker.
pub const KEPT_RETIRED: usize = 16;
/// Base checkpoints that can be rolled back to.
pub const KEPT_CHECKPOINTS: usize = 2;

/// A training run, folded from its log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub(crate) settings: RoundSettings,
    pub(crate) phase: Phase,
    pub(crate) phase_since_ms: u64,
    /// Why the phase was entered.
    pub(crate) phase_reason: String,
    pub(crate) last_event_ms: u64,
    pub(crate) events: u64,
    pub(crate) lineages: Vec<Lineage>,
    pub(crate) revision: Revision,
    pub(crate) digest: Option<Hash>,
    pub(crate) next_round: u64,
    /// The round in Training or Collecting.
    pub(crate) current: Option<OpenRound>,
    /// The round that waits for its merge. Outlives a pause and a failure.
    pub(crate) closing: Option<ClosedRound>,
    /// In Forming: when the next round opens at the latest, once enough workers are ready.
    pub(crate) opens_ms: Option<u64>,
    /// Set when a person stopped the run during a merge.
    pub(crate) stopping: Option<String>,
    pub(crate) next_assignment: u64,
    pub(crate) blocks: BlockPool,
    pub(crate) members: BTreeMap<WorkerId, Shared<Member>>,
    pub(crate) leases: BTreeMap<AssignmentId, Shared<Lease>>,
    /// Accepted updates that are in no merge yet.
    pub(crate) waiting: BTreeMap<AssignmentId, Shared<WaitingUpdate>>,
    /// Updates that are being audited.
    #[serde(default)]
    pub(crate) audits: BTreeMap<AssignmentId, Shared<Audit>>,
    pub(crate) merges: VecDeque<Shared<MergeRecord>>,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) rounds: VecDeque<Shared<RoundSummary>>,
    /// In a run of so many tokens: what its merges counted.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub(crate) counted: VecDeque<Counted>,
    pub(crate) totals: Totals,
}

/// Where a run is. Rolling back is no phase: it happens between two events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Created, not started.
    Draft,
    /// Waits for workers that hold the newest revision.
    Forming,
    /// Workers train until the deadline.
    Training,
    /// Past the deadline; updates are waited for.
    Collecting,
    /// A merge is being computed.
    Merging,
    /// A person paused it.
    Paused,
    /// It is over.
    Finished,
    /// It can't go on by itself.
    Failed,
}

impl Phase {
    /// The phase in one lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Forming => "forming",
            Self::Training => "training",
            Self::Collecting => "collecting",
            Self::Merging => "merging",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of descent of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Its first revision.
    pub start: Revision,
    /// The same weights' name in the lineage before; None for the first lineage.
    pub parent: Option<Revision>,
    /// When it was opened.
    pub at_ms: u64,
    /// Why.
    pub reason: String,
    /// Whether the run rolled back by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_itself: bool,
}

/// The round in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRound {
    /// Its number; never reused.
    pub round: u64,
    /// What its workers start from.
    pub base: Revision,
    /// When it opened.
    pub opened_ms: u64,
    /// When training ends.
    pub deadline_ms: u64,
    /// When waiting for updates ends; set once it collects.
    pub grace_ends_ms: Option<u64>,
}

/// A round that waits for its merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClosedRound {
    pub round: u64,
    pub base: Revision,
    pub updates: Vec<AssignmentId>,
}

/// A worker of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its machine.
    pub node: NodeId,
    /// The life of its error feedback; None after a rollback until it names a new one.
    pub feedback: Option<FeedbackId>,
    /// Lives before it (the last [`KEPT_RETIRED`]), refused when an old message names them.
    pub retired_feedback: VecDeque<FeedbackId>,
    /// When it last named a new life while it took part; older states don't know.
    #[serde(default)]
    pub feedback_reset_ms: Option<u64>,
    /// False once it left.
    pub present: bool,
    /// Whether its updates are merged: a founder, or one with an accepted update.
    pub proven: bool,
    /// The newest round in which it got an assignment.
    pub last_round: Option<u64>,
    /// Tokens of its accepted updates. A rollback keeps them.
    pub credited_tokens: u64,
    /// Accepted updates.
    pub accepted: u64,
    /// Assignments that ended without an accepted update.
    pub returned: u64,
    /// How well its updates agreed with those of most others lately, −1 to 1; None until one
    /// was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<f32>,
    /// Its last update in this life of error feedback, where updates are audited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) committed: Option<Committed>,
    /// Payloads of this life of which it may still take something back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) untaken: BTreeMap<AssignmentId, Hash>,
    /// Why it takes part no more until a person takes it back; None: it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// What became of its latest assignments, oldest first.
    pub verdicts: VecDeque<Verdict>,
}

/// What became of an assignment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub assignment: AssignmentId,
    /// The round that it belonged to; None in snapshots from before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// The payload that was accepted for it, if one was.
    pub payload: Option<Hash>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did alone, where it stood out in its merge and made the loss worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Trial>,
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It waits for its merge.
    Waiting,
    /// It is in this revision, scaled by `factor`.
    Merged {
        /// Where.
        revision: Revision,
        /// 1 unless it was clipped.
        factor: f32,
        /// What was found about it; older logs don't know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        regard: Option<Regard>,
    },
    /// It is in no merge and will be in none.
    NotMerged {
        /// Why, for a person.
        reason: String,
    },
}

/// Blocks leased to a worker, for which no update was accepted yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// To whom.
    pub worker: WorkerId,
    /// In which round.
    pub round: u64,
    /// From which weights.
    pub base: Revision,
    /// How often its first block was leased before.
    pub attempt: u32,
    /// When training on it ends.
    pub deadline_ms: u64,
    /// What it is trained with, in a run of so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) span: Option<ScheduleSpan>,
    pub(crate) pieces: Vec<Piece>,
}

impl Lease {
    /// The blocks, in training order.
    pub fn blocks(&self) -> Vec<BlockRange> {
        self.pieces.iter().map(Piece::range).collect()
    }

    /// How many blocks.
    pub fn block_count(&self) -> u64 {
        self.pieces.iter().map(Piece::len).sum()
    }
}

/// An accepted update that waits for its merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WaitingUpdate {
    pub worker: WorkerId,
    pub round: u64,
    pub base: Revision,
    pub payload: Hash,
    pub payload_bytes: u64,
    pub tokens: u64,
    pub pieces: Vec<Piece>,
    /// Whether it waits for its audit first.
    #[serde(default)]
    pub held: bool,
    /// Whether its worker was on probation when it was accepted.
    #[serde(default)]
    pub newcomer: bool,
    /// Part of its weight that its node's reputation lets it have.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub trust: f32,
}

/// A merge that may still be needed: by nodes that catch up, or to recover the coordinator's
/// outer state after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeRecord {
    /// The round it closed.
    pub round: u64,
    /// The weights it made.
    pub revision: Revision,
    /// Its blob.
    pub merge: Hash,
    /// Its size.
    pub merge_bytes: u64,
    /// Digest of the weights.
    pub digest: Hash,
    /// What went in, in the order of aggregation. Empty once a checkpoint at or after this
    /// revision is durable: then its payloads are no longer needed.
    pub updates: Vec<crate::PendingUpdate>,
    /// Clip factors, likewise.
    pub factors: Vec<f32>,
    /// The blocks it used, given out again if a rollback undoes it.
    pub(crate) pieces: Vec<Piece>,
}

/// A durable base checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Of which revision (renamed when a rollback to it opens a lineage).
    pub revision: Revision,
    /// Blob of the weights, which is their digest.
    pub weights: Hash,
    /// Blob of the outer optimiser's state.
    pub outer_state: Hash,
}

/// What is remembered of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundSummary {
    /// Which.
    pub round: u64,
    /// Its base.
    pub base: Revision,
    /// When it opened.
    pub opened_ms: u64,
    /// When it closed or was abandoned.
    pub closed_ms: Option<u64>,
    /// When its merge was done.
    pub merged_ms: Option<u64>,
    /// Assignments given in it.
    pub assigned: u32,
    /// Updates accepted while it was the newest round, late ones too.
    pub accepted: u32,
    /// Of those, the ones for an earlier round.
    pub late: u32,
    /// Updates in its merge.
    pub merged: u32,
    /// Tokens of the updates in its merge.
    pub tokens: u64,
    /// Payload bytes of the updates in its merge.
    pub upload_bytes: u64,
    /// Size of its merge.
    pub merge_bytes: u64,
    /// What it made.
    pub revision: Option<Revision>,
    /// Why it closed or was abandoned; empty while it is open.
    pub reason: String,
}

/// Sums over the whole run, rolled-back work included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Tokens of accepted updates.
    pub tokens: u64,
    /// Accepted updates.
    pub updates: u64,
    /// Updates that came into a merge.
    pub merged_updates: u64,
    /// Bytes of accepted payloads.
    pub upload_bytes: u64,
    /// Bytes of merges, once for each worker that had an assignment in the round.
    pub download_bytes: u64,
    /// Rounds that ended in a merge.
    pub merged_rounds: u64,
    /// Rounds that ended without one.
    pub abandoned_rounds: u64,
}

impl Default for Run {
    /// A run with no event folded yet.
    fn default() -> Self {
        let start = Revision {
            lineage: 0,
            number: 0,
        };
        Self {
            settings: RoundSettings::default(),
            phase: Phase::Draft,
            phase_since_ms: 0,
            phase_reason: String::new(),
            last_event_ms: 0,
            events: 0,
            lineages: vec![Lineage {
                start,
                parent: None,
                at_ms: 0,
                reason: "start of the run".into(),
                by_itself: false,
            }],
            revision: start,
            digest: None,
            next_round: 0,
            current: None,
            closing: None,
            opens_ms: None,
            stopping: None,
            next_assignment: 0,
            blocks: BlockPool::default(),
            members: BTreeMap::new(),
            leases: BTreeMap::new(),
            waiting: BTreeMap::new(),
            audits: BTreeMap::new(),
            merges: VecDeque::new(),
            checkpoints: Vec::new(),
            rounds: VecDeque::new(),
            counted: VecDeque::new(),
            totals: Totals::default(),
        }
    }
}

impl Run {
    /// The first event of a run's log.
    pub fn create(settings: RoundSettings, now_ms: u64) -> Event {
        Event {
            at_ms: now_ms,
            kind: EventKind::Created { settings },
        }
    }

    /// The state that a log, from its first event on, folds to.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut run = Self::default();
        for event in events {
            run.fold(event);
        }
        run
    }
}
