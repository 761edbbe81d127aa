//! Audits as a run knows them: what a worker commits itself to with each update, which updates
//! are trained again, and what that found. What is compared, and how, is no matter of this
//! crate (`opengpu_merge::audit`).

use serde::{Deserialize, Serialize};

use crate::reputation::audit_rate;
use crate::{
    AssignmentId, BlockRange, Hash, NodeId, Rerun, Revision, RoundSettings, ScheduleSpan, WorkerId,
    WorkerSight,
};

/// Audits that may wait at once; while there are as many, no more are drawn among the updates
/// of trusted workers.
pub(crate) const WAITING_AUDITS: usize = 256;

/// Which updates are audited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditRules {
    /// Whether workers commit themselves with each update, so that it can be audited. Only
    /// where an assignment is a pure function of public data.
    pub enabled: bool,
    /// Least part of the updates of trusted workers that is audited, 0 to 1; the less a worker's
    /// node has proven, the more are ([`crate::reputation::audit_rate`]). Those of all others
    /// are audited each, and merged only after that.
    pub rate: f64,
}

/// What a worker commits itself to with an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// Merkle root of what it had accumulated: unsent parts of earlier updates and the
    /// progress of this assignment.
    pub root: Hash,
    /// Its update before this one in the same life of error feedback; None if this is the
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<AssignmentId>,
    /// Updates of which it took back the part that was not merged since the one before, in
    /// that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_back: Vec<AssignmentId>,
}

/// An update that is to be trained again and compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// Whose it is.
    pub worker: WorkerId,
    /// The round it was assigned in.
    pub round: u64,
    /// The weights it started from.
    pub base: Revision,
    /// What the assignment was trained with, in a run of so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) span: Option<ScheduleSpan>,
    /// All blocks of the assignment, in training order.
    pub blocks: Vec<BlockRange>,
    /// How many of them were trained.
    pub blocks_completed: u64,
    /// Tokens it was credited with.
    pub tokens: u64,
    /// What was sent.
    pub payload: Hash,
    /// What its worker committed itself to.
    pub root: Hash,
    /// What it follows from; None if the error feedback began at zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<AuditBefore>,
    /// When the update was accepted.
    pub accepted_ms: u64,
    /// Drawn when the update was accepted: decides which chunks are opened.
    pub draw: u64,
    /// Whether the update is merged only once this passed.
    #[serde(default)]
    pub held: bool,
    /// The opened chunks, once they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openings: Option<Hash>,
}

/// The update before one that is audited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditBefore {
    /// What its worker committed itself to.
    pub root: Hash,
    /// What was sent.
    pub payload: Hash,
    /// Payloads taken back since, in order, with the part of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_back: Vec<(Hash, f32)>,
}

/// What an audit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// The same within what is allowed.
    Passed,
    /// Not the same, or not proven.
    Failed,
    /// It could not be told, for reasons that are not the worker's.
    Undecided,
}

/// What an audit found, with the numbers that decided it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// In a word.
    pub outcome: AuditOutcome,
    /// Why, for a program; one of a fixed set.
    pub code: String,
    /// Why, for a person.
    pub reason: String,
    /// The distance that was measured, if it came to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// The largest that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// Who trained it again, in order; the last one decided. Not kept in logs from before nodes did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reruns: Vec<Rerun>,
}

impl Finding {
    /// Training again gave the same, but for so much.
    pub fn passed(measured: f64, allowed: f64) -> Self {
        Self {
            outcome: AuditOutcome::Passed,
            code: "same".into(),
            reason: "training it again gives the same".into(),
            measured: Some(measured),
            allowed: Some(allowed),
            reruns: Vec::new(),
        }
    }

    /// It was not the same, or not proven; `numbers` are what was measured and what is allowed.
    pub fn failed(code: &str, reason: String, numbers: Option<(f64, f64)>) -> Self {
        Self {
            outcome: AuditOutcome::Failed,
            code: code.to_owned(),
            reason,
            measured: numbers.map(|(measured, _)| measured),
            allowed: numbers.map(|(_, allowed)| allowed),
            reruns: Vec::new(),
        }
    }

    /// It could not be told, for reasons that are not the worker's.
    pub fn undecided(code: &str, reason: &str) -> Self {
        Self {
            outcome: AuditOutcome::Undecided,
            code: code.to_owned(),
            reason: reason.to_owned(),
            measured: None,
            allowed: None,
            reruns: Vec::new(),
        }
    }

    /// The same, with who trained it again.
    #[must_use]
    pub fn by(self, reruns: Vec<Rerun>) -> Self {
        Self { reruns, ..self }
    }

    /// The node whose training decided; None: the coordinator's own trainer, or nobody's.
    pub fn decided_by(&self) -> Option<NodeId> {
        self.reruns.last().and_then(|rerun| rerun.by)
    }

    /// Who is credited for training it again: workers of nodes whose training came to what was
    /// found, and is none that the one that decided refuted.
    pub fn credited(&self) -> impl Iterator<Item = (NodeId, WorkerId)> {
        let stands = |rerun: &&Rerun| {
            let found = match self.outcome {
                AuditOutcome::Passed => rerun.agrees(),
                AuditOutcome::Failed => !rerun.agrees(),
                AuditOutcome::Undecided => false,
            };
            found && !rerun.refuted
        };
        let reruns = self.reruns.iter().filter(stands);
        reruns.filter_map(|rerun| rerun.by.zip(rerun.worker))
    }

    /// Whether a failure was shown by what the worker sent, and not by what it did not send.
    pub fn is_proven(&self) -> bool {
        self.code != NOT_OPENED
    }
}

/// Code of an audit for which nothing was opened.
pub(crate) const NOT_OPENED: &str = "not_opened";

/// The update that a worker's next one follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub assignment: AssignmentId,
    pub root: Hash,
    pub payload: Hash,
}

impl AuditRules {
    /// Whether nothing is audited, as in runs from before there were audits.
    pub(crate) fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an update is audited, by the number that was drawn for it. Of who `stands_out`
    /// each is, as of who is not trusted.
    pub(crate) fn picks(
        &self,
        sight: Option<&WorkerSight>,
        stands_out: bool,
        waiting: usize,
        draw: u64,
    ) -> bool {
        // 53 bits: what a float64 holds.
        let part = (draw >> 11) as f64 / (1u64 << 53) as f64;
        let Some(trusted) = sight.filter(|sight| sight.trusted) else {
            return self.enabled;
        };
        let rate = match stands_out {
            true => 1.0,
            false => audit_rate(self.rate, trusted.reputation),
        };
        self.enabled && part < rate && waiting < WAITING_AUDITS
    }
}

impl Audit {
    /// From when on the drawn chunks, if they were not opened, will not be: a worker opens them
    /// as soon as it is told, so that a round and the time until it counts as gone are plenty.
    pub(crate) fn given_up_ms(&self, settings: &RoundSettings) -> Option<u64> {
        let patience = settings
            .duration_ms
            .saturating_add(settings.grace_ms)
            .saturating_add(settings.silence_ms);
        let unopened = self.openings.is_none();
        unopened.then(|| self.accepted_ms.saturating_add(patience))
    }
}
