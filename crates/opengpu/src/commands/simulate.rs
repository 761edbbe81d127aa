//! `opengpu simulate`: the real state machine under invented machines and faults.

use anyhow::{Result, bail};
use opengpu_rounds::simulation::{self, Faults, Report, RoundRow, SimulationSettings};

use crate::{
    cli::Simulate,
    output::{count, show},
};

/// Carries out `simulate`; fails if an invariant broke.
pub fn run(json: bool, args: &Simulate) -> Result<()> {
    let mut settings = SimulationSettings {
        seed: args.seed,
        workers: args.workers,
        slow_workers: args.workers / 8,
        ..SimulationSettings::default()
    };
    settings.round.rounds = args.rounds;
    settings.round.quorum = args.workers.div_ceil(2);
    settings.round.min_workers = args.workers.div_ceil(2);
    settings.round.max_workers = args.workers.saturating_mul(2);
    settings.round.blocks_per_epoch = 1000 * u64::from(args.workers);
    if args.calm {
        settings.faults = Faults::none();
    }
    if !json {
        println!(
            "{:>9}  {:>5}  {:>8}  {:>3}  {:>8}  {:>6}  {:>4}  {:>7}  {:>4}  why, and what went wrong",
            "time", "round", "revision", "up", "assigned", "merged", "late", "refused", "busy"
        );
    }
    let report = simulation::run(&settings, &mut |row| {
        if !json {
            print_round(row);
        }
    });
    show(json, &report, print_report)?;
    match report.violation {
        Some(violation) => bail!("{violation}"),
        None => Ok(()),
    }
}

fn print_round(row: &RoundRow) {
    let revision = row
        .revision
        .map_or("-".to_owned(), |revision| revision.to_string());
    let faults: Vec<String> = row
        .faults
        .iter()
        .map(|(fault, times)| format!("{times} {fault}"))
        .collect();
    let faults = if faults.is_empty() {
        String::new()
    } else {
        format!(" [{}]", faults.join(", "))
    };
    println!(
        "{:>8.0}s  {:>5}  {revision:>8}  {:>3}  {:>8}  {:>6}  {:>4}  {:>7}  {:>3.0}%  {}{faults}",
        row.at_ms as f64 / 1000.0,
        row.round,
        row.workers,
        row.assigned,
        row.merged,
        row.late,
        row.refused,
        row.utilisation * 100.0,
        row.reason
    );
}

fn print_report(report: &Report) {
    println!();
    println!(
        "seed {}: {} rounds merged, {} abandoned in {:.1} h of simulated time, {} events",
        report.seed,
        report.merged_rounds,
        report.abandoned_rounds,
        report.simulated_ms as f64 / 3_600_000.0,
        report.events
    );
    let refused: u64 = report.refused.values().sum();
    println!(
        "updates: {} accepted ({} late), {refused} refused; {} tokens credited",
        report.accepted,
        report.late,
        count(report.credited_tokens as f64)
    );
    println!(
        "workers that were up trained {:.0} % of the time",
        report.utilisation * 100.0
    );
    println!(
        "appends of deposed coordinators refused: {}",
        report.refused_appends
    );
    if report.violation.is_none() {
        println!("all invariants held");
    }
}
