//! What a fleet's training came to.

use std::collections::BTreeMap;

use opengpu_rounds::{AuditOutcome, Regard, WorkerId};
use serde::{Deserialize, Serialize};

/// What a setting gave.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Held-out loss at the end, nats per token.
    pub nats: f64,
    /// Payload bytes up, per parameter, worker and round.
    pub up: f64,
    /// Merge bytes down, per parameter and round.
    pub down: f64,
    /// Rounds merged.
    pub rounds: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// How the updates counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
    /// What audits found, where there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited: Option<Audited>,
}

/// How updates counted in their merges, in parts of their weight.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Mean over those of honest workers.
    pub honest: f64,
    /// Part of them that counted less than half of their weight.
    pub wronged: f64,
    /// Mean over those of hostile workers; what was refused of them counted nothing.
    pub hostile: f64,
    /// How many of theirs were refused. Older logs don't know.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What audits found. An identity is a worker under one name; a fresh one comes again under
/// another.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Audited {
    /// Audits made.
    pub made: u64,
    /// Hostile identities.
    pub hostile: u64,
    /// Of these, in quarantine at the end.
    pub caught: u64,
    /// Rounds from the one whose update was first audited to the one in which the identity
    /// was put in quarantine, as a mean over those caught.
    pub after_first_audit: f64,
    /// The largest of them.
    pub longest_after_first_audit: u64,
    /// Rounds that an identity took part in until it was caught, as a mean.
    pub until_caught: f64,
    /// Audits of hostile updates that passed.
    pub hostile_passed: u64,
    /// Honest workers in quarantine.
    pub honest_caught: u64,
}

/// Sums over all updates.
#[derive(Default)]
pub(super) struct Counts {
    honest: u64,
    honest_counted: f64,
    wronged: u64,
    hostile: u64,
    hostile_counted: f64,
    refused: u64,
}

impl Counts {
    pub(super) fn add(&mut self, hostile: bool, regard: &Regard) {
        let counted = f64::from(regard.counted);
        if hostile {
            self.hostile += 1;
            self.hostile_counted += counted;
        } else {
            self.honest += 1;
            self.honest_counted += counted;
            self.wronged += u64::from(counted < 0.5);
        }
    }

    /// An update of a hostile worker was refused.
    pub(super) fn refuse(&mut self) {
        self.hostile += 1;
        self.refused += 1;
    }

    pub(super) fn parts(&self) -> Counted {
        let part = |sum: f64, count: u64| sum / count.max(1) as f64;
        Counted {
            honest: part(self.honest_counted, self.honest),
            wronged: part(self.wronged as f64, self.honest),
            hostile: part(self.hostile_counted, self.hostile),
            refused: self.refused,
        }
    }
}

/// What became of each identity.
#[derive(Default)]
pub(super) struct Watch {
    identities: BTreeMap<WorkerId, Identity>,
    made: u64,
    hostile_passed: u64,
}

struct Identity {
    hostile: bool,
    /// The first round that it can take part in.
    joined: u64,
    first_audit: Option<u64>,
    caught: Option<u64>,
}

impl Watch {
    pub(super) fn joins(&mut self, worker: WorkerId, hostile: bool, joined: u64) {
        let identity = Identity {
            hostile,
            joined,
            first_audit: None,
            caught: None,
        };
        self.identities.insert(worker, identity);
    }

    /// An update of `round` is to be audited.
    pub(super) fn drawn(&mut self, worker: WorkerId, round: u64) {
        if let Some(identity) = self.identities.get_mut(&worker) {
            identity.first_audit.get_or_insert(round);
        }
    }

    pub(super) fn found(&mut self, worker: WorkerId, outcome: AuditOutcome) {
        self.made += 1;
        let hostile = self.identities.get(&worker).is_some_and(|one| one.hostile);
        self.hostile_passed += u64::from(hostile && outcome == AuditOutcome::Passed);
    }

    pub(super) fn catches(&mut self, worker: WorkerId, round: u64) {
        if let Some(identity) = self.identities.get_mut(&worker) {
            identity.caught.get_or_insert(round);
        }
    }

    pub(super) fn figures(&self) -> Audited {
        let of = |hostile: bool| {
            let all = self.identities.values();
            all.filter(move |identity| identity.hostile == hostile)
        };
        let caught = || of(true).filter_map(|identity| Some((identity, identity.caught?)));
        let after = || {
            caught()
                .filter_map(|(identity, caught)| Some(caught.saturating_sub(identity.first_audit?)))
        };
        let until = caught().map(|(identity, caught)| (caught + 1).saturating_sub(identity.joined));
        let mean = |sum: u64, count: usize| sum as f64 / count.max(1) as f64;
        let count = caught().count();
        Audited {
            made: self.made,
            hostile: of(true).count() as u64,
            caught: count as u64,
            after_first_audit: mean(after().sum(), count),
            longest_after_first_audit: after().max().unwrap_or_default(),
            until_caught: mean(until.sum(), count),
            hostile_passed: self.hostile_passed,
            honest_caught: of(false).filter(|one| one.caught.is_some()).count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn figures_from_before_refusals_were_counted_read_and_are_written_as_they_were() {
        let old = r#"{"honest":1.0,"wronged":0.0,"hostile":0.5}"#;
        let counted: Counted = serde_json::from_str(old).unwrap();
        assert_eq!(counted.refused, 0);
        assert_eq!(serde_json::to_string(&counted).unwrap(), old);
    }

    #[test]
    fn a_refused_update_of_a_hostile_worker_counts_nothing() {
        let mut counts = Counts::default();
        let whole = Regard {
            counted: 1.0,
            agreement: None,
            record: None,
            needed: None,
            twin: None,
        };
        counts.add(true, &whole);
        counts.refuse();
        let parts = counts.parts();
        assert_eq!((parts.hostile, parts.refused), (0.5, 1));
    }
}
