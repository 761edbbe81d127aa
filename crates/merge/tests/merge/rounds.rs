//! Merging a round.

use opengpu_merge::{
    Aggregator, Codec, Layout, Merge, MergeError, OuterSettings, OuterState, StateError, Weighted,
    digest, encode, merge_round, subtract,
};
use proptest::prelude::*;

use crate::values::{CODECS, decode, energy, update};

/// Everything is sent, nothing is clipped, the step is the plain mean.
pub fn plain() -> OuterSettings {
    OuterSettings {
        down: Codec::Float32,
        down_feedback_decay: 1.0,
        tau: 0.0,
        outer_rate: 1.0,
        outer_momentum: 0.0,
        nesterov: false,
        clip_to_median_norm: false,
        aggregator: Aggregator::Mean,
        direction: false,
    }
}

/// Payloads with their weights.
pub struct Round(pub Vec<(Vec<u8>, f32)>);

impl Round {
    pub fn of(layout: &Layout, codec: Codec, updates: &[(Vec<f32>, f32)]) -> Self {
        let encoded = |(values, weight): &(Vec<f32>, f32)| {
            (encode(codec, layout, &mut values.clone()).unwrap(), *weight)
        };
        Self(updates.iter().map(encoded).collect())
    }

    pub fn merge(
        &self,
        layout: &Layout,
        settings: &OuterSettings,
        state: &mut OuterState,
        weights: &mut [f32],
    ) -> Result<Merge, MergeError> {
        let updates: Vec<_> = self
            .0
            .iter()
            .map(|(payload, weight)| Weighted {
                payload,
                weight: *weight,
                record: None,
            })
            .collect();
        merge_round(layout, settings, &updates, state, weights)
    }

    /// The step that a round makes from nothing.
    fn step(&self, layout: &Layout, settings: &OuterSettings) -> Vec<f32> {
        let mut state = OuterState::new(layout, settings);
        let mut weights = vec![0.0; layout.len()];
        self.merge(layout, settings, &mut state, &mut weights)
            .unwrap();
        weights.into_iter().map(|weight| -weight).collect()
    }
}

pub fn close(a: f32, b: f64) -> bool {
    (f64::from(a) - b).abs() <= 1e-5 * (1.0 + b.abs())
}

#[test]
fn senders_are_averaged_by_weight_and_absence_is_no_zero() {
    let layout = Layout::new([4]);
    let updates = [
        (vec![1.0, 0.0, 0.0, 2.0], 1.0),
        (vec![5.0, 0.0, 4.0, 0.0], 3.0),
    ];
    let round = Round::of(&layout, Codec::Sparse { k: 4 }, &updates);
    // Two levels of two magnitudes are exact. Weight 0: (1·1 + 3·5) / 4.
    assert_eq!(round.step(&layout, &plain()), [4.0, 0.0, 4.0, 2.0]);
    // In a dense codec zero is a statement.
    let round = Round::of(&layout, Codec::Float32, &updates);
    assert_eq!(round.step(&layout, &plain()), [4.0, 0.0, 3.0, 0.5]);
}

#[test]
fn tau_bounds_what_a_lone_sender_moves() {
    let layout = Layout::new([4]);
    let mut updates = vec![(vec![8.0, 0.0, 0.0, 0.0], 1.0)];
    updates.extend(std::iter::repeat_n((vec![0.0, 0.0, 2.0, 0.0], 1.0), 7));
    let round = Round::of(&layout, Codec::Sparse { k: 1 }, &updates);
    let step = |tau| round.step(&layout, &OuterSettings { tau, ..plain() });
    assert_eq!(step(0.0), [8.0, 0.0, 2.0, 0.0]);
    // An eighth of the weight stands against the floor of a half.
    assert_eq!(step(0.5), [2.0, 0.0, 2.0, 0.0]);
    assert_eq!(step(1.0), [1.0, 0.0, 1.75, 0.0]);
}

