//! The state machine of a training run: forming, rounds with deadlines, quorum, leases of
//! blocks, late updates, lineages. Pure: no I/O, no clock, no runtime, no randomness.
//!
//! [`Run`] is the folded state. [`Run::decide`] looks at it, at an [`Input`] and at what is
//! known of the [`Fleet`], and answers with events and a reason; [`Run::fold`] applies an
//! event and never decides. What must be done in the world (merge, write a checkpoint) is
//! read from the state ([`Run::pending_merge`], [`Run::pending_checkpoint`]), so the state
//! is the outbox and doing it twice is harmless.
//!
//! [`simulation`] runs a whole fleet in simulated time against the same code.
//!
//! Deliberately absent: payloads, weights and checks of their contents (`merge`), who a
//! worker is and whether it may take part (the coordinator), refused requests (they are no
//! events, so that nobody can grow the log by being refused).

mod audit;
mod blocks;
mod decide;
mod event;
mod explain;
mod fold;
mod ids;
mod input;
mod length;
pub mod probe;
mod reads;
pub mod reputation;
mod rerun;
mod run;
mod settings;
mod shared;
pub mod simulation;
pub mod standing;
mod weight;

pub use audit::{Audit, AuditBefore, AuditOutcome, AuditRules, Commitment, Finding};
pub use event::{BlockRange, Event, EventKind, Regard};
pub use ids::{AssignmentId, FeedbackId, Hash, NodeId, NotAHash, Revision, RunId, WorkerId};
pub use input::{
    Compared, Decision, Fleet, Input, Look, Refusal, WorkerSight, fleet_after_restart,
};
pub use length::ScheduleSpan;
pub use reads::{PendingMerge, PendingUpdate};
pub use reputation::Reputation;
pub use rerun::{Belief, Candidate, Choice, Involved, MOST_ASKED, Rerun, believe, choose_auditor};
pub use run::{
    Checkpoint, Lease, Lineage, Member, MergeRecord, OpenRound, Outcome, Phase, RoundSummary, Run,
    STATE_VERSION, Totals, Verdict,
};
pub use settings::RoundSettings;
pub use weight::{DIRECTION_SINCE, NEWCOMERS_PART, WEIGHING, weight, weights};
