//! Updates that stand out in a merge, and what follows from trying one of them alone.
//!
//! Comparing the updates of a round refuses none of them: an angle or a length is no evidence,
//! for who has a tiny batch or comes late looks odd, too. So the coordinator takes the weights
//! from before the merge, subtracts such an update alone, and measures the loss on a few
//! held-out sequences. One that makes it worse than is allowed is recorded, and its worker's next
//! updates are audited, all of them. That is no punishment: who trained what it was given, on text
//! unlike the rest or with few steps, passes as ever.

use serde::{Deserialize, Serialize};

use crate::{AssignmentId, Member, Outcome, Regard, Run, Verdict, WorkerId};

/// What is held against an update that makes the loss worse by itself.
pub const HURTS_ALONE: &str = "hurts_alone";

/// What is said of an update that was clipped to less than half.
pub const CLIPPED: &str = "clipped";

/// Updates of a merge that are tried, at most: a fleet full of odd ones costs no more.
pub const MOST_TRIED: usize = 4;

/// Clip factor below which an update stands out. Most are clipped a little in every round.
const CLIPPED_BELOW: f32 = 0.5;
/// Part of its weight below which an update stands out.
const COUNTED_BELOW: f32 = 0.5;
/// Merged updates of a worker, the newest ones, of which one that hurt has its next audited.
const OF_LAST: usize = 3;

/// Why an update stands out, where nothing refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// It points away from most others.
    Disagrees,
    /// It counted less than half of its weight.
    CountedLess,
    /// It was clipped to less than half.
    Clipped,
}

impl Flag {
    /// Of an update with this clip factor, 0 to 1; None: it does not stand out.
    pub fn of(factor: f32, regard: Option<&Regard>) -> Option<Self> {
        let against = |regard: &Regard| regard.agreement.is_some_and(|found| found < 0.0);
        match regard {
            Some(regard) if against(regard) => Some(Self::Disagrees),
            Some(regard) if regard.counted < COUNTED_BELOW => Some(Self::CountedLess),
            _ => Self::is_clipped(factor).then_some(Self::Clipped),
        }
    }

    /// Whether an update with this clip factor was clipped to less than half.
    pub fn is_clipped(factor: f32) -> bool {
        factor < CLIPPED_BELOW
    }

    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disagrees => "disagrees",
            Self::CountedLess => "counted_less",
            Self::Clipped => CLIPPED,
        }
    }
}

/// What is said of an update with this clip factor, where it stands out by that.
pub fn clipping(factor: f32) -> Option<String> {
    Flag::is_clipped(factor).then(|| {
        format!(
            "it is longer than most of its round: {:.0} % of it went in, the rest is added back",
            factor * 100.0
        )
    })
}

/// The updates of a merge that stand out, by their places: those with the most influence on the
/// weights first, so that who tries only some of them is not kept from these by many that hardly
/// count. `regards` is empty where updates were not compared.
pub fn flagged(weights: &[f32], factors: &[f32], regards: &[Regard]) -> Vec<(usize, Flag)> {
    let updates = weights.iter().zip(factors).enumerate();
    let mut found: Vec<(usize, Flag, f32)> = updates
        .filter_map(|(update, (weight, factor))| {
            let regard = regards.get(update);
            let flag = Flag::of(*factor, regard)?;
            let influence = weight * regard.map_or(1.0, |regard| regard.counted);
            Some((update, flag, influence))
        })
        .collect();
    found.sort_by(|one, other| other.2.total_cmp(&one.2));
    let places = found.into_iter();
    places.map(|(update, flag, _)| (update, flag)).collect()
}

/// The highest loss that passes where it was `before` without the update, and the update may make
/// it worse by this part of itself.
pub fn allowed(before: f64, above: f64) -> f64 {
    before * (1.0 + above)
}

/// An update that was tried alone. Losses are in nats per token, over the same sequences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub assignment: AssignmentId,
    /// Whose.
    pub worker: WorkerId,
    /// Why it was tried.
    pub flag: Flag,
    /// The loss of the weights before the merge.
    pub before: f64,
    /// The loss of the same less this update; None: it is no finite number.
    pub measured: Option<f64>,
    /// The highest loss that passes.
    pub allowed: f64,
}

impl Trial {
    /// Whether the update makes the loss worse than is allowed.
    pub fn hurts(&self) -> bool {
        self.measured.is_none_or(|measured| measured > self.allowed)
    }

