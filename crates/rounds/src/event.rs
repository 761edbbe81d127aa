//! The decisions of a run, as they are stored. Folding them never decides anything.
//!
//! Versioned: a variant or field is never renamed, retyped or removed, only added with
//! a default, so that a newer program reads an older log to the same state.

use serde::{Deserialize, Serialize};

use crate::probe::Trial;
use crate::{
    AssignmentId, Commitment, FeedbackId, Finding, Hash, NodeId, Revision, RoundSettings,
    ScheduleSpan, WorkerId,
};

/// Half-open range of global block numbers. Block `b` is position `b % blocks_per_epoch`
/// of epoch `b / blocks_per_epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockRange {
    /// First block.
    pub start: u64,
    /// One past the last block.
    pub end: u64,
}

/// What was found about an update when it was compared with the others of its round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regard {
    /// Part of its weight that it counted with in the merge; more than 1 where others counted
    /// less.
    pub counted: f32,
    /// How far it agrees with most others, −1 to 1: the median of its cosines with the
    /// updates of its round (in older logs the cosine with their geometric median).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f32>,
    /// The running agreement of its worker, this update included where it could be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<f32>,
    /// What both had to reach for an update of the round to count in full (in older logs the
    /// running agreement alone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<f32>,
    /// The update of the round that it is nearly a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<AssignmentId>,
}

/// What older logs did not write: the whole weight.
pub(crate) fn whole() -> f32 {
    1.0
}

pub(crate) fn is_whole(part: &f32) -> bool {
    *part == 1.0
}

