//! The rules of aggregation: what holds for all of them, and what each is for.

use opengpu_merge::{
    Aggregator, Codec, Layout, Merge, OuterSettings, OuterState, TWIN_COSINE, Weighted, encode,
    merge_round, record,
};
use proptest::prelude::*;

use crate::rounds::plain;
use crate::values::Random;

/// A rule, alone or after directions were looked at.
#[derive(Clone, Copy, Debug)]
struct Rule {
    aggregator: Aggregator,
    direction: bool,
}

impl From<Aggregator> for Rule {
    fn from(aggregator: Aggregator) -> Self {
        Self {
            aggregator,
            direction: false,
        }
    }
}

const fn after_direction(aggregator: Aggregator) -> Rule {
    Rule {
        aggregator,
        direction: true,
    }
}

const TRIMMED: Aggregator = Aggregator::TrimmedMean { part: 0.3 };

/// Those with a say of their own after directions were looked at.
const DIRECTED: [Rule; 3] = [
    after_direction(TRIMMED),
    after_direction(Aggregator::GeometricMedian),
    after_direction(Aggregator::CentredClipping),
];

fn any_rule() -> impl Strategy<Value = Rule> {
    prop_oneof![Just(Aggregator::Mean.into()), robust_rule()]
}

/// Those that withstand a quarter of the weight.
fn robust_rule() -> impl Strategy<Value = Rule> {
    let alone = [
        TRIMMED,
        Aggregator::GeometricMedian,
        Aggregator::CentredClipping,
        Aggregator::TrustWeighted,
    ];
    let rules: Vec<Rule> = alone.map(Rule::from).into_iter().chain(DIRECTED).collect();
    proptest::sample::select(rules)
}

const WEIGHTS: usize = 9000;

fn layout() -> Layout {
    Layout::new([WEIGHTS - 100, 100])
}

/// What a worker found: a direction that all share, and as much noise of its own.
fn honest(seed: u64) -> Vec<f32> {
    let (mut shared, mut own) = (Random(1), Random(seed + 1000));
    (0..WEIGHTS)
        .map(|_| shared.bell() + 1.5 * own.bell())
        .collect()
}

fn scaled(mut values: Vec<f32>, factor: f32) -> Vec<f32> {
    values.iter_mut().for_each(|value| *value *= factor);
    values
}

/// The step of a round and how it came to be. Nothing is clipped but where directions are looked
/// at, as a run has it by default: they say nothing of lengths.
fn step(rule: impl Into<Rule>, tau: f32, updates: &[(Codec, Vec<f32>, f32)]) -> (Vec<f32>, Merge) {
    step_with(rule, tau, updates, &vec![None; updates.len()])
}

/// The same with the records of the workers.
fn step_with(
    rule: impl Into<Rule>,
    tau: f32,
    updates: &[(Codec, Vec<f32>, f32)],
    records: &[Option<f32>],
) -> (Vec<f32>, Merge) {
    let Rule {
        aggregator,
        direction,
    } = rule.into();
    let (layout, settings) = (
        layout(),
        OuterSettings {
            tau,
            aggregator,
            direction,
            clip_to_median_norm: aggregator == Aggregator::TrustWeighted
                || direction && aggregator != Aggregator::Mean,
            ..plain()
        },
    );
    let payloads: Vec<(Vec<u8>, f32)> = updates
        .iter()
        .map(|(codec, values, weight)| {
            let payload = encode(*codec, &layout, &mut values.clone()).unwrap();
            (payload, *weight)
        })
        .collect();
    let weighted: Vec<_> = payloads
        .iter()
        .zip(records)
        .map(|((payload, weight), record)| Weighted {
            payload,
            weight: *weight,
            record: *record,
        })
        .collect();
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = vec![0.0; layout.len()];
    let merge = merge_round(&layout, &settings, &weighted, &mut state, &mut weights).unwrap();
    (scaled(weights, -1.0), merge)
}