    /// What was found, in a sentence for a person.
    pub fn explanation(&self) -> String {
        let Self {
            assignment,
            before,
            allowed,
            ..
        } = self;
        let makes = match self.measured {
            Some(measured) => format!("makes it {measured:.3}"),
            None => "makes it no number".to_owned(),
        };
        format!(
            "the held-out loss was {before:.3} before the merge; update {assignment} alone {makes}, {allowed:.3} is allowed"
        )
    }
}

impl Run {
    /// The trials that are held against their updates: those that hurt, are in a merge, and were
    /// not told before.
    pub(crate) fn new_harm(&self, trials: &[Trial]) -> Vec<Trial> {
        let is_new = |trial: &&Trial| {
            let member = self.member(trial.worker);
            let verdict = member.and_then(|member| member.verdict(trial.assignment));
            verdict.is_some_and(|verdict| is_merged(verdict) && verdict.alone.is_none())
        };
        let hurt = trials.iter().filter(|trial| trial.hurts());
        hurt.filter(is_new).copied().collect()
    }

    /// Notes what updates did alone.
    pub(crate) fn fold_probed(&mut self, hurt: &[Trial]) {
        for trial in hurt {
            if let Some(verdict) = self.verdict_mut(trial.worker, trial.assignment) {
                verdict.alone = Some(*trial);
            }
        }
    }
}

impl Member {
    /// Whether one of its last merged updates hurt.
    pub(crate) fn hurt_lately(&self) -> bool {
        let merged = self.verdicts.iter().rev().filter(|v| is_merged(v));
        let mut last = merged.take(OF_LAST);
        last.any(|verdict| verdict.alone.is_some())
    }
}

fn is_merged(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Merged { .. })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regard(counted: f32, agreement: Option<f32>) -> Regard {
        Regard {
            counted,
            agreement,
            record: agreement,
            needed: None,
            twin: None,
        }
    }

    #[test]
    fn what_counts_about_as_others_do_does_not_stand_out() {
        assert_eq!(Flag::of(1.0, None), None);
        assert_eq!(Flag::of(0.5, Some(&regard(0.5, Some(0.0)))), None);
        assert_eq!(Flag::of(0.49, None), Some(Flag::Clipped));
        assert_eq!(clipping(0.5), None);
        assert!(
            clipping(0.25)
                .expect("it stands out")
                .contains("25 % of it")
        );
        let less = regard(0.49, Some(0.01));
        assert_eq!(Flag::of(1.0, Some(&less)), Some(Flag::CountedLess));
        let against = regard(1.0, Some(-0.01));
        assert_eq!(Flag::of(0.1, Some(&against)), Some(Flag::Disagrees));
    }

    #[test]
    fn a_loss_that_is_no_number_or_above_what_is_allowed_hurts() {
        let trial = |measured| Trial {
            assignment: AssignmentId(7),
            worker: WorkerId(1),
            flag: Flag::Clipped,
            before: 3.0,
            measured,
            allowed: 3.15,
        };
        assert!(!trial(Some(3.15)).hurts() && !trial(Some(2.0)).hurts());
        assert!(trial(Some(3.16)).hurts() && trial(None).hurts());
        assert_eq!(
            trial(Some(3.5)).explanation(),
            "the held-out loss was 3.000 before the merge; update 7 alone makes it 3.500, 3.150 is allowed"
        );
    }

    proptest! {
        #[test]
        fn each_that_stands_out_is_named_once_and_the_most_influential_come_first(
            updates in proptest::collection::vec((1u8..100, 0f32..1.0, 0f32..2.0, -1f32..1.0), 0..200),
        ) {
            let weights: Vec<f32> = updates.iter().map(|u| f32::from(u.0)).collect();
            let factors: Vec<f32> = updates.iter().map(|u| u.1).collect();
            let regards: Vec<Regard> = updates.iter().map(|u| regard(u.2, Some(u.3))).collect();
            let found = flagged(&weights, &factors, &regards);
            let of = |update: usize| Flag::of(factors[update], Some(&regards[update]));
            let mut places: Vec<usize> = found.iter().map(|(update, _)| *update).collect();
            let influence = |update: usize| weights[update] * regards[update].counted;
            prop_assert!(places.is_sorted_by(|a, b| influence(*a) >= influence(*b)));
            prop_assert!(found.iter().all(|(update, flag)| of(*update) == Some(*flag)));
            places.sort_unstable();
            let all: Vec<usize> = (0..updates.len()).filter(|u| of(*u).is_some()).collect();
            prop_assert_eq!(places, all);
        }
    }
}
