//! Honest workers that are not like most, and what each stage of the coordinator's checks made of
//! them. All follow the rules: each unusual thing is one that the product lets a node do.

use std::collections::BTreeMap;

use opengpu_dataset::TokenStream;
use opengpu_rounds::{AuditOutcome, Finding, Regard, WorkerId};
use opengpu_trainer::InnerLoop;
use opengpu_trainer_protocol::{InnerSettings, ModelConfig, Precision};

/// What is unusual about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    Usual,
    /// So slow that it is given one block in a round, which is one step.
    OneBlock,
    /// It ends after a tenth of its blocks.
    Tenth,
    /// It ends after a quarter of them.
    Quarter,
    /// Its update arrives in the grace of the round.
    InGrace,
    /// Its update arrives in the next round.
    RoundLate,
    /// It is new, and there for a few rounds; then another is.
    Joiner,
    /// Its blocks are of another text.
    OtherText,
    /// It computes in micro-batches of one sequence.
    OneSequence,
    /// It computes in bfloat16.
    Bfloat16,
}

/// The kinds of a fleet in order; a larger one begins again.
const FLEET: [Kind; 16] = [
    Kind::Usual,
    Kind::Usual,
    Kind::OneBlock,
    Kind::Usual,
    Kind::Tenth,
    Kind::Quarter,
    Kind::Usual,
    Kind::InGrace,
    Kind::RoundLate,
    Kind::Usual,
    Kind::Joiner,
    Kind::Usual,
    Kind::OtherText,
    Kind::OneSequence,
    Kind::Usual,
    Kind::Bfloat16,
];

/// When an update arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    InTime,
    InGrace,
}

impl Kind {
    /// Of the worker at this place of the fleet, counted from 1.
    pub(super) fn of(place: u64) -> Self {
        FLEET[(place.saturating_sub(1) % FLEET.len() as u64) as usize]
    }

    /// In words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Usual => "like most",
            Self::OneBlock => "one step a round",
            Self::Tenth => "ends after a tenth",
            Self::Quarter => "ends after a quarter",
            Self::InGrace => "late, in the grace",
            Self::RoundLate => "a round late",
            Self::Joiner => "new every ten rounds",
            Self::OtherText => "another text",
            Self::OneSequence => "micro-batches of 1",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// How many of so many blocks it completes: one at least.
    pub(super) fn completes(self, blocks: u64) -> u64 {
        match self {
            Self::Tenth => blocks.div_ceil(10),
            Self::Quarter => blocks.div_ceil(4),
            _ => blocks,
        }
    }

    /// Its speed where most have this one, in blocks a second.
    pub(super) fn speed(self, usual: f64) -> f64 {
        match self {
            // Next to nothing: the least that is given is one block.
            Self::OneBlock => usual.min(1e-6),
            _ => usual,
        }
    }

    /// When its update of the open round arrives, or of an earlier one; None: later.
    pub(super) fn arrives(self, is_owed: bool) -> Option<Arrival> {
        match self {
            Self::InGrace => Some(Arrival::InGrace),
            Self::RoundLate if !is_owed => None,
            _ => Some(Arrival::InTime),
        }
    }

    /// What it computes with.
    pub(super) fn inner_loop(self, model: &ModelConfig, inner: &InnerSettings) -> InnerLoop {
        let precision = match self {
            Self::Bfloat16 => Precision::Bfloat16,
            _ => Precision::Float32,
        };
        let inner = InnerSettings {
            precision,
            ..inner.clone()
        };
        let trains = InnerLoop::new(model, &inner);
        match self {
            Self::OneSequence => trains.with_micro_batch(1),
            _ => trains,
        }
    }
}

