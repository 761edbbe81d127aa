//! Who sends together against the others: rounds of honest updates that agree little, as
//! sparse ones do, and of a minority that sees them all before it sends.

use opengpu_merge::{
    Aggregator, Codec, Layout, OuterSettings, OuterState, Regard, Weighted, encode, merge_round,
};
use proptest::prelude::*;

use crate::rounds::plain;
use crate::values::{Random, decode};

const WEIGHTS: usize = 40_000;

/// A round as its workers see it: the honest ones share a direction, and most of what each
/// sends is noise of its own.
struct Fleet {
    codec: Codec,
    /// How alike two honest updates are.
    cosine: f32,
    honest: usize,
    hostile: usize,
    round: u64,
    seed: u64,
    records: Vec<Option<f32>>,
}

/// What came of a round.
struct Seen {
    /// Cosine of the step with the step that the honest updates make alone.
    with_honest: f64,
    /// Part of the round's weight that the hostile updates counted with.
    hostile: f32,
    /// Its length beside the honest step's.
    length: f64,
    regards: Vec<Regard>,
}

impl Fleet {
    fn new(codec: Codec, cosine: f32, hostile: usize, of: usize, seed: u64) -> Self {
        Self {
            codec,
            cosine,
            honest: of - hostile,
            hostile,
            round: 0,
            seed,
            records: vec![None; of],
        }
    }

    /// What an honest worker finds in the round that comes.
    fn found(&self, worker: usize) -> Vec<f32> {
        let shared_scale = (self.cosine / (1.0 - self.cosine)).sqrt();
        let mut shared = Random(self.seed ^ self.round << 32);
        let mut own = Random(!self.seed ^ self.round << 32 ^ (worker as u64) << 48);
        (0..WEIGHTS)
            .map(|_| shared_scale * shared.bell() + own.bell())
            .collect()
    }

    fn honest(&self) -> Vec<Vec<f32>> {
        (0..self.honest).map(|worker| self.found(worker)).collect()
    }

    /// Merges a round in which the hostile send what `attack` makes of the honest updates.
    fn round(&mut self, attack: impl Fn(&[Vec<f32>]) -> Vec<Vec<f32>>) -> Seen {
        let mut updates = self.honest();
        let hostile = attack(&updates);
        assert_eq!(hostile.len(), self.hostile);
        updates.extend(hostile);
        self.merge(Aggregator::TrustWeighted, &updates)
    }