fn length(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    length(&difference)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum();
    product / length(a) / length(b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_order_of_the_updates_changes_hardly_anything(
        seed in 0u64..1000,
        count in 1usize..8,
        turn in 0usize..8,
        sparse: bool,
        rule in any_rule(),
    ) {
        let codec = if sparse { Codec::Sparse { k: 300 } } else { Codec::Int8 };
        let mut updates: Vec<_> = (0..count as u64)
            .map(|id| (codec, honest(seed + id), 1.0 + id as f32))
            .collect();
        let (before, _) = step(rule, 0.5, &updates);
        updates.rotate_left(turn % count);
        let (after, _) = step(rule, 0.5, &updates);
        // In exact arithmetic it changes nothing. Another order makes other sketches, though, and what
        // they leave uncertain is small. In a run the order is given: by assignment.
        prop_assert!(distance(&before, &after) <= 0.05 * length(&before));
    }

    #[test]
    fn what_all_say_is_done(
        seed in 0u64..1000,
        count in 1usize..8,
        rule in any_rule(),
    ) {
        let one = honest(seed);
        let updates: Vec<_> = (0..count).map(|id| (Codec::Float32, one.clone(), 1.0 + id as f32)).collect();
        let (step, merge) = step(rule, 0.5, &updates);
        prop_assert!(distance(&step, &one) <= 1e-4 * length(&one), "{:?}", merge.regards);
    }

    #[test]
    fn twice_as_long_updates_make_a_step_twice_as_long(
        seed in 0u64..1000,
        count in 1usize..8,
        rule in any_rule(),
    ) {
        let round = |factor| {
            let updates: Vec<_> = (0..count as u64)
                .map(|id| (Codec::Float32, scaled(honest(seed + id), factor), 1.0))
                .collect();
            step(rule, 0.5, &updates).0
        };
        // The sketches' signs follow from the payloads, so that they differ a little.
        prop_assert!(distance(&scaled(round(1.0), 2.0), &round(2.0)) <= 0.05 * length(&round(2.0)));
    }

    #[test]
    fn a_quarter_of_the_weight_cannot_take_a_robust_rule_over(
        seed in 0u64..1000,
        factor in proptest::sample::select(&[-1e4f32, -10.0, 10.0, 1e4][..]),
        rule in robust_rule(),
    ) {
        let mut updates: Vec<_> = (0..6).map(|id| (Codec::Int8, honest(seed + id), 1.0)).collect();
        let (clean, _) = step(rule, 0.5, &updates);
        for id in 6..8 {
            updates.push((Codec::Int8, scaled(honest(seed + id), factor), 1.0));
        }
        let (step, merge) = step(rule, 0.5, &updates);
        let moved = distance(&step, &clean) / length(&clean);
        prop_assert!(moved < 1.0, "moved {moved}: {:?}", merge.regards);
        prop_assert!(cosine(&step, &clean) > 0.7, "cosine {}", cosine(&step, &clean));
    }

    #[test]
    fn a_lone_sender_moves_a_coordinate_by_its_share_of_the_floor_at_most(
        seed in 0u64..1000,
        count in 3usize..9,
        rule in any_rule(),
    ) {
        // One sends everything, the others nothing but the last hundred weights.
        let mut updates = vec![(Codec::Sparse { k: 4096 }, honest(seed), 1.0)];
        for id in 1..count as u64 {
            let mut values = honest(seed + id);
            values[..WEIGHTS - 100].fill(0.0);
            updates.push((Codec::Sparse { k: 4096 }, values, 1.0));
        }
        let (step, merge) = step(rule, 0.5, &updates);
        // A rule may raise a share when others are left out, to twice of it at most.
        let share = merge.regards[0].share;
        prop_assert!(share <= 2.0 / count as f32 + 1e-6);
        let most = f64::from(share / 0.5).min(1.0);
        let (moved, sent) = (length(&step[..WEIGHTS - 100]), length(&updates[0].1[..WEIGHTS - 100]));
        prop_assert!(moved <= 1.01 * most * sent, "{moved} of {sent}, share {share}");
    }

    /// A spike as long as all of an honest update, at one weight of an update that is honest
    /// elsewhere.
    #[test]
    fn a_spike_moves_its_weight_by_its_senders_share_at_most(
        seed in 0u64..1000,
        place in 0usize..WEIGHTS,
        sign in proptest::sample::select(&[-1f32, 1.0][..]),
        rule in any_rule(),
    ) {
        let mut updates: Vec<_> = (0..8).map(|id| (Codec::Float32, honest(seed + id), 1.0)).collect();
        let (clean, _) = step(rule, 0.5, &updates);
        let spike = sign * length(&updates[0].1) as f32;
        updates[0].1[place] = spike;
        let (moved, merge) = step(rule, 0.5, &updates);
        let share = merge.regards[0].share;
        prop_assert!(share <= 0.25 + 1e-6, "{share}");
        let by = (moved[place] - clean[place]).abs();
        let others = updates[1..].iter().map(|(_, values, _)| values[place].abs());
        let others = others.fold(0.0, f32::max);
        prop_assert!(by <= share * spike.abs() + 2.0 * others, "{by} of {spike}, share {share}");
    }

    #[test]
    fn copies_count_together_as_the_largest_of_them(
        seed in 0u64..1000,
        weights in proptest::collection::vec(0.01f32..100.0, 1..5),
        others in 3u64..6,
    ) {
        let mut updates: Vec<_> = (0..others).map(|id| (Codec::Int8, honest(seed + id), 1.0)).collect();
        for (copy, weight) in weights.iter().enumerate() {
            updates.push((Codec::Int8, scaled(honest(seed + 99), 1.0 + 0.1 * copy as f32), *weight));
        }
        let (_, merge) = step(Aggregator::TrustWeighted, 0.5, &updates);
        let (rest, copies) = merge.regards.split_at(others as usize);
        let counted: f32 = copies.iter().map(|r| r.share).sum();
        // Every other one weighs 1, and all that agree count in full.
        let largest = weights.iter().copied().fold(0.0, f32::max);
        prop_assert!((counted / rest[0].share / largest - 1.0).abs() < 1e-3, "{:?}", merge.regards);
        // Each in proportion: a light copy takes little from the one it copies.
        for (copy, weight) in copies.iter().zip(&weights) {
            let part = weight / weights.iter().sum::<f32>();
            prop_assert!((copy.share / counted / part - 1.0).abs() < 1e-3, "{:?}", merge.regards);
        }
    }

    #[test]
    fn shares_are_parts_of_the_round_however_uneven_it_is(
        seed in 0u64..1000,
        updates in proptest::collection::vec(
            (
                proptest::sample::select(&[1e-30f32, 1e-3, 1.0, 7.0, 1e30][..]),
                proptest::sample::select(&[-1e5f32, -1.0, 0.0, 1e-20, 1.0, 1e5][..]),
                proptest::option::of(-1f32..1.0),
            ),
            1..7,
        ),
        rule in any_rule(),
    ) {
        let records: Vec<_> = updates.iter().map(|(_, _, record)| *record).collect();
        let updates: Vec<_> = updates
            .iter()
            .zip(seed..)
            .map(|((weight, factor, _), seed)| (Codec::Float32, scaled(honest(seed), *factor), *weight))
            .collect();
        let (_, merge) = step_with(rule, 0.5, &updates, &records);
        let shares = merge.regards.iter().map(|regard| regard.share);
        prop_assert!(shares.clone().all(|share| (0.0..=1.0001).contains(&share)), "{:?}", merge.regards);
        prop_assert!(shares.sum::<f32>() <= 1.0001, "{:?}", merge.regards);
    }
}

#[test]
fn the_mean_is_what_an_attacker_says() {
    let mut updates: Vec<_> = (0..7).map(|id| (Codec::Int8, honest(id), 1.0)).collect();
    let (clean, _) = step(Aggregator::Mean, 0.5, &updates);
    updates.push((Codec::Int8, scaled(honest(7), -1e4), 1.0));
    let (step, _) = step(Aggregator::Mean, 0.5, &updates);
    assert!(cosine(&step, &clean) < 0.0 && length(&step) > 100.0 * length(&clean));
}

#[test]
fn angles_are_measured_to_a_few_hundredths() {
    for codec in [Codec::Float32, Codec::Sparse { k: 512 }] {
        let updates: Vec<_> = (0..12).map(|id| (codec, honest(id), 1.0)).collect();
        let (_, merge) = step(Aggregator::Mean, 0.5, &updates);
        let read = |(codec, values, _): &(Codec, Vec<f32>, f32)| {
            let mut rest = values.clone();
            let payload = encode(*codec, &layout(), &mut rest).unwrap();
            let mut sent = vec![0.0; WEIGHTS];
            opengpu_merge::add_scaled(&layout(), &payload, 1.0, &mut sent).unwrap();
            sent
        };
        let sent: Vec<_> = updates.iter().map(read).collect();
        for (update, regard) in merge.regards.iter().enumerate() {
            let others = (0..sent.len()).filter(|other| *other != update);
            let mut exact: Vec<f64> = others.map(|o| cosine(&sent[update], &sent[o])).collect();
            exact.sort_by(f64::total_cmp);
            // Of twelve equal weights the sixth from below; its own stands above the others.
            let (exact, measured) = (exact[5], f64::from(regard.agreement.unwrap()));
            assert!(
                (exact - measured).abs() < 0.04,
                "{codec:?} {exact} {measured}"
            );
        }
    }
}

#[test]
fn who_says_the_contrary_counts_nothing_and_who_says_less_counts_in_full() {
    let mut updates: Vec<_> = (0..6).map(|id| (Codec::Int8, honest(id), 1.0)).collect();
    updates.push((Codec::Int8, scaled(honest(6), -1.0), 1.0));
    // A batch half as large: the same direction, with more noise of its own.
    let mut noise = Random(99);
    let noisy = honest(7).into_iter().map(|v| v + noise.bell()).collect();
    updates.push((Codec::Int8, noisy, 1.0));
    let (_, merge) = step(Aggregator::TrustWeighted, 0.5, &updates);
    let share = |update: usize| merge.regards[update].share;
    assert_eq!(share(6), 0.0);
    assert!(merge.regards[6].agreement.unwrap() < -0.2);
    for update in [0, 1, 2, 3, 4, 5, 7] {
        assert!(
            (share(update) - 1.0 / 7.0).abs() < 1e-6,
            "{:?}",
            merge.regards
        );
    }
}

#[test]
fn after_directions_no_rule_hears_those_that_turn_round() {
    for rule in DIRECTED {
        let mut updates: Vec<_> = (0..5).map(|id| (Codec::Int8, honest(id), 1.0)).collect();
        let (clean, _) = step(rule, 0.5, &updates);
        for id in 5..8 {
            updates.push((Codec::Int8, scaled(honest(id), -1.0), 1.0));
        }
        // Three of eight pull as hard as three of the others.
        let (alone, _) = step(rule.aggregator, 0.5, &updates);
        let (alone, whole) = (distance(&alone, &clean), length(&clean));
        assert!(alone > 0.3 * whole, "{rule:?}: {alone} of {whole}");
        let (step, merge) = step(rule, 0.5, &updates);
        let (others, hostile) = merge.regards.split_at(5);
        assert!(
            hostile.iter().all(|regard| regard.share == 0.0),
            "{rule:?} {hostile:?}"
        );
        assert!(
            others.iter().all(|regard| regard.needed.is_some()),
            "{rule:?} {others:?}"
        );
        let moved = distance(&step, &clean);
        assert!(moved < 0.1 * whole, "{rule:?}: {moved} of {whole}");
    }
}

#[test]
fn the_mean_never_asks_for_directions() {
    let mut updates: Vec<_> = (0..5).map(|id| (Codec::Int8, honest(id), 1.0)).collect();
    updates.push((Codec::Int8, scaled(honest(5), -1.0), 1.0));
    let (alone, _) = step(Aggregator::Mean, 0.5, &updates);
    let (asked, _) = step(after_direction(Aggregator::Mean), 0.5, &updates);
    assert_eq!(alone, asked);
}

#[test]
fn who_says_nothing_does_not_hold_the_others_down() {
    let mut updates: Vec<_> = (0..3).map(|id| (Codec::Int8, honest(id), 1.0)).collect();
    updates.push((Codec::Int8, vec![0.0; WEIGHTS], 1.0));
    let (_, merge) = step(Aggregator::TrustWeighted, 0.5, &updates);
    let shares: Vec<f32> = merge.regards.iter().map(|r| r.share).collect();
    assert_eq!(shares[3], 0.0);
    assert!(
        shares[..3]
            .iter()
            .all(|share| (share - 1.0 / 3.0).abs() < 1e-6)
    );
    // Where all say nothing there is nobody to compare with.
    let updates: Vec<_> = (0..3)
        .map(|_| (Codec::Int8, vec![0.0; WEIGHTS], 1.0))
        .collect();
    let (_, merge) = step(Aggregator::TrustWeighted, 0.5, &updates);
    assert!(
        merge
            .regards
            .iter()
            .all(|r| (r.share - 1.0 / 3.0).abs() < 1e-6)
    );
}

#[test]
fn copies_count_as_one_and_are_named() {
    let mut updates: Vec<_> = (0..5).map(|id| (Codec::Int8, honest(id), 1.0)).collect();
    for factor in [1.0, 1.1, 0.9] {
        updates.push((Codec::Int8, scaled(honest(5), factor), 1.0));
    }
    let (_, merge) = step(Aggregator::TrustWeighted, 0.5, &updates);
    for regard in &merge.regards[..5] {
        assert_eq!(regard.twin, None);
        assert!((regard.share - 1.0 / 6.0).abs() < 1e-6, "{regard:?}");
    }
    for regard in &merge.regards[5..] {
        let (other, cosine) = regard.twin.unwrap();
        assert!(other >= 5 && cosine > TWIN_COSINE);
        assert!((regard.share - 1.0 / 18.0).abs() < 1e-6, "{regard:?}");
    }
}

#[test]
fn two_updates_are_not_held_against_each_other() {
    let updates = [
        (Codec::Int8, honest(1), 1.0),
        (Codec::Int8, scaled(honest(2), -1.0), 3.0),
    ];
    for aggregator in [Aggregator::Mean, Aggregator::TrustWeighted] {
        let (_, merge) = step(aggregator, 0.5, &updates);
        let shares: Vec<f32> = merge.regards.iter().map(|r| r.share).collect();
        assert_eq!(shares, [0.25, 0.75]);
        assert!(merge.regards.iter().all(|r| r.agreement.is_none()));
    }
}

#[test]
fn where_two_cannot_be_compared_their_records_say_whom_to_believe() {
    let updates = [
        (Codec::Int8, honest(1), 1.0),
        (Codec::Int8, scaled(honest(2), -1.0), 1.0),
    ];
    let counted = |records: [Option<f32>; 2]| {
        let (_, merge) = step_with(Aggregator::TrustWeighted, 0.5, &updates, &records);
        [merge.regards[0].share, merge.regards[1].share]
    };
    // From half of the better record on both count in full.
    assert_eq!(counted([Some(0.2), Some(0.1)]), [0.5, 0.5]);
    // What the one does not count the other makes up for.
    assert_eq!(counted([Some(0.2), Some(0.05)]), [2.0 / 3.0, 1.0 / 3.0]);
    assert_eq!(counted([Some(-0.1), Some(0.2)]), [0.0, 1.0]);
    // No record is nothing to hold against anybody, and of two bad ones none is better.
    assert_eq!(counted([Some(0.2), None]), [0.5, 0.5]);
    assert_eq!(counted([Some(-0.1), Some(-0.4)]), [0.5, 0.5]);
}

#[test]
fn updates_that_agree_much_are_not_taken_for_copies() {
    // As in dense first rounds: a cosine of 0.97 between any two.
    let aligned = |seed: u64| -> Vec<f32> {
        let (mut shared, mut own) = (Random(1), Random(seed + 1000));
        (0..WEIGHTS)
            .map(|_| shared.bell() + 0.17 * own.bell())
            .collect()
    };
    let updates: Vec<_> = (0..6).map(|id| (Codec::Int8, aligned(id), 1.0)).collect();
    let (_, merge) = step(Aggregator::TrustWeighted, 0.5, &updates);
    for regard in &merge.regards {
        assert!(regard.agreement.unwrap() > 0.95 && regard.twin.is_none());
        assert!((regard.share - 1.0 / 6.0).abs() < 1e-6, "{regard:?}");
    }
}

#[test]
fn an_update_between_two_honest_ones_does_not_make_one_of_them() {
    // It lies within the limit of both; they do not of each other.
    let (one, own) = (honest(1), honest(2));
    let with = |part: f32| {
        let mixed = one.iter().zip(&own).map(|(a, b)| a + part * b);
        (Codec::Float32, mixed.collect::<Vec<f32>>(), 1.0)
    };
    let between = (Codec::Float32, with(0.0).1, 2.0);
    let updates = [
        with(0.12),
        between,
        with(-0.12),
        (Codec::Int8, honest(4), 1.0),
    ];
    assert!(cosine(&updates[0].1, &updates[2].1) < f64::from(TWIN_COSINE));
    let (_, merge) = step(Aggregator::GeometricMedian, 0.5, &updates);
    let twins: Vec<_> = merge
        .regards
        .iter()
        .map(|r| r.twin.map(|(other, _)| other))
        .collect();
    assert_eq!(twins, [Some(1), Some(0), None, None]);
}

#[test]
fn the_geometric_median_converges_beside_an_update_a_million_times_longer() {
    // Up to 0.48 of the weight: the odds that a step takes the point back by are near 1 there.
    for weight in [0.1, 1.0, 3.0, 6.5] {
        let mut updates: Vec<_> = (0..8).map(|id| (Codec::Float32, honest(id), 1.0)).collect();
        let (clean, _) = step(Aggregator::Mean, 0.0, &updates[1..]);
        updates[0] = (Codec::Float32, scaled(honest(0), -1e6), weight);
        let (made, merge) = step(Aggregator::GeometricMedian, 0.0, &updates);
        // However far it is, it pulls like one of its weight: where it nearly outweighs the
        // others, by about twice their lengths.
        let bound = 2.5 * length(&updates[1].1);
        let moved = distance(&made, &clean);
        assert!(moved <= bound, "{weight}: {moved} {:?}", merge.regards);
        assert!(
            merge.regards[0].share < 1e-5,
            "{weight}: {:?}",
            merge.regards
        );
    }
}

#[test]
fn a_record_falls_at_once_and_rises_slowly() {
    let good = record(None, 0.5);
    assert_eq!(good, 0.5);
    assert_eq!(record(Some(good), -0.5), 0.0);
    let mut now = record(Some(good), -0.5);
    for _ in 0..3 {
        now = record(Some(now), 0.5);
    }
    assert!(now > 0.2 && now < 0.25, "{now}");
}

#[test]
fn one_bad_update_takes_a_good_record_to_zero_and_a_second_below() {
    let once = record(Some(0.1), -0.9);
    assert_eq!(once, 0.0);
    assert_eq!(record(Some(once), -0.9), -0.45);
    assert_eq!(record(Some(-0.1), -0.9), -0.5);
}

#[test]
fn settings_of_the_trimmed_mean_are_checked() {
    for part in [0.0, 0.5, -1.0, f32::NAN] {
        let settings = OuterSettings {
            aggregator: Aggregator::TrimmedMean { part },
            ..plain()
        };
        assert!(settings.check().is_err(), "{part}");
    }
}
