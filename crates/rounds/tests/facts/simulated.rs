//! The fleet in simulated time, over many seeds. To repeat one that failed:
//! `OPENGPU_SEED=17 cargo test --release -p opengpu-rounds simulated -- --nocapture`.

use opengpu_rounds::simulation::{Report, SimulationSettings, run};

fn simulate(settings: &SimulationSettings) -> Report {
    run(settings, &mut |_| {})
}

fn seeds(all: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("OPENGPU_SEED") {
        Ok(seed) => vec![seed.parse().expect("OPENGPU_SEED is a number")],
        // More of them for a longer look: OPENGPU_SEEDS=10000.
        Err(_) => match std::env::var("OPENGPU_SEEDS") {
            Ok(count) => (0..count.parse().expect("OPENGPU_SEEDS is a number")).collect(),
            Err(_) => all.collect(),
        },
    }
}

fn sweep(all: std::ops::Range<u64>, rounds: u64) -> (u64, u64) {
    let (mut merged, mut events) = (0, 0);
    for seed in seeds(all) {
        let settings = SimulationSettings::drawn(seed, rounds);
        let report = simulate(&settings);
        if let Some(violation) = &report.violation {
            panic!("{violation}\nrepeat it with OPENGPU_SEED={seed}\n{settings:#?}\n{report:#?}");
        }
        merged += report.merged_rounds + report.abandoned_rounds;
        events += report.events;
    }
    (merged, events)
}

#[test]
fn invariants_hold_for_every_seed() {
    let (rounds, events) = sweep(0..200, 15);
    println!("{rounds} rounds, {events} events");
}