    fn merge(&mut self, aggregator: Aggregator, updates: &[Vec<f32>]) -> Seen {
        let layout = Layout::new([WEIGHTS]);
        let payloads: Vec<_> = updates
            .iter()
            .map(|values| encode(self.codec, &layout, &mut values.clone()).unwrap())
            .collect();
        let mut weighted: Vec<_> = payloads
            .iter()
            .zip(&self.records)
            .map(|(payload, record)| Weighted {
                payload,
                weight: 1.0,
                record: *record,
            })
            .collect();
        let step = |aggregator, updates: &[Weighted]| {
            let settings = OuterSettings {
                tau: 0.5,
                clip_to_median_norm: true,
                aggregator,
                ..plain()
            };
            let mut state = OuterState::new(&layout, &settings);
            let mut weights = vec![0.0; WEIGHTS];
            let merge = merge_round(&layout, &settings, updates, &mut state, &mut weights);
            let merge = merge.unwrap();
            (decode(&layout, &merge.bytes), merge.regards)
        };
        let (made, regards) = step(aggregator, &weighted);
        weighted.truncate(self.honest);
        let (alone, _) = step(Aggregator::Mean, &weighted);
        for (known, regard) in self.records.iter_mut().zip(&regards) {
            *known = regard.record.or(*known);
        }
        self.round += 1;
        Seen {
            with_honest: cosine(&made, &alone),
            hostile: regards[self.honest..].iter().map(|r| r.share).sum(),
            length: product(&made, &made).sqrt() / product(&alone, &alone).sqrt(),
            regards,
        }
    }
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// The sum of some updates at these factors, as long as the first of them.
fn combined(updates: &[Vec<f32>], factors: &[f32]) -> Vec<f32> {
    let mut sum = vec![0f32; WEIGHTS];
    for (update, factor) in updates.iter().zip(factors) {
        sum.iter_mut()
            .zip(update)
            .for_each(|(s, v)| *s += factor * v);
    }
    let scale = (product(&updates[0], &updates[0]) / product(&sum, &sum)).sqrt() as f32;
    sum.iter_mut().for_each(|value| *value *= scale);
    sum
}

/// One direction, sent by several, each with this much noise of its own so that they do not
/// pass for copies.
fn each_with_noise(one: &[f32], noise: f32, count: usize) -> Vec<Vec<f32>> {
    let with_noise = |id: usize| {
        let mut random = Random(77 + id as u64);
        one.iter()
            .map(|value| value + noise * random.bell())
            .collect()
    };
    (0..count).map(with_noise).collect()
}

/// Away from what the honest updates say together.
fn minus_mean(honest: &[Vec<f32>], noise: f32, count: usize) -> Vec<Vec<f32>> {
    let against = combined(honest, &vec![-1.0; honest.len()]);
    each_with_noise(&against, noise, count)
}

/// Few of few, and nearly half.
const MINORITIES: [(usize, usize); 5] = [(1, 3), (2, 8), (3, 8), (4, 16), (7, 16)];

/// How alike honest updates are, and how they are sent: what is left of a few of their weights
/// is less than half as alike as they are.
const KINDS: [(Codec, f32); 5] = [
    (Codec::Int8, 0.05),
    (Codec::Int8, 0.1),
    (Codec::Int8, 0.3),
    (Codec::Sparse { k: 300 }, 0.15),
    (Codec::Sparse { k: 300 }, 0.3),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_minority_along_minus_mean_does_not_switch_the_rule_off(
        seed in 0u64..1 << 20,
        (hostile, of) in proptest::sample::select(&MINORITIES[..]),
        (codec, alike) in proptest::sample::select(&KINDS[..]),
        noise in proptest::sample::select(&[0.0f32, 0.3, 1.0][..]),
    ) {
        let mut fleet = Fleet::new(codec, alike, hostile, of, seed);
        for _ in 0..3 {
            let seen = fleet.round(|honest| minus_mean(honest, noise, hostile));
            prop_assert!(seen.with_honest > 0.99, "{} {:?}", seen.with_honest, seen.regards);
            prop_assert!(seen.hostile == 0.0, "{:?}", seen.regards);
            prop_assert!(seen.length > 0.9, "{}", seen.length);
            // More than half of the weight agrees, so that nobody honest is taken for hostile.
            let honest = &seen.regards[..of - hostile];
            prop_assert!(honest.iter().all(|r| r.agreement.unwrap() > 0.0), "{honest:?}");
        }
    }

    #[test]
    fn who_flatters_a_few_honest_updates_gets_in_but_does_not_turn_the_step_round(
        seed in 0u64..1 << 20,
        (hostile, of) in proptest::sample::select(&[(2usize, 8usize), (3, 8), (4, 16)][..]),
        (codec, alike) in proptest::sample::select(&KINDS[..]),
    ) {
        // Along as many as make a majority with the hostile, and against the others.
        let mut factors = vec![-1.0; of - hostile];
        factors[..of / 2 + 1 - hostile].fill(1.0);
        let mut fleet = Fleet::new(codec, alike, hostile, of, seed);
        for _ in 0..3 {
            let seen = fleet.round(|honest| {
                each_with_noise(&combined(honest, &factors), 0.3, hostile)
            });
            prop_assert!(seen.with_honest > 0.45, "{} {:?}", seen.with_honest, seen.regards);
            prop_assert!(seen.hostile < hostile as f32 / of as f32 + 0.05, "{:?}", seen.regards);
        }
    }

    #[test]
    fn who_attacks_after_good_rounds_counts_nothing_in_the_attack(
        seed in 0u64..1 << 20,
        every in 2u64..6,
        (codec, alike) in proptest::sample::select(&KINDS[..]),
    ) {
        let mut fleet = Fleet::new(codec, alike, 2, 8, seed);
        for round in 0..12 {
            let mut updates = fleet.honest();
            let attacks = round % every == every - 1;
            if attacks {
                updates.extend(minus_mean(&updates, 0.3, 2));
            } else {
                updates.extend([fleet.found(6), fleet.found(7)]);
            }
            let seen = fleet.merge(Aggregator::TrustWeighted, &updates);
            if attacks {
                prop_assert_eq!(seen.hostile, 0.0, "{:?}", seen.regards);
                prop_assert!(seen.with_honest > 0.99, "{}", seen.with_honest);
            }
        }
    }

    #[test]
    fn an_honest_worker_loses_the_round_in_which_it_is_odd_and_little_after(
        seed in 0u64..1 << 20,
        contrary: bool,
        (codec, alike) in proptest::sample::select(&KINDS[..]),
    ) {
        let mut fleet = Fleet::new(codec, alike, 0, 8, seed);
        let mut counted = Vec::new();
        for round in 0..8 {
            let mut updates = fleet.honest();
            if round == 3 {
                updates[7] = if contrary {
                    combined(&updates[..7], &[-1.0; 7])
                } else {
                    noise(seed)
                };
            }
            let seen = fleet.merge(Aggregator::TrustWeighted, &updates);
            counted.push(seen.regards[7].share * 8.0);
            let others = &seen.regards[..7];
            prop_assert!(others.iter().all(|r| r.share * 8.0 > 0.85), "{others:?}");
        }
        let (before, odd, after) = (&counted[..3], counted[3], &counted[4..]);
        prop_assert!(before.iter().all(|part| *part > 0.85), "{counted:?}");
        prop_assert!(odd < 0.6, "{counted:?}");
        // An update like nothing costs no more than itself, one against all others a round.
        let lost: f32 = after.iter().map(|part| (1.0 - part).max(0.0)).sum();
        prop_assert!(lost < if contrary { 1.2 } else { 0.2 }, "{counted:?}");
        prop_assert!(after[3] > 0.9, "{counted:?}");
    }
}

/// As large as an honest update, and like nothing.
fn noise(seed: u64) -> Vec<f32> {
    let mut random = Random(seed ^ 0xBAD0_0BAD);
    (0..WEIGHTS).map(|_| random.bell()).collect()
}

#[test]
fn where_no_majority_agrees_the_geometric_median_decides_and_not_all_count() {
    // Half against half.
    let mut fleet = Fleet::new(Codec::Int8, 0.3, 4, 8, 1);
    let mut updates = fleet.honest();
    updates.extend(minus_mean(&updates, 0.3, 4));
    let median = fleet.merge(Aggregator::GeometricMedian, &updates);
    fleet.records = vec![None; 8];
    let trust = fleet.merge(Aggregator::TrustWeighted, &updates);
    for (trust, median) in trust.regards.iter().zip(&median.regards) {
        assert_eq!(trust.needed, None);
        assert_eq!(trust.share, median.share.min(0.25));
    }
    assert!(trust.regards.iter().any(|r| (r.share - 0.125).abs() > 0.01));
}

#[test]
fn where_a_round_tells_nothing_the_records_from_before_do() {
    let mut fleet = Fleet::new(Codec::Int8, 0.3, 4, 8, 1);
    let mut updates = fleet.honest();
    updates.extend(minus_mean(&updates, 0.3, 4));
    fleet.records = vec![Some(0.3); 8];
    fleet.records[4..7].fill(Some(-0.2));
    let seen = fleet.merge(Aggregator::TrustWeighted, &updates);
    assert!(
        seen.regards[4..7].iter().all(|r| r.share == 0.0),
        "{:?}",
        seen.regards
    );
    assert!(seen.with_honest > 0.9, "{}", seen.with_honest);
}
