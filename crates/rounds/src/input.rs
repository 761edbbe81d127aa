//! What goes into a decision and what comes out of it.

use std::collections::BTreeMap;

use crate::probe::Trial;
use crate::{
    AssignmentId, Commitment, Event, FeedbackId, Finding, Hash, NodeId, Regard, Revision, Run,
    WorkerId,
};

/// Something that happened and asks for a decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A person starts the run.
    Start,
    /// Time passed, or a worker's sight changed (a report that makes it ready).
    Tick,
    /// A worker wants to take part. Repeating it changes nothing.
    Join {
        /// Who.
        worker: WorkerId,
        /// On which machine.
        node: NodeId,
        /// The life of its error feedback.
        feedback: FeedbackId,
    },
    /// A worker's error feedback starts again at zero (lost, or after a rollback).
    FeedbackReset {
        /// Whose.
        worker: WorkerId,
        /// The new life.
        feedback: FeedbackId,
    },
    /// A worker takes part no more, by its own will or by an operator's.
    Leave {
        /// Who.
        worker: WorkerId,
        /// Why, for a person.
        reason: String,
    },
    /// A worker takes part no more, and nothing of its is merged any more: something against its
    /// node is proven, or an operator shut it out.
    Expel {
        /// Who.
        worker: WorkerId,
        /// Why, for a person.
        reason: String,
    },
    /// An update arrived whole and its payload is durable.
    Update {
        /// Which assignment it answers.
        assignment: AssignmentId,
        /// Who sent it (from the signature, not from the message).
        worker: WorkerId,
        /// The weights it started from.
        base: Revision,
        /// A prefix of the assignment's blocks.
        blocks_completed: u64,
        /// The payload's blob.
        payload: Hash,
        /// Its size.
        payload_bytes: u64,
        /// Tokens in one block of this run, from the run's file, not from the worker.
        tokens_per_block: u64,
        /// The life of the error feedback it was taken from.
        feedback: FeedbackId,
        /// What its worker commits itself to, where updates are audited.
        commitment: Option<Commitment>,
        /// A number that nobody could know before: whether and where the update is audited.
        draw: u64,
    },
    /// A worker opened the chunks that were drawn of its update; their blob is durable.
    Opened {
        /// Of which update.
        assignment: AssignmentId,
        /// Who sent them (from the signature).
        worker: WorkerId,
        /// Their blob.
        openings: Hash,
    },
    /// An audit asked for by [`Run::pending_audits`] ended.
    Audited {
        /// Of which update.
        assignment: AssignmentId,
        /// What it found.
        finding: Finding,
    },
    /// The merge asked for by [`Run::pending_merge`] is computed and its blob is durable.
    MergeDone {
        /// Which round.
        round: u64,
        /// The merge's blob.
        merge: Hash,
        /// Its size.
        merge_bytes: u64,
        /// Digest of the weights it makes.
        digest: Hash,
        /// Clip factor of each update, in the order of [`crate::PendingMerge::updates`].
        factors: Vec<f32>,
        /// What was found about each, in the same order; empty if they were not compared.
        regards: Vec<Regard>,
    },
    /// The pending merge can't be computed.
    MergeFailed {
        /// Why, for a person.
        reason: String,
    },
    /// A base checkpoint is durable.
    CheckpointDone {
        /// Of which revision.
        revision: Revision,
        /// Blob of the weights.
        weights: Hash,
        /// Blob of the outer optimiser's state.
        outer_state: Hash,
    },
    /// A person pauses the run.
    Pause {
        /// Why.
        reason: String,
    },
    /// A person resumes it (after a pause, or to try again after a failure).
    Resume,
    /// A person stops it for good.
    Stop {
        /// Why.
        reason: String,
    },
    /// The coordinator measured a loss on held-out text that no worker chose.
    HeldOut(Look),
    /// Updates of a merge that stood out were tried alone.
    Probed {
        /// What the merge made.
        revision: Revision,
        /// What was found about each.
        trials: Vec<Trial>,
    },
    /// A person takes a worker back that was left out.
    Readmit {
        /// Whom.
        worker: WorkerId,
    },
    /// A person found that a failed audit was no failure. Asked once for each: whether it was
    /// given back before is in the ledger, which alone has what was taken.
    ReturnCredit {
        /// Of which update.
        assignment: AssignmentId,
        /// Whose.
        worker: WorkerId,
        /// How much was taken.
        tokens: u64,
    },
    /// A person goes back to a checkpoint.
    RollBack {
        /// A revision in [`Run::checkpoints`], or its name in the present lineage.
        to: Revision,
        /// Why.
        reason: String,
    },
}