/// One decision, with when it was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds on the coordinator's monotonic clock.
    pub at_ms: u64,
    /// What was decided.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// The run exists, in phase Draft.
    Created {
        /// Its rules.
        settings: RoundSettings,
    },
    /// The run waits for workers.
    Forming,
    /// Enough workers are ready; the round opens at `opens_ms` with all that are ready
    /// then, or as soon as nobody is worth waiting for.
    Gathering {
        /// Until when others are waited for.
        opens_ms: u64,
        /// Who is ready, for a person.
        reason: String,
    },
    /// A worker takes part from the next round on.
    WorkerJoined {
        /// Who.
        worker: WorkerId,
        /// On which machine.
        node: NodeId,
        /// The life of its error feedback.
        feedback: FeedbackId,
        /// Founders joined before the first round: their first update is merged.
        founder: bool,
    },
    /// A worker's error feedback was lost and starts again at zero.
    FeedbackReset {
        /// Whose.
        worker: WorkerId,
        /// The new life.
        feedback: FeedbackId,
    },
    /// A worker takes part no more; what it held went back by `LeaseReturned`.
    WorkerLeft {
        /// Who.
        worker: WorkerId,
        /// Why, for a person.
        reason: String,
    },
    /// A round opened.
    RoundOpened {
        /// Its number; the merge that closes it makes revision `round + 1` of the lineage
        /// when `base.number == round`.
        round: u64,
        /// The weights that its workers start from.
        base: Revision,
        /// When training ends.
        deadline_ms: u64,
    },
    /// Blocks were leased to a worker.
    Assigned {
        /// The lease.
        assignment: AssignmentId,
        /// To whom.
        worker: WorkerId,
        /// In which round.
        round: u64,
        /// From which weights.
        base: Revision,
        /// Which blocks, in training order.
        blocks: Vec<BlockRange>,
        /// How often the first of these blocks has been leased before.
        attempt: u32,
        /// The part of the schedule to train it with, in a run of so many tokens; else it follows
        /// from the base.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span: Option<ScheduleSpan>,
    },
    /// An update arrived whole and passed the checks.
    UpdateAccepted {
        /// Which assignment it answers.
        assignment: AssignmentId,
        /// How many of its blocks were completed: a prefix. The rest went back at once.
        blocks_completed: u64,
        /// The payload's blob.
        payload: Hash,
        /// Its size.
        payload_bytes: u64,
        /// Tokens it is credited with.
        tokens: u64,
        /// False: checked and credited but not merged (a joiner's first update).
        mergeable: bool,
        /// What its worker committed itself to, where updates are audited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commitment: Option<Commitment>,
        /// The number drawn for its audit; None: it is not audited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audit: Option<u64>,
        /// Whether it is merged only once its audit passed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        held: bool,
        /// Part of its weight that its node's reputation lets it have.
        #[serde(default = "whole", skip_serializing_if = "is_whole")]
        trust: f32,
    },
    /// A worker opened the chunks that were drawn of an audited update.
    AuditOpened {
        /// Which update.
        assignment: AssignmentId,
        /// The openings' blob.
        openings: Hash,
    },
    /// An audit ended.
    Audited {
        /// Of which update.
        assignment: AssignmentId,
        /// What it found.
        finding: Finding,
        /// Whether the update, if it was held for this, may be merged now.
        merge: bool,
    },
    /// An accepted update that waited will be in no merge; its blocks may be leased again. Its
    /// credit stays.
    UpdateDropped {
        /// Which.
        assignment: AssignmentId,
        /// Why, for a person.
        reason: String,
    },
    /// A lease ended without an update; its blocks may be leased again.
    LeaseReturned {
        /// Which.
        assignment: AssignmentId,
        /// Why, for a person.
        reason: String,
    },
    /// Training time is over; updates are waited for until `grace_ends_ms`.
    Collecting {
        /// Which round.
        round: u64,
        /// Until when.
        grace_ends_ms: u64,
    },
    /// A round closed with these updates, in the order of aggregation.
    RoundClosed {
        /// Which round.
        round: u64,
        /// What will be merged; never empty.
        updates: Vec<AssignmentId>,
        /// Why now, for a person.
        reason: String,
    },
    /// A round closed without a merge (no quorum); its accepted updates wait for the next.
    RoundAbandoned {
        /// Which round.
        round: u64,
        /// Why, for a person.
        reason: String,
    },
    /// A closed round was merged.
    Merged {
        /// Which round.
        round: u64,
        /// The weights it made.
        revision: Revision,
        /// The merge's blob.
        merge: Hash,
        /// The merge's size.
        merge_bytes: u64,
        /// Digest of the revision's weights.
        digest: Hash,
        /// The clip factor of each merged update, in `RoundClosed` order.
        factors: Vec<f32>,
        /// What was found about each, in the same order; empty in older logs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        regards: Vec<Regard>,
        /// How many tokens it counts, in a run of so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted_tokens: Option<u64>,
    },
    /// A revision was written as a base checkpoint that joiners start from.
    Checkpointed {
        /// Which revision.
        revision: Revision,
        /// Blob of its canonical weights; equals the revision's digest.
        weights: Hash,
        /// Blob of the outer optimiser's state at that revision.
        outer_state: Hash,
    },
    /// A person paused the run; rounds in flight are abandoned and their leases returned.
    Paused {
        /// Why.
        reason: String,
    },
    /// A person resumed it.
    Resumed,
    /// The run went back to a checkpointed revision, in a new lineage.
    RolledBack {
        /// Where it went back to, in the old lineage.
        to: Revision,
        /// The same weights' name in the new lineage.
        revision: Revision,
        /// Why.
        reason: String,
        /// Whether nobody told it to.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_itself: bool,
        /// Workers that take part no more because of it, until a person takes them back.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<WorkerId>,
    },
    /// Updates of a merge, tried alone on the weights before it, made a held-out loss worse than
    /// is allowed.
    Probed {
        /// What the merge made.
        revision: Revision,
        /// What was measured of each, and allowed.
        hurt: Vec<Trial>,
    },
    /// A person took a worker back that was left out.
    Readmitted {
        /// Whom.
        worker: WorkerId,
    },
    /// A person found that a failed audit was no failure: its worker has the credit again. Also
    /// in runs that are over.
    CreditReturned {
        /// Of which update.
        assignment: AssignmentId,
        /// Whose.
        worker: WorkerId,
        /// How much the audit had taken.
        tokens: u64,
    },
    /// A person stopped the run while a merge was under way; it finishes with that merge.
    Stopping {
        /// Why.
        reason: String,
    },
    /// The run reached its length, or a person stopped it.
    Finished {
        /// Why.
        reason: String,
    },
    /// The run can't go on.
    Failed {
        /// Why, and what a person can do.
        reason: String,
    },
}
