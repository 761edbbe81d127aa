//! Counters of signed requests, in any order.
//!
//! Each byte is a step from the last counter; 255 is followed by a counter of eight bytes, and
//! 254 is a restart of the coordinator.

#![no_main]

use std::collections::BTreeSet;

use opengpu_fuzz::{Input, Seed, within};
use opengpu_protocol::ReplayWindow;
use opengpu_protocol::signing::INTEGER_LIMIT;

opengpu_fuzz::target!(seeds, attempt);

const STEP: u64 = 1000;

fn seeds() -> Vec<Seed> {
    let mut mixed: Vec<u8> = (0..700u32).map(|i| (i * 37 % 131) as u8).collect();
    mixed[350] = 254;
    let far = [&[255u8][..], &(INTEGER_LIMIT - 3).to_le_bytes(), &[129; 5]].concat();
    vec![
        ("rising".into(), vec![129; 600]),
        ("mixed".into(), mixed),
        ("far".into(), far),
    ]
}

fn attempt(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut window = ReplayWindow::above(0);
    let (mut used, mut persisted, mut last) = (BTreeSet::new(), 0u64, 1_000_000u64);
    while !input.0.is_empty() {
        let counter = match input.byte() {
            255 => input.u64(),
            254 => {
                window = ReplayWindow::above(persisted);
                continue;
            }
            step => (last + u64::from(step)).saturating_sub(128),
        };
        // Headers with larger ones are refused before.
        last = counter % INTEGER_LIMIT;
        let before = window.highest();
        // The set's nodes, of which a window keeps a few dozen.
        match within(4096, || window.admit(last)) {
            Ok(()) => assert!(used.insert(last), "{last} was admitted twice"),
            Err(_) => assert!(last <= before, "one above the highest is admitted"),
        }
        if let Some(floor) = window.floor_to_persist(persisted, STEP) {
            assert!(floor > persisted && floor >= window.highest());
            persisted = floor;
        }
    }
}
