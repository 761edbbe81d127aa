//! Does a fleet that exchanges little learn as well as one that exchanges everything?
//!
//! Trains the same small model on the same tokens with synchronous data-parallel and with
//! fleets in each sync mode, as a file declares them, and prints a table: held-out loss,
//! distance to data-parallel, bytes up and down per parameter and round. Each finished
//! experiment is a JSON line in a log; what is there already is not done again, so that a
//! long table can be interrupted, and the log tells all that was tried.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use opengpu_bench::{Data, Doing, Experiment, Figures, Known, Row, Table};

/// The learning experiment
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  learning bench/learning/short.toml      what CI runs; fails when learning got worse\n  learning bench/learning/table.toml --log bench/learning/log.jsonl\n  learning bench/learning/table.toml --only 'data-parallel' --workers 8"
)]
struct Arguments {
    /// Declares the rows
    table: PathBuf,
    /// Only rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only rows with so many workers
    #[arg(long)]
    workers: Option<u64>,
    #[command(flatten)]
    doing: Doing,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let table = Table::read(&arguments.table)?;
    let mut rows = table.rows();
    rows.retain(|row| {
        let named = |only: &String| row.name.contains(only.as_str());
        arguments.only.as_ref().is_none_or(named)
            && arguments
                .workers
                .is_none_or(|workers| workers == row.workers)
    });
    let mut known = Known::open(arguments.doing.log.as_deref())?;
    if !arguments.doing.known {
        let data = Data::prepare(table.scale)?;
        println!(
            "{} parameters, {} training tokens, {} held out\n",
            data.model.parameters(),
            data.training.tokens,
            data.held_out.tokens
        );
        let named = |row: &Row, experiment: &Experiment| {
            let rate = experiment.inner.learning_rate;
            format!("{} workers, {}, rate {rate:.1e}", row.workers, row.name)
        };
        let experiments = rows.iter().flat_map(|row| {
            let experiments = row.rates.iter().flat_map(|(_, experiments)| experiments);
            experiments.map(move |experiment| (named(row, experiment), experiment.clone()))
        });
        known = known.complete(experiments.collect(), &data, arguments.doing.jobs)?;
    }
    print_table(&rows, &known)?;
    for limit in &table.limit {
        let nats = |name: &str| {
            let row = rows.iter().find(|row| row.name == name);
            let best = row.and_then(|row| best_rate(&known, row));
            best.map(|best| best.nats)
                .with_context(|| format!("the row '{name}' of a limit was not trained"))
        };
        let found = nats(&limit.row)?;
        let most = limit.below * limit.times.as_deref().map_or(Ok(1.0), nats)?;
        if found.is_nan() || found >= most {
            bail!(
                "learning got worse: '{}' ends at {found:.4} nats per token, its limit is {most:.4}",
                limit.row
            );
        }
    }
    Ok(())
}

/// A row's best learning rate.
struct Best {
    rate: f64,
    /// Mean over the seeds.
    nats: f64,
    /// Largest minus smallest over the seeds.
    spread: f64,
    seeds: usize,
    first: Figures,
}

/// The rate with the least mean loss, among those of which something is known.
fn best_rate(known: &Known, row: &Row) -> Option<Best> {
    let of_rate = |(rate, experiments): &(f64, Vec<Experiment>)| {
        let figures: Vec<Figures> = experiments
            .iter()
            .filter_map(|experiment| known.figures(experiment))
            .collect();
        let nats = figures.iter().map(|figures| figures.nats);
        let (low, high) = nats
            .clone()
            .fold((f64::MAX, f64::MIN), |(low, high), nats| {
                (low.min(nats), high.max(nats))
            });
        Some(Best {
            rate: *rate,
            nats: nats.sum::<f64>() / figures.len() as f64,
            spread: high - low,
            seeds: figures.len(),
            first: *figures.first()?,
        })
    };
    row.rates
        .iter()
        .filter_map(of_rate)
        .min_by(|a, b| a.nats.total_cmp(&b.nats))
}

fn print_table(rows: &[Row], known: &Known) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n| workers | setting | rate | seeds | nats/token | spread | to data-parallel | up B/param | down B/param | rounds |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    for row in rows {
        let Some(best) = best_rate(known, row) else {
            continue;
        };
        let control = rows
            .iter()
            .filter(|other| other.is_control_of(row))
            .filter_map(|control| best_rate(known, control))
            .min_by(|a, b| a.nats.total_cmp(&b.nats));
        let distance = control.map_or("".into(), |control| {
            format!("{:+.1} %", (best.nats / control.nats - 1.0) * 100.0)
        });
        let Figures {
            up, down, rounds, ..
        } = best.first;
        writeln!(
            out,
            "| {} | {} | {:.1e} | {} | {:.4} | {:.4} | {distance} | {up:.4} | {down:.4} | {rounds} |",
            row.workers, row.name, best.rate, best.seeds, best.nats, best.spread,
        )?;
    }
    Ok(())
}
