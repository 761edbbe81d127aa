//! Does a fleet that exchanges little learn as well as one that exchanges everything?
//!
//! Trains the same small model on the same tokens with synchronous data-parallel and with
//! fleets in each sync mode, as a file declares them, and prints a table: held-out loss,
//! distance to data-parallel, bytes up and down per parameter and round. Each finished
//! experiment is a JSON line in a log; what is there already is not done again, so that a
//! long table can be interrupted, and the log tells all that was tried.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use opengpu_bench::{Data, Experiment, Figures, Row, Table};
use serde::{Deserialize, Serialize};

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
    /// Experiments at a time, each on one thread
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Finished experiments, as JSON lines
    #[arg(long)]
    log: Option<PathBuf>,
    /// Train nothing; print what the log knows
    #[arg(long, requires = "log")]
    known: bool,
}

/// A line of the log.
#[derive(Serialize, Deserialize)]
struct Line {
    experiment: Experiment,
    figures: Figures,
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
    let mut known = Known::open(arguments.log.as_deref())?;
    if !arguments.known {
        let data = Data::prepare(table.scale)?;
        println!(
            "{} parameters, {} training tokens, {} held out\n",
            data.model.parameters(),
            data.training.tokens,
            data.held_out.tokens
        );
        known = train(&rows, &data, known, arguments.jobs)?;
    }
    print_table(&rows, &known)?;
    for limit in &table.limit {
        let nats = |name: &str| {
            let row = rows.iter().find(|row| row.name == name);
            let best = row.and_then(|row| known.best(row));
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

/// What has been trained.
struct Known {
    figures: HashMap<String, Figures>,
    log: Option<std::fs::File>,
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

impl Known {
    fn open(log: Option<&std::path::Path>) -> Result<Self> {
        let mut figures = HashMap::new();
        let Some(path) = log else {
            return Ok(Self { figures, log: None });
        };
        if path.exists() {
            for (number, line) in std::fs::read_to_string(path)?.lines().enumerate() {
                let line: Line = serde_json::from_str(line)
                    .with_context(|| format!("{path:?}, line {}", number + 1))?;
                figures.insert(key(&line.experiment), line.figures);
            }
        }
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            figures,
            log: Some(log),
        })
    }

    fn add(&mut self, experiment: &Experiment, figures: Figures) -> Result<()> {
        self.figures.insert(key(experiment), figures);
        if let Some(log) = &mut self.log {
            let line = Line {
                experiment: experiment.clone(),
                figures,
            };
            writeln!(log, "{}", serde_json::to_string(&line)?)?;
        }
        Ok(())
    }

    /// The rate with the least mean loss, among those of which something is known.
    fn best(&self, row: &Row) -> Option<Best> {
        let of_rate = |(rate, experiments): &(f64, Vec<Experiment>)| {
            let figures: Vec<Figures> = experiments
                .iter()
                .filter_map(|experiment| self.figures.get(&key(experiment)).copied())
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
}

/// Everything that decides an experiment's figures.
fn key(experiment: &Experiment) -> String {
    serde_json::to_string(experiment).unwrap_or_default()
}

/// Trains what is not known, several at a time.
fn train(rows: &[Row], data: &Data, known: Known, jobs: usize) -> Result<Known> {
    let mut todo: Vec<(&Row, &Experiment)> = Vec::new();
    for row in rows {
        for experiment in row.rates.iter().flat_map(|(_, experiments)| experiments) {
            let again = todo.iter().any(|(_, other)| *other == experiment);
            if !again && !known.figures.contains_key(&key(experiment)) {
                todo.push((row, experiment));
            }
        }
    }
    let total = todo.len();
    let known = Mutex::new(known);
    let queue = Mutex::new(todo.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        // Each experiment has a pool of its own: threads of one must not wait for another's.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some((index, (row, experiment))) = next() {
            let started = Instant::now();
            let figures = pool.install(|| experiment.run(data))?;
            println!(
                "[{}/{total}] {} workers, {}, rate {:.1e}, seed {}: {:.4} nats ({:.0} s)",
                index + 1,
                row.workers,
                row.name,
                experiment.inner.learning_rate,
                experiment.seed,
                figures.nats,
                started.elapsed().as_secs_f64()
            );
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.add(experiment, figures)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        jobs.into_iter().try_for_each(|job| match job.join() {
            Ok(result) => result,
            Err(_) => bail!("an experiment panicked"),
        })
    })?;
    Ok(known.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn print_table(rows: &[Row], known: &Known) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n| workers | setting | rate | seeds | nats/token | spread | to data-parallel | up B/param | down B/param | rounds |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    for row in rows {
        let Some(best) = known.best(row) else {
            continue;
        };
        let control = rows
            .iter()
            .filter(|other| other.is_control_of(row))
            .filter_map(|control| known.best(control))
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