#[test]
fn momentum_and_nesterov_are_those_of_the_textbook() {
    let layout = Layout::new([1]);
    for nesterov in [false, true] {
        let settings = OuterSettings {
            outer_rate: 0.5,
            outer_momentum: 0.75,
            nesterov,
            ..plain()
        };
        let mut state = OuterState::new(&layout, &settings);
        let mut weights = [0.0];
        let (mut velocity, mut expected) = (0.0, 0.0);
        for gradient in [1.0, -2.0, 4.0, 0.0, 0.0] {
            let round = Round::of(&layout, Codec::Float32, &[(vec![gradient], 2.0)]);
            round
                .merge(&layout, &settings, &mut state, &mut weights)
                .unwrap();
            velocity = 0.75 * velocity + gradient;
            expected -= 0.5
                * if nesterov {
                    gradient + 0.75 * velocity
                } else {
                    velocity
                };
            assert_eq!(weights[0], expected);
        }
        assert_eq!(state.momentum, [velocity]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_round_is_what_plain_arithmetic_says(
        seed: u64,
        updates in 1usize..6,
        up in proptest::sample::select(&CODECS[..]),
        down in proptest::sample::select(&CODECS[..]),
        tau in 0f32..=1.0,
        outer_rate in 0f32..2.0,
        outer_momentum in proptest::sample::select(&[0.0f32, 0.5, 0.9][..]),
        nesterov: bool,
        clip_to_median_norm: bool,
        decay in 0f32..=1.0,
    ) {
        let layout = Layout::new([300, 4096 + 200, 1]);
        let settings = OuterSettings {
            down, down_feedback_decay: decay, tau, outer_rate, outer_momentum, nesterov, clip_to_median_norm,
            aggregator: Aggregator::Mean,
            direction: false,
        };
        let mut state = OuterState::new(&layout, &settings);
        let mut weights = update(seed ^ 77, &layout);
        let mut feedback = vec![0f64; layout.len()];
        let mut momentum = vec![0f64; layout.len()];
        for number in 0..3u64 {
            let given: Vec<_> = (0..updates)
                .map(|u| (update(seed.wrapping_add(10 * number + u as u64), &layout), 1.0 + u as f32))
                .collect();
            let round = Round::of(&layout, up, &given);
            let before = weights.clone();
            let merge = round.merge(&layout, &settings, &mut state, &mut weights).unwrap();

            // Every node makes the same step from the merge alone.
            let mut node = before;
            subtract(&layout, &merge.bytes, &mut node).unwrap();
            prop_assert!(node == weights);
            prop_assert_eq!(digest(&node), merge.digest);

            let total: f64 = given.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let sent: Vec<_> = round.0.iter().map(|(payload, _)| decode(&layout, payload)).collect();
            let merged = decode(&layout, &merge.bytes);
            let mut start = 0;
            for (tensor, &len) in layout.tensors().iter().enumerate() {
                for i in start..start + len {
                    let (mut sum, mut weight) = (0f64, 0f64);
                    for (u, values) in sent.iter().enumerate() {
                        let share = f64::from(given[u].1) / total;
                        // Values here are never sent as zero, but where a dense codec says so.
                        if up.is_dense() || values[i] != 0.0 {
                            sum += share * f64::from(values[i]) * f64::from(merge.clipping.tensor_factors[u][tensor]);
                            weight += share;
                        }
                    }
                    let mean = if weight == 0.0 { 0.0 } else { sum / weight.max(f64::from(tau)) };
                    let mu = f64::from(outer_momentum);
                    momentum[i] = mu * momentum[i] + mean;
                    let direction = if nesterov { mean + mu * momentum[i] } else { momentum[i] };
                    let wanted = f64::from(decay) * feedback[i] + f64::from(outer_rate) * direction;
                    feedback[i] = wanted - f64::from(merged[i]);
                    prop_assert!(close(state.feedback[i], feedback[i]), "weight {}: {} {}", i, state.feedback[i], feedback[i]);
                    feedback[i] = f64::from(state.feedback[i]);
                }
                start += len;
            }
        }
    }
}

#[test]
fn what_a_merge_leaves_out_comes_with_a_later_one() {
    let layout = Layout::new([4096]);
    let settings = OuterSettings {
        down: Codec::Sparse { k: 64 },
        ..plain()
    };
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = vec![0.0; 4096];
    let values = update(8, &layout);
    let round = Round::of(&layout, Codec::Float32, &[(values.clone(), 1.0)]);
    round
        .merge(&layout, &settings, &mut state, &mut weights)
        .unwrap();
    assert!(weights.iter().filter(|weight| **weight != 0.0).count() == 64);
    let silence = Round::of(&layout, Codec::Float32, &[(vec![0.0; 4096], 1.0)]);
    for _ in 0..400 {
        silence
            .merge(&layout, &settings, &mut state, &mut weights)
            .unwrap();
    }
    let missing: Vec<_> = (0..4096).map(|i| values[i] + weights[i]).collect();
    assert!(
        energy(&missing) < 1e-6 * energy(&values),
        "{}",
        energy(&missing)
    );
}

#[test]
fn a_round_goes_on_from_stored_state_as_if_never_interrupted() {
    let layout = Layout::new([5000, 30]);
    for outer_momentum in [0.0, 0.5] {
        let settings = OuterSettings {
            down: Codec::Sparse { k: 100 },
            down_feedback_decay: 0.9,
            outer_momentum,
            nesterov: true,
            ..plain()
        };
        let round = |n: u64| {
            let updates = [(update(n, &layout), 1.0), (update(n + 100, &layout), 2.0)];
            Round::of(&layout, Codec::Sparse { k: 64 }, &updates)
        };
        let mut state = OuterState::new(&layout, &settings);
        let mut weights = update(0, &layout);
        round(1)
            .merge(&layout, &settings, &mut state, &mut weights)
            .unwrap();
        let bytes = state.to_bytes(&layout);
        let mut resumed = OuterState::from_bytes(&layout, &settings, &bytes).unwrap();
        assert!(resumed == state);
        let mut resumed_weights = weights.clone();
        let first = round(2)
            .merge(&layout, &settings, &mut state, &mut weights)
            .unwrap();
        let second = round(2)
            .merge(&layout, &settings, &mut resumed, &mut resumed_weights)
            .unwrap();
        assert!(first == second && resumed.to_bytes(&layout) == state.to_bytes(&layout));
    }
}

#[test]
fn a_state_of_another_model_or_damaged_is_refused() {
    let layout = Layout::new([20, 30]);
    let without = plain();
    let with = OuterSettings {
        outer_momentum: 0.9,
        ..plain()
    };
    let bytes = OuterState::new(&layout, &without).to_bytes(&layout);
    let read = |settings, bytes: &[u8]| OuterState::from_bytes(&layout, settings, bytes);
    read(&without, &bytes).unwrap();
    assert_eq!(read(&without, &[]), Err(StateError::NotAState));
    assert_eq!(read(&without, &[7; 300]), Err(StateError::NotAState));
    let length = StateError::WrongLength {
        expected: 224,
        got: 223,
    };
    assert_eq!(read(&without, &bytes[..223]), Err(length));
    let length = StateError::WrongLength {
        expected: 424,
        got: 224,
    };
    assert_eq!(read(&with, &bytes), Err(length));
    let other = OuterState::from_bytes(&Layout::new([50]), &without, &bytes);
    assert_eq!(other, Err(StateError::WrongLayout));
    let mut damaged = bytes;
    damaged[24 + 4 * 7..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(
        read(&without, &damaged),
        Err(StateError::NotFinite { index: 7 })
    );
}

#[test]
fn what_cannot_be_merged_is_refused_and_nothing_is_changed() {
    let layout = Layout::new([5000]);
    let good = encode(Codec::Int8, &layout, &mut update(1, &layout)).unwrap();
    let refused = |settings: &OuterSettings, updates: &[Weighted]| {
        let mut state = OuterState::new(&layout, &plain());
        let mut weights = update(0, &layout);
        let before = (state.clone(), weights.clone());
        let error = merge_round(&layout, settings, updates, &mut state, &mut weights).unwrap_err();
        assert!((state, weights) == before);
        error
    };
    assert_eq!(refused(&plain(), &[]), MergeError::Empty);
    for weight in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let updates = [1.0, weight].map(|weight| Weighted {
            record: None,
            payload: &good,
            weight,
        });
        let error = refused(&plain(), &updates);
        assert_eq!(
            error,
            MergeError::BadWeight {
                update: 1,
                weight: weight.to_string()
            }
        );
    }
    let bad = &good[..good.len() - 1];
    let updates = [&good[..], bad].map(|payload| Weighted {
        payload,
        weight: 1.0,
        record: None,
    });
    assert!(matches!(
        refused(&plain(), &updates),
        MergeError::BadPayload { update: 1, .. }
    ));
    for settings in [
        OuterSettings {
            tau: -0.1,
            ..plain()
        },
        OuterSettings {
            tau: f32::NAN,
            ..plain()
        },
        OuterSettings {
            outer_rate: f32::INFINITY,
            ..plain()
        },
        OuterSettings {
            outer_momentum: 1.0,
            ..plain()
        },
        OuterSettings {
            down_feedback_decay: 1.5,
            ..plain()
        },
        OuterSettings {
            down: Codec::Sparse { k: 0 },
            ..plain()
        },
    ] {
        let error = refused(&settings, &updates[..1]);
        assert!(matches!(error, MergeError::BadSetting { .. }), "{error}");
    }
    // A state without the momentum that the settings ask for.
    let settings = OuterSettings {
        outer_momentum: 0.5,
        ..plain()
    };
    let expected = MergeError::WrongLength {
        what: "momentum",
        expected: 5000,
        got: 0,
    };
    assert_eq!(refused(&settings, &updates[..1]), expected);
}

#[test]
fn threads_change_nothing_and_the_order_given_changes_only_the_last_digits() {
    let layout = Layout::new([700_000, 300]);
    let updates: Vec<_> = (1..6)
        .map(|seed| (update(seed, &layout), seed as f32))
        .collect();
    let round = Round::of(&layout, Codec::Sparse { k: 128 }, &updates);
    let settings = OuterSettings {
        down: Codec::Sparse { k: 512 },
        tau: 0.25,
        clip_to_median_norm: true,
        ..plain()
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let merge = |threads| {
        let mut state = OuterState::new(&layout, &settings);
        let mut weights = update(0, &layout);
        let merge = pool(threads).install(|| {
            round
                .merge(&layout, &settings, &mut state, &mut weights)
                .unwrap()
        });
        (merge, state.feedback, weights)
    };
    let one = merge(1);
    assert!(one == merge(2) && one == merge(5));

    let reversed = Round(round.0.iter().cloned().rev().collect());
    let settings = OuterSettings {
        down: Codec::Float32,
        ..settings
    };
    let (there, back) = (
        round.step(&layout, &settings),
        reversed.step(&layout, &settings),
    );
    assert!(
        there
            .iter()
            .zip(&back)
            .all(|(a, b)| close(*a, f64::from(*b)))
    );
}

#[test]
fn a_digest_is_the_blake3_of_little_endian_bytes() {
    let weights = update(1, &Layout::new([10_000]));
    let bytes: Vec<u8> = weights
        .iter()
        .flat_map(|weight| weight.to_le_bytes())
        .collect();
    assert_eq!(digest(&weights), *blake3::hash(&bytes).as_bytes());
    assert_eq!(digest(&[]), *blake3::hash(&[]).as_bytes());
}
