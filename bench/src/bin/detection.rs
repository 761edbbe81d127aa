//! How soon is somebody found who cheats in every round?
//!
//! Workers that passed their probation lie in each round; the product's own draw decides which
//! of their updates are audited, and what an audit finds is given, for that is measured
//! elsewhere (`audits`). Prints which part of them was found by round n beside 1 − (1 − q)^n,
//! and fails if they differ by more than chance does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Parser;
use opengpu_bench::untrained::Untrained;
use opengpu_rounds::{AuditOutcome, AuditRules, RoundSettings, WEIGHING, WorkerId};

/// Detection of cheaters over rounds
#[derive(Parser)]
struct Arguments {
    /// Workers that cheat
    #[arg(long, default_value_t = 500)]
    cheaters: u64,
    /// Parts of the updates that are audited
    #[arg(long, default_values_t = [0.05, 0.1, 0.25, 1.0])]
    rates: Vec<f64>,
    /// Decides what is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// By which rounds it is looked at.
const ROUNDS: [u64; 5] = [1, 5, 10, 20, 30];
/// Workers that do not cheat, so that the run goes on without the others.
const HONEST: u64 = 4;
/// Standard errors that chance may make of it.
const MOST_ERRORS: f64 = 4.0;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!(
        "{} cheaters, found by their first n updates\n",
        arguments.cheaters
    );
    println!("| q | n | found | 1 − (1 − q)^n | standard errors apart |");
    println!("|---|---|---|---|---|");
    let mut farthest = 0f64;
    for &rate in &arguments.rates {
        let found = found(&arguments, rate)?;
        for rounds in ROUNDS {
            let by_then = found.values().filter(|round| **round <= rounds).count();
            let part = by_then as f64 / arguments.cheaters as f64;
            let expected = 1.0 - (1.0 - rate).powi(rounds as i32);
            let error = (expected * (1.0 - expected) / arguments.cheaters as f64).sqrt();
            let apart = match part == expected {
                true => 0.0,
                false => (part - expected) / error,
            };
            farthest = farthest.max(apart.abs());
            println!("| {rate} | {rounds} | {part:.3} | {expected:.3} | {apart:+.1} |");
        }
    }
    if farthest > MOST_ERRORS {
        bail!(
            "what was found is {farthest:.1} standard errors from what the rate promises, {MOST_ERRORS} are allowed (seed {})",
            arguments.seed
        );
    }
    Ok(())
}

/// In which round, counted from 1, each cheater was found.
fn found(arguments: &Arguments, rate: f64) -> Result<BTreeMap<WorkerId, u64>> {
    let most = ROUNDS[ROUNDS.len() - 1];
    let settings = RoundSettings {
        rounds: most + 1,
        blocks_per_epoch: 1_000_000,
        forming_ms: 0,
        max_blocks: 1,
        audit: AuditRules {
            enabled: true,
            rate,
        },
        weighing: WEIGHING,
        ..RoundSettings::default()
    };
    let mut fleet = Untrained::start(settings, arguments.seed)?;
    let workers = arguments.cheaters + HONEST;
    for worker in 1..=workers {
        fleet.join(WorkerId(worker))?;
    }
    let mut found = BTreeMap::new();
    for round in 1..=most {
        fleet.see(|_| true)?;
        fleet.clock += 1000;
        // The honest have the last numbers, so that there is always something to merge.
        for worker in fleet.at_work() {
            let Some(audit) = fleet.send(worker)? else {
                continue;
            };
            if worker.0 > arguments.cheaters {
                fleet.audited(audit, AuditOutcome::Passed)?;
            } else {
                fleet.audited(audit, AuditOutcome::Failed)?;
                fleet.leave(worker)?;
                found.insert(worker, round);
            }
        }
        fleet.merge()?.context("a round did not close")?;
    }
    Ok(found)
}
