//! The breakdown point of each rule: the hostile part of a round that it bears, and the next
//! larger one that it does not.

use opengpu_merge::{
    Aggregator, Codec, Layout, OuterSettings, OuterState, Weighted, encode, merge_round,
};

use crate::rounds::plain;
use crate::values::{Random, decode};

const WEIGHTS: usize = 9000;
const UPDATES: usize = 15;

/// What the rule makes of a round in which so many send the contrary of what the honest say
/// together, a hundred thousand times as long. In parts of an honest update's length: the
/// step's component along the shared direction, and its whole length.
fn outcome(aggregator: Aggregator, hostile: usize) -> (f64, f64) {
    let layout = Layout::new([WEIGHTS]);
    let settings = OuterSettings {
        tau: 0.0,
        aggregator,
        // Trust is for directions; a run file that has it without clipping is refused.
        clip_to_median_norm: aggregator == Aggregator::TrustWeighted,
        ..plain()
    };
    let direction: Vec<f32> = {
        let mut shared = Random(1);
        (0..WEIGHTS).map(|_| shared.bell()).collect()
    };
    let payload = |update: usize| {
        let mut own = Random(update as u64 + 1000);
        let (factor, noise) = if update < hostile {
            (-1e5, 0.3)
        } else {
            (1.0, 1.5)
        };
        let mut values: Vec<f32> = direction
            .iter()
            .map(|shared| factor * (shared + noise * own.bell()))
            .collect();
        encode(Codec::Float32, &layout, &mut values).unwrap()
    };
    let payloads: Vec<_> = (0..UPDATES).map(payload).collect();
    let weighted: Vec<_> = payloads
        .iter()
        .map(|payload| Weighted {
            payload,
            weight: 1.0,
            record: None,
        })
        .collect();
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = vec![0.0; WEIGHTS];
    let merge = merge_round(&layout, &settings, &weighted, &mut state, &mut weights).unwrap();
    let step = decode(&layout, &merge.bytes);
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let honest = decode(&layout, &payloads[UPDATES - 1]);
    let unit = product(&honest, &honest).sqrt();
    let along = product(&step, &direction) / product(&direction, &direction).sqrt();
    (along / unit, product(&step, &step).sqrt() / unit)
}

/// How many of the round may be hostile.
fn borne(aggregator: Aggregator) -> usize {
    let point = f64::from(aggregator.breakdown_point()) * UPDATES as f64;
    // Every part below the point, not the point itself.
    (point.ceil() as usize).saturating_sub(1)
}

#[test]
fn every_rule_bears_what_is_below_its_breakdown_point_and_not_what_is_above() {
    let rules = [
        (Aggregator::Mean, 0),
        (Aggregator::TrimmedMean { part: 0.1 }, 1),
        (Aggregator::TrimmedMean { part: 0.3 }, 4),
        (Aggregator::TrimmedMean { part: 0.45 }, 6),
        (Aggregator::GeometricMedian, 7),
        (Aggregator::CentredClipping, 7),
        (Aggregator::TrustWeighted, 7),
    ];
    for (aggregator, expected) in rules {
        assert_eq!(borne(aggregator), expected, "{aggregator:?}");
        for hostile in 0..=expected {
            let (along, length) = outcome(aggregator, hostile);
            // (The centre of honest updates at a cosine of 0.3 is 0.6 long.)
            assert!(length < 1.0, "{aggregator:?} {hostile}: {length}");
            // The others bound the distance: they are drawn back, and even beyond zero.
            if aggregator == Aggregator::TrustWeighted {
                assert!(along > 0.5, "{aggregator:?} {hostile}: {along}");
            }
        }
        let (along, length) = outcome(aggregator, expected + 1);
        assert!(
            along < -100.0 && length > 100.0,
            "{aggregator:?}: {along} {length}"
        );
    }
}
