//! Is anybody punished who is honest, and unusual?
//!
//! Trains a fleet in which every other worker differs from most in a way that the product allows:
//! one step a round, a tenth or a quarter of the blocks, late, new, another text, other numerics.
//! All checks are on, with their defaults, in the product's own code: the codec, the rules of a
//! run, weighing, audits, and the probe of what stands out. Prints what became of each kind's
//! updates; fails if a thousandth of them was rejected, or a worker is in quarantine.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Parser;
use opengpu_bench::{Auditing, Data, Federated, Kind, Scale, Tally};
use opengpu_protocol::{SyncSettings, TrustSettings};
use opengpu_trainer_protocol::{InnerSettings, InnerState};

/// Honest but unusual workers
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  honest                        3,000 updates and more, all checks on; a few minutes of one core\n  honest --rounds 40            what CI trains\n  honest --seeds 1 2 3          three fleets, one after the other, in one table"
)]
struct Arguments {
    /// Rounds of each training
    #[arg(long, default_value_t = 230)]
    rounds: u64,
    /// Inner steps of a usual worker in a round
    #[arg(long, default_value_t = 8)]
    steps: u64,
    /// Workers
    #[arg(long, default_value_t = 16)]
    workers: u64,
    /// Peak learning rate
    #[arg(long, default_value_t = 8e-3)]
    rate: f64,
    /// Each decides first weights, order of the data and draws of a training
    #[arg(long, num_args = 1.., default_values_t = [1])]
    seeds: Vec<u64>,
}

/// Part of the updates that may be rejected for nothing.
const MOST_REJECTED: f64 = 0.001;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let data = Data::prepare(Scale::Short)?;
    println!(
        "{} parameters, {} workers, {} rounds of {} steps, seeds {:?}",
        data.model.parameters(),
        arguments.workers,
        arguments.rounds,
        arguments.steps,
        arguments.seeds
    );
    if !opengpu_trainer::has_bfloat16() {
        println!("this processor has no arithmetic for bfloat16: that worker computes in float32");
    }
    let settings = Federated {
        rounds: arguments.rounds,
        steps: arguments.steps,
        total_tokens: 0,
        sync: SyncSettings::default(),
        keep_unsent: 0.0,
        trust: Some(TrustSettings::default()),
        hostile: None,
        audits: Some(Auditing {
            hostile_are_new: false,
        }),
    };
    let inner = InnerSettings {
        learning_rate: arguments.rate,
        state: InnerState::Reset,
        ..InnerSettings::default()
    };
    // One thread: part of a numerics class, and so the same on every machine.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut all: BTreeMap<Kind, Tally> = BTreeMap::new();
    for &seed in &arguments.seeds {
        let tallies = pool.install(|| settings.honest(&data, &inner, arguments.workers, seed))?;
        for (kind, tally) in tallies {
            all.entry(kind).or_default().add(&tally);
        }
    }
    print(&all);
    check(&all)
}

fn print(all: &BTreeMap<Kind, Tally>) {
    println!(
        "\n| workers | updates | refused | merged | counted, mean | under half | stood out | hurt alone | audits | failed | farthest, of what is allowed | quarantined |"
    );
    println!("|{}", "---|".repeat(12));
    for (kind, tally) in all {
        line(kind.what(), tally);
    }
    line("all", &sum(all));
    println!();
    for (kind, tally) in all {
        for (what, codes) in [
            ("refused", &tally.refused),
            ("counted less", &tally.counted_less),
        ] {
            for (code, count) in codes {
                println!("{}: {count} {what}: {code}", kind.what());
            }
        }
    }
}

fn line(what: &str, tally: &Tally) {
    println!(
        "| {what} | {} | {} | {} | {:.2} | {} | {} | {} | {} | {} | {:.3} | {} |",
        tally.updates,
        tally.refused.values().sum::<u64>(),
        tally.merged,
        tally.counted / tally.merged.max(1) as f64,
        tally.under_half,
        tally.flagged,
        tally.hurt,
        tally.audits,
        tally.failed,
        tally.farthest,
        tally.quarantined
    );
}

fn sum(all: &BTreeMap<Kind, Tally>) -> Tally {
    let mut sum = Tally::default();
    for tally in all.values() {
        sum.add(tally);
    }
    sum
}

fn check(all: &BTreeMap<Kind, Tally>) -> Result<()> {
    let sum = sum(all);
    let (rejected, updates) = (sum.rejected(), sum.updates);
    let part = rejected as f64 / updates.max(1) as f64;
    println!(
        "{rejected} of {updates} honest updates were rejected: {:.3} %",
        part * 100.0
    );
    if updates == 0 || part >= MOST_REJECTED {
        bail!(
            "{rejected} of {updates} honest updates were rejected, less than {:.1} % are allowed",
            MOST_REJECTED * 100.0
        );
    }
    if sum.quarantined > 0 {
        bail!(
            "{} honest workers are in quarantine, none may be",
            sum.quarantined
        );
    }
    Ok(())
}
