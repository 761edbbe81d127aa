//! Error feedback on the worker's side is a transaction.

use opengpu_merge::feedback::{restore, send};
use opengpu_merge::{Codec, EncodeError, Layout};
use proptest::prelude::*;

use crate::values::{CODECS, decode, update};

fn layout() -> Layout {
    Layout::new([5000, 130, 1, 4096])
}

/// Half the distance to the next float at the larger of two magnitudes, twice: one rounding
/// on the way out and one on the way back.
fn two_roundings(a: f32, b: f32) -> f32 {
    let largest = a.abs().max(b.abs());
    f32::from_bits(largest.to_bits() + 1) - largest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_sent_leaves_the_buffer_and_restoring_it_brings_it_back(
        codec in proptest::sample::select(&CODECS[..]), seed: u64, decay in 0f32..=1.0,
    ) {
        let layout = layout();
        let before = update(seed, &layout);
        let global = update(seed.wrapping_add(1), &layout);
        let local = update(seed.wrapping_add(2), &layout);
        let mut buffer = before.clone();
        let payload = send(codec, &layout, decay, &mut buffer, &global, &local).unwrap();
        let sent = decode(&layout, &payload);
        let accumulated: Vec<f32> =
            (0..layout.len()).map(|i| decay * before[i] + (global[i] - local[i])).collect();
        for i in 0..layout.len() {
            prop_assert_eq!(buffer[i], accumulated[i] - sent[i]);
        }
        let mut restored = buffer.clone();
        restore(&layout, &payload, 1.0, &mut restored).unwrap();
        for i in 0..layout.len() {
            let allowed = two_roundings(accumulated[i], sent[i]);
            prop_assert!((restored[i] - accumulated[i]).abs() <= allowed, "weight {}", i);
        }
        // A quarter was not merged: a quarter comes back.
        let mut quarter = buffer.clone();
        restore(&layout, &payload, 0.25, &mut quarter).unwrap();
        for i in 0..layout.len() {
            prop_assert_eq!(quarter[i], buffer[i] + sent[i] * 0.25);
        }
    }
}

#[test]
fn without_decay_all_progress_is_sent_sooner_or_later() {
    let layout = layout();
    let zero = vec![0.0; layout.len()];
    for codec in CODECS {
        let mut buffer = zero.clone();
        let mut sent = vec![0f64; layout.len()];
        let mut made = vec![0f64; layout.len()];
        for round in 0..20 {
            let progress = update(round, &layout);
            let payload = send(codec, &layout, 1.0, &mut buffer, &progress, &zero).unwrap();
            for (i, value) in decode(&layout, &payload).into_iter().enumerate() {
                sent[i] += f64::from(value);
                made[i] += f64::from(progress[i]);
            }
        }
        for i in 0..layout.len() {
            let difference = made[i] - sent[i] - f64::from(buffer[i]);
            assert!(
                difference.abs() < 1e-3,
                "{codec:?} weight {i}: {difference}"
            );
        }
    }
}

#[test]
fn a_refused_send_changes_nothing() {
    let layout = layout();
    let buffer = update(1, &layout);
    let zero = vec![0.0; layout.len()];
    let refused = |decay, global: &[f32], local: &[f32]| {
        let mut after = buffer.clone();
        let codec = Codec::Sparse { k: 64 };
        let error = send(codec, &layout, decay, &mut after, global, local).unwrap_err();
        assert!(after == buffer);
        error
    };
    let mut bad = zero.clone();
    bad[7000] = f32::NAN;
    assert_eq!(
        refused(0.9, &zero, &bad),
        EncodeError::NotFinite { index: 7000 }
    );
    assert_eq!(
        refused(0.9, &bad, &zero),
        EncodeError::NotFinite { index: 7000 }
    );
    // Finite numbers whose difference is not.
    let (mut high, mut low) = (zero.clone(), zero.clone());
    (high[3], low[3]) = (3e38, -3e38);
    assert_eq!(
        refused(0.9, &high, &low),
        EncodeError::NotFinite { index: 3 }
    );
    let short = EncodeError::WrongLength {
        expected: layout.len(),
        got: layout.len() - 1,
    };
    assert_eq!(refused(0.9, &zero[1..], &zero), short);
    assert_eq!(refused(0.9, &zero, &zero[1..]), short);
    for decay in [-0.1, 1.1, f32::NAN] {
        assert!(matches!(
            refused(decay, &zero, &zero),
            EncodeError::BadDecay { .. }
        ));
    }
}

#[test]
fn a_buffer_is_not_restored_from_a_foreign_payload_or_by_a_part_that_is_no_number() {
    let layout = layout();
    let other = Layout::new([layout.len()]);
    let payload = opengpu_merge::encode(Codec::Int8, &other, &mut update(1, &other)).unwrap();
    let mut buffer = update(1, &layout);
    let before = buffer.clone();
    assert!(restore(&layout, &payload, 1.0, &mut buffer).is_err());
    assert!(restore(&other, &payload, f32::NAN, &mut buffer).is_err());
    assert!(restore(&other, &payload, 1.0, &mut buffer[1..]).is_err());
    assert!(buffer == before);
}