/// What became of the updates of a kind.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Updates sent.
    pub updates: u64,
    /// Of these refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Updates merged.
    pub merged: u64,
    /// Sum of the parts of their weight that they counted with.
    pub counted: f64,
    /// Of these, how many counted less than half.
    pub under_half: u64,
    /// Those that counted less than their weight, by why.
    pub counted_less: BTreeMap<String, u64>,
    /// Those that stood out in their merge.
    pub flagged: u64,
    /// Of these, those that were tried alone, and made the loss worse than is allowed.
    pub hurt: u64,
    /// Audits made.
    pub audits: u64,
    /// Of these, how many failed.
    pub failed: u64,
    /// The largest part of what is allowed that an audit measured.
    pub farthest: f64,
    /// Workers put in quarantine.
    pub quarantined: u64,
}

impl Tally {
    /// Updates that were rejected: refused, or taken for false by an audit.
    pub fn rejected(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.failed
    }

    /// Adds what became of other updates.
    pub fn add(&mut self, other: &Self) {
        let codes = [
            (&mut self.refused, &other.refused),
            (&mut self.counted_less, &other.counted_less),
        ];
        for (own, others) in codes {
            for (code, count) in others {
                *own.entry(code.clone()).or_default() += count;
            }
        }
        self.updates += other.updates;
        self.merged += other.merged;
        self.counted += other.counted;
        self.under_half += other.under_half;
        self.flagged += other.flagged;
        self.hurt += other.hurt;
        self.audits += other.audits;
        self.failed += other.failed;
        self.farthest = self.farthest.max(other.farthest);
        self.quarantined += other.quarantined;
    }

    pub(super) fn merge(&mut self, regard: &Regard) {
        self.merged += 1;
        self.counted += f64::from(regard.counted);
        self.under_half += u64::from(regard.counted < 0.5);
        if let Some(code) = regard.code() {
            *self.counted_less.entry(code.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn audit(&mut self, finding: &Finding) {
        self.audits += 1;
        self.failed += u64::from(finding.outcome == AuditOutcome::Failed);
        if let Some((measured, allowed)) = finding.measured.zip(finding.allowed) {
            self.farthest = self.farthest.max(measured / allowed);
        }
    }
}

/// A fleet of unusual workers.
pub(super) struct Unusual {
    /// Of each worker that ever took part, with its numerics class.
    workers: BTreeMap<WorkerId, (Kind, String)>,
    pub(super) tallies: BTreeMap<Kind, Tally>,
    /// What workers of another text train on.
    pub(super) other: TokenStream,
}

impl Unusual {
    pub(super) fn new(other: TokenStream) -> Self {
        Self {
            workers: BTreeMap::new(),
            tallies: BTreeMap::new(),
            other,
        }
    }

    pub(super) fn joins(&mut self, worker: WorkerId, kind: Kind, class: String) {
        self.workers.insert(worker, (kind, class));
    }

    pub(super) fn kind(&self, worker: WorkerId) -> Option<Kind> {
        self.workers.get(&worker).map(|known| known.0)
    }

    pub(super) fn class(&self, worker: WorkerId) -> String {
        let known = self.workers.get(&worker);
        known.map(|known| known.1.clone()).unwrap_or_default()
    }

    pub(super) fn note(&mut self, worker: WorkerId, note: impl FnOnce(&mut Tally)) {
        if let Some(kind) = self.kind(worker) {
            note(self.tallies.entry(kind).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_fleet_and_most_workers_are_like_most() {
        let of = |kind: Kind| FLEET.iter().filter(|one| **one == kind).count();
        for kind in [
            Kind::OneBlock,
            Kind::Tenth,
            Kind::Quarter,
            Kind::InGrace,
            Kind::RoundLate,
            Kind::Joiner,
            Kind::OtherText,
            Kind::OneSequence,
            Kind::Bfloat16,
        ] {
            assert_eq!(of(kind), 1, "{kind:?}");
        }
        assert_eq!(of(Kind::Usual), 7);
        assert_eq!((Kind::of(1), Kind::of(17)), (Kind::Usual, Kind::Usual));
    }

    #[test]
    fn a_part_of_the_blocks_is_one_at_least() {
        for blocks in 1..30 {
            for kind in [Kind::Tenth, Kind::Quarter, Kind::Usual] {
                assert!((1..=blocks).contains(&kind.completes(blocks)));
            }
        }
    }
}
