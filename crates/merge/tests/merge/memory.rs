//! What the crate allocates beside the caller's buffers: the budget of a coordinator is 16
//! bytes for each weight, weights and state included, and that of an agent 12.

use opengpu_merge::feedback::{restore, send};
use opengpu_merge::{
    Aggregator, Codec, Layout, OuterSettings, OuterState, Weighted, encode, merge_round,
};

use crate::allocation::allocated_by;
use crate::values::update;

/// Bytes for each weight that are allocated, freed or not, by all of some work.
fn per_weight(layout: &Layout, work: impl FnOnce() + Send) -> f64 {
    // One thread, so that nothing is allocated out of sight.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    pool.install(|| allocated_by(work)) as f64 / layout.len() as f64
}

#[test]
fn a_merge_allocates_little_beside_weights_and_state() {
    let layout = Layout::new([1 << 20, 1 << 20]);
    let payloads: Vec<_> = (0..4)
        .map(|seed| {
            encode(
                Codec::Sparse { k: 128 },
                &layout,
                &mut update(seed, &layout),
            )
            .unwrap()
        })
        .collect();
    let updates: Vec<_> = payloads
        .iter()
        .map(|payload| Weighted {
            payload,
            weight: 1.0,
            record: None,
        })
        .collect();
    let settings = OuterSettings {
        down: Codec::Sparse { k: 512 },
        down_feedback_decay: 1.0,
        tau: 0.25,
        outer_rate: 1.5,
        outer_momentum: 0.9,
        nesterov: true,
        clip_to_median_norm: true,
        aggregator: Aggregator::Mean,
        direction: false,
    };
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = update(0, &layout);
    let spent = per_weight(&layout, || {
        merge_round(&layout, &settings, &updates, &mut state, &mut weights).unwrap();
    });
    // Records (at most 0.22 bytes, reserved group by group), the merge, and scratch space
    // that is freed after each group but counted here.
    println!("{spent:.3} bytes for each weight");
    assert!(spent < 1.0, "{spent} bytes for each weight");
}

#[test]
fn sending_and_restoring_allocate_little_beside_the_payload() {
    let layout = Layout::new([1 << 21]);
    let (global, local) = (update(1, &layout), update(2, &layout));
    let mut buffer = update(3, &layout);
    let spent = per_weight(&layout, || {
        let codec = Codec::Sparse { k: 64 };
        let payload = send(codec, &layout, 0.8, &mut buffer, &global, &local).unwrap();
        restore(&layout, &payload, 1.0, &mut buffer).unwrap();
    });
    println!("{spent:.3} bytes for each weight");
    assert!(spent < 0.6, "{spent} bytes for each weight");
}
