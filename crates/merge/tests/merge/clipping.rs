//! Clipping to the median norm.

use opengpu_merge::{Codec, Layout, OuterSettings, OuterState, encode, feedback};

use crate::rounds::{Round, close, plain};
use crate::values::{energy, update};

#[test]
fn clipping_takes_an_outlier_to_the_median_in_each_tensor_by_itself() {
    let layout = Layout::new([100, 50]);
    let honest = |seed| update(seed, &layout);
    let mut outlier = honest(4);
    outlier[100..].iter_mut().for_each(|value| *value *= 1000.0);
    let updates: Vec<_> = [honest(1), honest(2), honest(3), outlier]
        .into_iter()
        .map(|u| (u, 1.0))
        .collect();
    let round = Round::of(&layout, Codec::Float32, &updates);
    let settings = OuterSettings {
        clip_to_median_norm: true,
        ..plain()
    };
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = vec![0.0; 150];
    let merge = round
        .merge(&layout, &settings, &mut state, &mut weights)
        .unwrap();
    let norm = |values: &[f32]| energy(values).sqrt();
    for (tensor, range) in [0..100, 100..150].into_iter().enumerate() {
        let mut norms: Vec<_> = updates
            .iter()
            .map(|(u, _)| norm(&u[range.clone()]))
            .collect();
        let clipped: Vec<_> = (0..4)
            .map(|u| norms[u] * f64::from(merge.clipping.tensor_factors[u][tensor]))
            .collect();
        norms.sort_by(f64::total_cmp);
        let median = norms[1];
        assert!((merge.clipping.median_norms[tensor] - median).abs() < 1e-9 * median);
        assert!(clipped.iter().all(|norm| *norm <= median * 1.000_001));
        assert!(
            clipped
                .iter()
                .filter(|norm| **norm >= median * 0.999_999)
                .count()
                >= 3
        );
    }
    let [.., outlier_detail] = &merge.clipping.tensor_factors[..] else {
        panic!()
    };
    assert!(
        outlier_detail[0] > 0.5 && outlier_detail[1] < 0.002,
        "{outlier_detail:?}"
    );
    // One factor stands for both tensors: nearly all of the outlier's energy was taken off.
    assert!(merge.factors[3] < 0.002, "{:?}", merge.factors);
    assert!(merge.factors[..3].iter().all(|factor| *factor > 0.5));
    assert_eq!(merge.factors, merge.clipping.factors);
    // And the merged step is the mean of the clipped updates.
    for (i, weight) in weights.iter().enumerate() {
        let factor = |u: usize| merge.clipping.tensor_factors[u][usize::from(i >= 100)];
        let mean: f64 = (0..4)
            .map(|u| f64::from(updates[u].0[i]) * f64::from(factor(u)))
            .sum::<f64>()
            / 4.0;
        assert!(close(-weight, mean), "weight {i}");
    }
}

#[test]
fn two_updates_are_clipped_to_the_shorter_and_silence_does_not_count() {
    let layout = Layout::new([3]);
    let settings = OuterSettings {
        clip_to_median_norm: true,
        ..plain()
    };
    let factors = |updates: &[(Vec<f32>, f32)]| {
        let mut state = OuterState::new(&layout, &settings);
        let round = Round::of(&layout, Codec::Float32, updates);
        round
            .merge(&layout, &settings, &mut state, &mut [0.0; 3])
            .unwrap()
            .factors
    };
    let of = |value: f32| (vec![value, 0.0, 0.0], 1.0);
    assert_eq!(factors(&[of(4.0), of(1.0)]), [0.25, 1.0]);
    assert_eq!(factors(&[of(4.0)]), [1.0]);
    // Three that send nothing would otherwise make the median zero.
    assert_eq!(
        factors(&[of(4.0), of(0.0), of(2.0), of(0.0), of(0.0)]),
        [0.5, 1.0, 1.0, 1.0, 1.0]
    );
}

#[test]
fn a_clipped_update_that_was_restored_is_merged_whole_in_the_end() {
    // One worker's progress is four times the other's; each round the rest comes back.
    let layout = Layout::new([1]);
    let settings = OuterSettings {
        clip_to_median_norm: true,
        ..plain()
    };
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = [0.0];
    let mut buffer = [4.0];
    for _ in 0..4 {
        let large = encode(Codec::Float32, &layout, &mut buffer).unwrap();
        let small = encode(Codec::Float32, &layout, &mut [1.0]).unwrap();
        let round = Round(vec![(large.clone(), 1.0), (small, 1.0)]);
        let merge = round
            .merge(&layout, &settings, &mut state, &mut weights)
            .unwrap();
        let rest = 1.0 - merge.factors[0];
        feedback::restore(&layout, &large, rest, &mut buffer).unwrap();
    }
    assert!(buffer[0].abs() < 1e-6 && (weights[0] + 4.0).abs() < 1e-6);
}
