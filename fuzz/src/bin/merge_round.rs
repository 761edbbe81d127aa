//! A round of updates that were accepted one by one: they must merge, whatever is in them.
//!
//! First byte: which layout, second: settings. Then payloads, each behind a length of two
//! bytes; at most four.

#![no_main]

use opengpu_fuzz::{Input, LAYOUTS, Seed, layout, with_header};
use opengpu_merge::{
    Aggregator, Codec, MergeError, OuterSettings, OuterState, Payload, Weighted, digest, encode,
    merge_round, subtract,
};

opengpu_fuzz::target!(seeds, attempt);

const MOST_UPDATES: usize = 4;

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for choice in 0..LAYOUTS.len() as u8 {
        let layout = layout(choice);
        for (number, codec) in [Codec::Sparse { k: 7 }, Codec::Int4, Codec::Int2]
            .into_iter()
            .enumerate()
        {
            let mut bytes = vec![choice, 37 * choice + number as u8];
            for update in 0..3 {
                let wave = |i: usize| (i as f32 * 0.3 + update as f32).cos() * 10f32.powi(update);
                let mut values: Vec<f32> = (0..layout.len()).map(wave).collect();
                let payload = encode(codec, &layout, &mut values).expect("the values are finite");
                bytes.extend_from_slice(&(payload.len() as u16).to_le_bytes());
                bytes.extend_from_slice(&payload);
            }
            seeds.push((format!("layout-{choice}-{number}"), bytes));
        }
    }
    seeds
}

fn settings(choice: u8) -> OuterSettings {
    let flag = |bit: u8| choice >> bit & 1 == 1;
    OuterSettings {
        down: [
            Codec::Sparse { k: 5 },
            Codec::Int8,
            Codec::Int4,
            Codec::Int2,
        ][usize::from(choice & 3)],
        down_feedback_decay: if flag(2) { 1.0 } else { 0.5 },
        tau: if flag(3) { 0.5 } else { 0.0 },
        outer_rate: if flag(4) { 1000.0 } else { 0.7 },
        outer_momentum: if flag(5) { 0.999 } else { 0.0 },
        nesterov: flag(6),
        clip_to_median_norm: flag(7),
        aggregator: [
            Aggregator::TrustWeighted,
            Aggregator::Mean,
            Aggregator::GeometricMedian,
            Aggregator::CentredClipping,
            Aggregator::TrimmedMean { part: 0.25 },
        ][usize::from(choice % 5)],
        direction: !choice.is_multiple_of(3),
    }
}

fn attempt(bytes: &[u8]) {
    let mut input = Input(bytes);
    let layout = layout(input.byte());
    let settings = settings(input.byte());
    // No model is without weights; its state can't say whether it has momentum.
    if layout.is_empty() {
        return;
    }
    let mut payloads = Vec::new();
    while payloads.len() < MOST_UPDATES && !input.0.is_empty() {
        payloads.push(with_header(&layout, input.part()));
    }
    let updates: Vec<Weighted> = payloads
        .iter()
        .zip([
            (1.0, None),
            (3.5, Some(0.3)),
            (1e-30, Some(-1.0)),
            (1e30, Some(1.0)),
        ])
        .map(|(payload, (weight, record))| Weighted {
            payload,
            weight,
            record,
        })
        .collect();
    let good = payloads
        .iter()
        .all(|payload| Payload::parse(&layout, payload).is_ok());

    let before: Vec<f32> = (0..layout.len()).map(|i| (i as f32).sqrt()).collect();
    let mut weights = before.clone();
    let first = OuterState::new(&layout, &settings);
    let mut state = first.clone();
    let merge = match merge_round(&layout, &settings, &updates, &mut state, &mut weights) {
        Ok(merge) => merge,
        Err(error) => {
            match error {
                MergeError::Empty => assert!(updates.is_empty()),
                MergeError::BadPayload { .. } => assert!(!good),
                other => panic!("good updates do not merge: {other}"),
            }
            assert_eq!(
                (state, weights),
                (first, before),
                "a refused merge changed something"
            );
            return;
        }
    };
    assert!(good, "a payload that is refused alone was merged");

    // What the coordinator has is what everybody gets.
    let mut elsewhere = before;
    subtract(&layout, &merge.bytes, &mut elsewhere).expect("a merge is read");
    assert_eq!(elsewhere, weights);
    assert_eq!(digest(&elsewhere), merge.digest);
    assert_eq!(merge.factors.len(), updates.len());
    assert!(
        merge
            .factors
            .iter()
            .all(|factor| (0.0..=1.0).contains(factor))
    );

    for regard in &merge.regards {
        assert!((0.0..=2.001).contains(&regard.share), "{regard:?}");
        let agreement = regard.agreement.unwrap_or_default();
        assert!((-1.0..=1.0).contains(&agreement), "{regard:?}");
    }

    // The next round finds state that it accepts.
    let kept = state.to_bytes(&layout);
    let read = OuterState::from_bytes(&layout, &settings, &kept).expect("state is read back");
    assert_eq!(read, state);
    merge_round(&layout, &settings, &updates, &mut state, &mut weights)
        .expect("the same updates merge again");
}
