//! Standing: where a node is between a stranger and one that is shut out. The numbers behind it
//! are [`crate::reputation`]; here is which step leads where, and what remains of the steps once
//! one of them is found to have been wrong.
//!
//! ```text
//! probation ⇄ trusted       audits passed, or an operator vouches; idle months, or he no longer does
//! either → suspect          evidence that is no proof
//! suspect → trusted         audits passed anew
//! any of these → quarantined   proof, or the operator
//! any → banned              the operator alone
//! ```
//!
//! Out of quarantine and a ban leads no program: an operator restores the node, or reverses what
//! was held against it.

use serde::{Deserialize, Serialize};

use crate::{AuditOutcome, Finding};

/// Audits that a node passes to leave probation, or suspicion; a run may ask for more or less
/// before it merges its updates at once.
pub const PROBATION_AUDITS: u32 = 3;

/// Where a node stands, the worse the later.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It has not proven much yet.
    #[default]
    Probation,
    /// It has proven itself, or an operator vouches for it.
    Trusted,
    /// Something speaks against it, which proves nothing: it is audited like a newcomer.
    Suspect,
    /// It gets no work: something against it is proven.
    Quarantined,
    /// An operator shut it out.
    Banned,
}

impl Level {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Probation,
        Self::Trusted,
        Self::Suspect,
        Self::Quarantined,
        Self::Banned,
    ];

    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probation => "probation",
            Self::Trusted => "trusted",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Banned => "banned",
        }
    }

    /// The level with this word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == word)
    }

    /// Of a node that nothing is held against.
    pub fn earned(trusted: bool) -> Self {
        match trusted {
            true => Self::Trusted,
            false => Self::Probation,
        }
    }

    /// Whether something is held against it.
    pub fn is_held_against(self) -> bool {
        self >= Self::Suspect
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What moves a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It passed as many audits as it takes.
    Proven,
    /// It proved nothing for so long that what it had proven no longer counts.
    Decayed,
    /// Evidence that is no proof.
    Doubt,
    /// Proof.
    Proof,
    /// An operator wants it to have no work.
    Quarantine,
    /// An operator shuts it out.
    Ban,
    /// An operator holds nothing against it any more.
    Restore,
    /// An operator vouches for it.
    Vouch,
    /// An operator no longer does.
    Distrust,
    /// An operator found that an earlier step was wrong.
    Reversal,
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::Proven,
        Self::Decayed,
        Self::Doubt,
        Self::Proof,
        Self::Quarantine,
        Self::Ban,
        Self::Restore,
        Self::Vouch,
        Self::Distrust,
        Self::Reversal,
    ];

    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Decayed => "decayed",
            Self::Doubt => "doubt",
            Self::Proof => "proof",
            Self::Quarantine => "quarantine",
            Self::Ban => "ban",
            Self::Restore => "restore",
            Self::Vouch => "vouch",
            Self::Distrust => "distrust",
            Self::Reversal => "reversal",
        }
    }

    /// The cause with this word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }

    /// What a finished audit is for the node whose update it was, if it had failed `failed` of
    /// them before without a proof and as many as `patience` are bad luck; None: nothing.
    pub fn of_audit(finding: &Finding, failed: u64, patience: u64) -> Option<Self> {
        match finding.outcome {
            AuditOutcome::Passed => None,
            AuditOutcome::Failed if finding.is_proven() || failed >= patience => Some(Self::Proof),
            AuditOutcome::Failed => Some(Self::Doubt),
            // A difference that nobody could settle. One that was not measured is not the node's.
            AuditOutcome::Undecided => {
                let beyond = finding.measured.zip(finding.allowed);
                beyond
                    .is_some_and(|(measured, allowed)| measured > allowed)
                    .then_some(Self::Doubt)
            }
        }
    }

    /// How bad it is by itself; None if it holds nothing against the node.
    pub fn severity(self) -> Option<Level> {
        match self {
            Self::Doubt => Some(Level::Suspect),
            Self::Proof | Self::Quarantine => Some(Level::Quarantined),
            Self::Ban => Some(Level::Banned),
            _ => None,
        }
    }

    /// Whether the program found it out, so that each time counts.
    pub fn is_evidence(self) -> bool {
        matches!(self, Self::Doubt | Self::Proof)
    }

    /// Whether an operator does it.
    pub fn is_operators(self) -> bool {
        !matches!(
            self,
            Self::Proven | Self::Decayed | Self::Doubt | Self::Proof
        )
    }

    /// Where it leads from `from`, for a node that would be trusted or not if nothing were held
    /// against it; None: it does not lead away from there. Reversals go by [`Left`].
    pub fn leads(self, from: Level, trusted: bool) -> Option<Level> {
        use Level::{Banned, Probation, Quarantined, Suspect, Trusted};
        match (self, from) {
            (Self::Proven | Self::Vouch, Probation | Suspect) => Some(Trusted),
            (Self::Decayed, Trusted) => Some(Probation),
            (Self::Distrust, Trusted) => Some(Level::earned(trusted)),
            (Self::Doubt, Probation | Trusted) => Some(Suspect),
            (Self::Proof | Self::Quarantine, Probation | Trusted | Suspect) => Some(Quarantined),
            // Further evidence makes nothing better.
            (Self::Doubt | Self::Proof, held) => Some(held),
            (Self::Ban, Probation | Trusted | Suspect | Quarantined) => Some(Banned),
            (Self::Restore, Suspect | Quarantined | Banned) => Some(Level::earned(trusted)),
            _ => None,
        }
    }
}

/// A step that a node went, as far as a reversal looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it was.
    pub cause: Cause,
    /// Where it led.
    pub to: Level,
    /// Whether it was reversed.
    pub reversed: bool,
}

/// What is left of a node's steps without one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Other evidence, at this level.
    Held(Level),
    /// Nothing: the node is what it was before the step at this place.
    Clear(usize),
    /// It moves nothing: the node was cleared, or restored, since.
    Past,
}

impl Left {
    /// Of these steps, oldest first, without the one at `place`. What counts together is what was
    /// held against the node since it last stood well, in whatever order it is reversed.
    pub fn without(steps: &[Step], place: usize) -> Self {
        let well = steps.iter().rposition(|step| !step.to.is_held_against());
        let first = well.map_or(0, |well| well + 1);
        let holds = steps.get(place).and_then(|step| step.cause.severity());
        if place < first || holds.is_none() {
            return Self::Past;
        }
        let others = steps.iter().enumerate().skip(first);
        let others = others.filter(|(at, step)| *at != place && !step.reversed);
        match others.filter_map(|(_, step)| step.cause.severity()).max() {
            Some(level) => Self::Held(level),
            None => Self::Clear(first),
        }
    }
}
