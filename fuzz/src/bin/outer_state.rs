//! The outer optimiser's state, as a checkpoint's blob holds it.
//!
//! First byte: which layout, and in the highest bit whether there is momentum. The rest is the
//! state; a header that fits the layout is put in front.

#![no_main]

use opengpu_fuzz::{LAYOUTS, Seed, layout, with_header, within};
use opengpu_merge::{Aggregator, Codec, OuterSettings, OuterState};

opengpu_fuzz::target!(seeds, attempt);

const MOMENTUM: u8 = 0x80;

fn settings(choice: u8) -> OuterSettings {
    OuterSettings {
        down: Codec::Int8,
        down_feedback_decay: 1.0,
        tau: 0.5,
        outer_rate: 1.0,
        outer_momentum: if choice & MOMENTUM == 0 { 0.0 } else { 0.9 },
        nesterov: false,
        clip_to_median_norm: false,
        aggregator: Aggregator::Mean,
        direction: false,
    }
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for number in 0..LAYOUTS.len() as u8 {
        for choice in [number, number | MOMENTUM] {
            let layout = layout(number);
            if (1..100).contains(&layout.len()) {
                let mut state = OuterState::new(&layout, &settings(choice));
                for (place, value) in state.feedback.iter_mut().enumerate() {
                    *value = place as f32 - 1.5;
                }
                seeds.push((
                    format!("layout-{choice}"),
                    [&[choice], &*state.to_bytes(&layout)].concat(),
                ));
            }
        }
    }
    seeds
}

fn attempt(bytes: &[u8]) {
    let Some((&choice, state)) = bytes.split_first() else {
        return;
    };
    let (layout, settings) = (layout(choice & !MOMENTUM), settings(choice));
    // No model is without weights; such a state can't say whether it has momentum.
    if layout.is_empty() {
        return;
    }
    // Length and fingerprint stand where a payload has them.
    let state = with_header(&layout, state);
    let most = 8 * layout.len() + 1024;
    if let Ok(read) = within(most, || OuterState::from_bytes(&layout, &settings, &state)) {
        assert_eq!(read.to_bytes(&layout), state, "a state has one spelling");
        let mut values = read.feedback.iter().chain(&read.momentum);
        assert!(values.all(|value| value.is_finite()));
    }
}
