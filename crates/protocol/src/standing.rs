//! What goes over the wire about how a node stands: what was held against it and why, what its
//! owner says to that, and what an operator answers. Durations, never clock times.

use opengpu_rounds::standing::{Cause, Level};
use opengpu_rounds::{AssignmentId, NodeId, RunId};
use serde::{Deserialize, Serialize};

/// Longest text of an appeal, of a reason or of a note, in characters.
pub const LONGEST_TEXT: usize = 2000;

/// What a change rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// In which run it was found.
    pub run: RunId,
    /// In which update; None: the run as a whole, such as a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<AssignmentId>,
    /// The round of the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// The most that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// Number of the entry in the run's ledger that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
}

/// A change of a node's standing, or further evidence against one that stands badly already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeView {
    /// Its number, with which it is appealed and reviewed.
    pub change: u64,
    /// How long ago it was.
    pub age_seconds: u64,
    /// Where the node stood.
    pub from: Level,
    /// Where it stands since.
    pub to: Level,
    /// What it was.
    pub cause: Cause,
    /// Who made it: `coordinator` or `operator`.
    pub by: String,
    /// Why, for a program.
    pub code: String,
    /// Why, for a person.
    pub reason: String,
    /// What it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// The change that reversed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversed_by: Option<u64>,
    /// What the node's owner says to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appeal: Option<AppealView>,
}

/// An appeal against a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppealView {
    /// What the node's owner says.
    pub text: String,
    /// How long ago.
    pub age_seconds: u64,
    /// What came of it.
    pub outcome: AppealOutcome,
    /// What the operator says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What came of an appeal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppealOutcome {
    /// Nothing yet: it waits for an operator.
    Open,
    /// The change stays.
    Upheld,
    /// The change was wrong, and is reversed.
    Reversed,
}

impl AppealOutcome {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Upheld => "upheld",
            Self::Reversed => "reversed",
        }
    }
}

/// `GET /v1/standing` (signed, also by a node that is shut out) and `GET /v1/nodes/{node}/standing`
/// (operator): how a node stands, and how it came to that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingView {
    /// Which node.
    pub node: NodeId,
    /// Where it stands.
    pub standing: Level,
    /// What moved it, newest first, at most 100.
    pub changes: Vec<ChangeView>,
}

/// How a node stands, in its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingPlan {
    /// Where it stands.
    pub standing: Level,
    /// What was held against it last, if anything ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// What is, or was, held against a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Number of the change.
    pub change: u64,
    /// Why, for a program.
    pub code: String,
    /// Why, for a person.
    pub reason: String,
    /// Whether it was found to have been wrong.
    pub reversed: bool,
    /// What came of the appeal, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appeal: Option<AppealOutcome>,
    /// What the operator says to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl StandingPlan {
    /// What its owner can do about it, if anything is to be done.
    pub fn advice(&self) -> Option<&'static str> {
        let appeal = self.against.as_ref().and_then(|against| against.appeal);
        match (self.standing, appeal) {
            (Level::Probation | Level::Trusted, _) => None,
            (_, Some(AppealOutcome::Open)) => {
                Some("the operator has your appeal, and answers it with `opengpu node review`")
            }
            (Level::Suspect, _) => Some(
                "its updates are audited like a newcomer's; it is trusted again after three audits that pass, or by `opengpu appeal --text`",
            ),
            (_, Some(AppealOutcome::Upheld)) => {
                Some("the operator looked at it and lets it stand; ask him what would change that")
            }
            (Level::Quarantined | Level::Banned, _) => Some(
                "it gets no work; test the machine's memory, then say what you know: `opengpu appeal --text`",
            ),
        }
    }
}

/// Why no run takes a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoWork {
    /// For a program.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// `POST /v1/appeals` (signed, also by a node that is shut out).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppealRequest {
    /// Against which change; None: the newest that is held against the node and was not appealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<u64>,
    /// What its owner says: 1 to 2000 characters.
    pub text: String,
}

/// `POST /v1/nodes/{node}/review`, for the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewRequest {
    /// Which change; None: the one whose appeal is open for longest, else the newest that is held
    /// against the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<u64>,
    /// Whether it was wrong.
    pub reverse: bool,
    /// What the node's owner is told, at most 2000 characters.
    #[serde(default)]
    pub note: String,
}

/// `POST /v1/nodes/{node}/{action}`; the body may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionReason {
    /// Why, for the node's owner: at most 2000 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_something_is_held_against_is_told_what_to_do_and_nobody_else() {
        for standing in Level::ALL {
            for appeal in [
                None,
                Some(AppealOutcome::Open),
                Some(AppealOutcome::Upheld),
                Some(AppealOutcome::Reversed),
            ] {
                let plan = StandingPlan {
                    standing,
                    against: Some(Against {
                        change: 1,
                        code: "not_opened".into(),
                        reason: "nothing came".into(),
                        reversed: false,
                        appeal,
                        note: None,
                    }),
                };
                assert_eq!(plan.advice().is_some(), standing.is_held_against());
            }
        }
    }
}