/// A held-out loss, and what it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Of which weights.
    pub revision: Revision,
    /// In nats per token; None: it is no finite number.
    pub loss: Option<f64>,
    /// The lowest loss before it in this line of descent, measured in the same way.
    pub good: Option<(Revision, f64)>,
    /// Workers whose updates since then, tried one by one, make the loss worse.
    pub suspects: Vec<WorkerId>,
}

impl Look {
    /// Whether the loss is no number, or above the lowest before it by more than this part of
    /// that. Where nothing was measured before, only the first can be told.
    pub fn is_spike(&self, above: f64) -> bool {
        match (self.loss, self.good) {
            (None, _) => true,
            (Some(loss), Some((_, lowest))) => loss > lowest * (1.0 + above),
            (Some(_), None) => false,
        }
    }
}

/// What is known of a worker right now; kept in memory, never an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerSight {
    /// The weights it holds, their digest checked against the coordinator's.
    pub revision: Option<Revision>,
    /// Its measured speed.
    pub blocks_per_second: f64,
    /// When it was last heard of, on the coordinator's monotonic clock.
    pub last_heard_ms: u64,
    /// Whether it is to be given nothing new.
    pub draining: bool,
    /// Whether its updates are merged before they are audited.
    pub trusted: bool,
    /// How far its node's reputation is beyond probation, 0 to 1 (1: in full, or an operator
    /// vouches for it).
    pub reputation: f64,
}

/// What is known of each worker. A worker that is not in it counts as silent.
pub type Fleet = BTreeMap<WorkerId, WorkerSight>;

/// Whether a worker's updates are merged before they are audited.
pub(crate) fn is_trusted(fleet: &Fleet, worker: WorkerId) -> bool {
    fleet.get(&worker).is_some_and(|sight| sight.trusted)
}

/// The fleet as a coordinator that just started should assume it: every member may still be
/// there, none is known to be ready. Without it a restart would take everyone for silent.
pub fn fleet_after_restart(run: &Run, now_ms: u64) -> Fleet {
    let unseen = WorkerSight {
        revision: None,
        blocks_per_second: 0.0,
        last_heard_ms: now_ms,
        draining: false,
        trusted: false,
        reputation: 0.0,
    };
    let members = run.members().filter(|(_, member)| member.present);
    members.map(|(worker, _)| (worker, unseen)).collect()
}

/// The outcome of [`Run::decide`]: append the events, fold them, then answer the caller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What was decided, in order. May be empty, and may go with a refusal (an update with
    /// no finished block is refused and its lease returned).
    pub events: Vec<Event>,
    /// Set when what the input asked for is not granted.
    pub refusal: Option<Refusal>,
    /// Why, or what is waited for: a sentence for a person.
    pub reason: String,
}

/// Why an input is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For a program; one of a fixed set.
    pub code: &'static str,
    /// For a person: what is wrong, with the number, and what mends it.
    pub message: String,
    /// The numbers, where what refused it is a comparison.
    pub compared: Option<Compared>,
}

/// The two numbers of a check that compares, in the check's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// What it found.
    pub measured: u64,
    /// What would have passed, or the nearest that would.
    pub allowed: u64,
}
