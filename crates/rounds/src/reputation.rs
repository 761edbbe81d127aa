//! Reputation: how far what a node has proven lets it be believed. It rises by one with each
//! audit passed, is gone with the first that fails, and halves with each month in which nothing
//! is proven, so that a name that was built up and left lying, or sold, is worth little.
//!
//! It decides how often a node is audited, what its updates weigh and which runs it may join;
//! never whether an update is right.

use serde::{Deserialize, Serialize};

/// In what time a reputation halves: thirty days.
pub const HALF_LIFE_MS: u64 = 30 * 24 * 3600 * 1000;
/// Audits beyond probation that make a full reputation.
pub const FULL_AUDITS: f64 = 10.0;
/// Audits above which nothing is added: what can be lost, and what can be lived on without
/// proving anything, is bounded.
pub const MOST_AUDITS: f64 = 40.0;
/// As much of an audit may have decayed before it no longer counts as one: a node does not fall
/// back into probation in the hours after it left it.
const ROUNDING: f64 = 0.5;
/// Part of its weight that an update of a node has that just left probation.
const LEAST_TRUST: f64 = 0.5;

/// What a node has proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reputation {
    /// Audits passed that still counted when this was written.
    pub audits: f64,
    /// When it was written: milliseconds since 1970.
    pub at_unix_ms: u64,
}

impl Reputation {
    /// The audits that still count at a later time.
    pub fn audits_at(self, now_unix_ms: u64) -> f64 {
        let age_ms = now_unix_ms.saturating_sub(self.at_unix_ms);
        self.audits * (-(age_ms as f64) / HALF_LIFE_MS as f64).exp2()
    }

    /// After another audit was passed.
    #[must_use]
    pub fn passed(self, now_unix_ms: u64) -> Self {
        self.with(now_unix_ms, |audits| (audits + 1.0).min(MOST_AUDITS))
    }

    /// After an audit was failed, proven or not: nothing is left.
    #[must_use]
    pub fn failed(self, now_unix_ms: u64) -> Self {
        self.with(now_unix_ms, |_| 0.0)
    }

    /// Whether it is out of probation, which takes so many audits.
    pub fn is_trusted(self, now_unix_ms: u64, probation_audits: u32) -> bool {
        self.audits_at(now_unix_ms) + ROUNDING >= f64::from(probation_audits)
    }

    /// How far beyond probation it is: 0 just out of it (or in it), 1 in full.
    pub fn beyond_probation(self, now_unix_ms: u64, probation_audits: u32) -> f64 {
        let beyond = self.audits_at(now_unix_ms) - f64::from(probation_audits);
        (beyond / FULL_AUDITS).clamp(0.0, 1.0)
    }

    fn with(self, now_unix_ms: u64, change: impl Fn(f64) -> f64) -> Self {
        Self {
            audits: change(self.audits_at(now_unix_ms)),
            // A clock that was set back must not make the past count twice.
            at_unix_ms: now_unix_ms.max(self.at_unix_ms),
        }
    }
}

/// The part of a trusted node's updates that is audited, `rate` at least: of one that just left
/// probation every second, of one that passed `n` audits since, one in `n + 2`; with a full
/// reputation it is `rate`.
pub fn audit_rate(rate: f64, beyond_probation: f64) -> f64 {
    if beyond_probation >= 1.0 {
        return rate;
    }
    let since = FULL_AUDITS * beyond_probation.max(0.0);
    rate.max(1.0 / (since + 2.0)).min(1.0)
}

/// The part of its weight that an update of a trusted node has.
pub fn trust(beyond_probation: f64) -> f32 {
    let beyond = (2.0 * beyond_probation).clamp(0.0, 1.0);
    (LEAST_TRUST + (1.0 - LEAST_TRUST) * beyond) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn after(audits: u32) -> Reputation {
        (0..audits).fold(Reputation::default(), |known, _| known.passed(0))
    }

    #[test]
    fn it_rises_by_one_falls_at_once_and_halves_in_a_month() {
        assert!(!after(2).is_trusted(0, 3));
        assert!(after(3).is_trusted(0, 3));
        assert_eq!(after(3).failed(0).audits, 0.0);
        assert_eq!(after(4).audits_at(HALF_LIFE_MS), 2.0);
        assert_eq!(after(1000).audits, MOST_AUDITS);
    }

    #[test]
    fn who_just_left_probation_stays_out_of_it_for_days_and_falls_back_in_weeks() {
        assert!(after(3).is_trusted(7 * DAY_MS, 3));
        assert!(!after(3).is_trusted(14 * DAY_MS, 3));
        assert!(after(40).is_trusted(100 * DAY_MS, 3));
    }

    #[test]
    fn audits_become_rarer_down_to_the_runs_rate() {
        assert_eq!(audit_rate(0.1, 0.0), 0.5);
        assert_eq!(audit_rate(0.1, 0.5), 1.0 / 7.0);
        assert_eq!(audit_rate(0.05, 1.0), 0.05);
        assert_eq!(audit_rate(1.0, 1.0), 1.0);
    }

    proptest! {
        #[test]
        fn no_history_makes_it_negative_endless_or_younger(
            steps in proptest::collection::vec((proptest::bool::ANY, 0..90u64), 0..60),
        ) {
            let (mut known, mut now) = (Reputation::default(), 0);
            for (passes, days) in steps {
                now += days * DAY_MS;
                let before = known.audits_at(now);
                known = match passes {
                    true => known.passed(now),
                    false => known.failed(now),
                };
                prop_assert!((0.0..=MOST_AUDITS).contains(&known.audits));
                prop_assert!(known.audits <= before + 1.0);
                prop_assert!(known.audits_at(now + DAY_MS) <= known.audits);
                let beyond = known.beyond_probation(now, 3);
                prop_assert!((0.1..=1.0).contains(&audit_rate(0.1, beyond)));
                prop_assert!((0.5..=1.0).contains(&trust(beyond)));
            }
        }
    }
}
