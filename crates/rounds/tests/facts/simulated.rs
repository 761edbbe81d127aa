//! The fleet in simulated time, over many seeds. To repeat one that failed:
//! `OPENGPU_SEED=17 cargo test --release -p opengpu-rounds simulated -- --nocapture`.

use std::collections::BTreeSet;

use opengpu_rounds::simulation::{Faults, Report, SimulationSettings, run};

/// Simulates; a broken promise prints its seed.
fn check(settings: &SimulationSettings) -> Report {
    let report = run(settings, &mut |_| {});
    if let Some(violation) = &report.violation {
        let seed = settings.seed;
        panic!("{violation}\nrepeat it with OPENGPU_SEED={seed}\n{settings:#?}\n{report:#?}");
    }
    report
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
        let report = check(&SimulationSettings::drawn(seed, rounds));
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

#[test]
fn long_runs_keep_their_promises_too() {
    for (seed, faults) in [(1001, Faults::default()), (1002, Faults::harsh())] {
        let drawn = SimulationSettings::drawn(seed, 400);
        check(&SimulationSettings { faults, ..drawn });
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let settings = SimulationSettings::drawn(3, 20);
    let tell = |report: &Report| serde_json::to_string(report).unwrap();
    assert_eq!(tell(&check(&settings)), tell(&check(&settings)));
}

#[test]
fn every_fault_strikes_and_every_refusal_happens() {
    let mut faults = BTreeSet::new();
    let mut refusals = BTreeSet::new();
    let mut refused_appends = 0;
    for seed in 0..100 {
        let drawn = SimulationSettings::drawn(seed, 15);
        let report = check(&SimulationSettings {
            faults: Faults::harsh(),
            ..drawn
        });
        faults.extend(report.faults.keys().copied());
        refusals.extend(report.refused.keys().copied());
        refused_appends += report.refused_appends;
    }
    let expected = [
        "clock step",
        "coordinator crash",
        "coordinator died midway",
        "drain",
        "joiner",
        "leaver",
        "expelled",
        "lost feedback",
        "merge failed",
        "partition",
        "pause",
        "rollback",
        "rotten weights",
        "takeover",
        "worker crash",
    ];
    assert_eq!(faults, BTreeSet::from(expected));
    for code in [
        "lease_returned",
        "wrong_feedback",
        "feedback_retired",
        "feedback_too_soon",
        "checkpoint_outdated",
    ] {
        assert!(
            refusals.contains(code),
            "{code} never happened: {refusals:?}"
        );
    }
    assert!(
        refused_appends > 0,
        "no deposed coordinator tried to append"
    );
}

#[test]
fn a_quiet_fleet_abandons_nothing_and_merges_every_update_once() {
    let drawn = SimulationSettings::default();
    let report = check(&SimulationSettings {
        faults: Faults::none(),
        ..drawn
    });
    assert_eq!((report.merged_rounds, report.abandoned_rounds), (50, 0));
    assert!(report.refused.is_empty(), "{report:?}");
}

#[test]
fn a_slow_worker_is_as_busy_as_the_rest() {
    let mut settings = SimulationSettings {
        faults: Faults::none(),
        ..Default::default()
    };
    settings.round.max_blocks = 1000;
    let report = check(&settings);
    let busy = &report.worker_utilisation;
    let rest = busy[1..].iter().sum::<f64>() / (busy.len() - 1) as f64;
    assert!(busy[0] > 0.85 * rest, "{busy:?}");
}

#[test]
fn rows_tell_every_round() {
    let settings = SimulationSettings::drawn(2, 15);
    let mut rows = Vec::new();
    let report = run(&settings, &mut |row| rows.push(row.clone()));
    assert_eq!(
        rows.len() as u64,
        report.merged_rounds + report.abandoned_rounds
    );
    assert!(
        rows.iter()
            .all(|row| !row.reason.is_empty() && (0.0..=1.0).contains(&row.utilisation))
    );
}
