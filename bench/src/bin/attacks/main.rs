//! What do hostile workers do to a run?
//!
//! Trains a small model with fleets in which some workers attack, with each rule of
//! aggregation that a file asks for, and prints a table: held-out loss against the same fleet
//! without attackers, and how much honest and hostile updates counted. Each finished
//! experiment is a JSON line in a log and is not done again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use opengpu_bench::{
    ATTACKS, Attack, Counted, Data, Experiment, Federated, Figures, Hostile, Known, Method, Scale,
};
use opengpu_protocol::{Aggregator, SyncSettings, TrustSettings};
use opengpu_trainer_protocol::{InnerSettings, Precision};
use serde::Deserialize;

/// The attack grid
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  attacks bench/attacks/short.toml      what CI runs; fails when an attack does more than it should\n  attacks bench/attacks/main.toml --log bench/attacks/log.jsonl\n  attacks bench/attacks/main.toml --log bench/attacks/log.jsonl --known"
)]
struct Arguments {
    /// Declares the grid
    grid: PathBuf,
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

/// What a file declares.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grid {
    scale: Scale,
    rounds: u64,
    steps: u64,
    rate: f64,
    seeds: Vec<u64>,
    part: Vec<Part>,
    /// What must hold of every row.
    limit: Option<Limit>,
}

/// What must hold of every row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    /// Most that its loss is above the clean run's, as a part of it.
    above: f64,
    /// Most that hostile updates counted, in parts of their weight.
    hostile: f64,
    /// Largest part of the honest updates that counted less than half of their weight.
    wronged: f64,
}

/// Rows: each rule with each number of hostile workers and each attack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    workers: u64,
    hostile: Vec<u64>,
    aggregators: Vec<Aggregator>,
    /// All if it says nothing.
    attacks: Option<Vec<Attack>>,
    /// Clip to the median norm, as is the default.
    #[serde(default = "yes")]
    clip: bool,
    seeds: Option<Vec<u64>>,
}

fn yes() -> bool {
    true
}

/// One row.
struct Row {
    workers: u64,
    aggregator: Aggregator,
    clip: bool,
    hostile: Option<Hostile>,
    experiments: Vec<Experiment>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let path = &arguments.grid;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
    let grid: Grid = toml::from_str(&text).with_context(|| format!("{path:?}"))?;
    let rows: Vec<Row> = grid.part.iter().flat_map(|part| grid.rows(part)).collect();
    let mut known = Known::open(arguments.log.as_deref())?;
    if !arguments.known {
        let data = Data::prepare(grid.scale)?;
        println!("{} parameters\n", data.model.parameters());
        let experiments = rows.iter().flat_map(|row| {
            let experiments = row.experiments.iter();
            experiments.map(|experiment| (row.name(), experiment.clone()))
        });
        known = known.complete(experiments.collect(), &data, arguments.jobs)?;
    }
    let rows: Vec<(&Row, Outcome)> = rows
        .iter()
        .filter_map(|row| Some((row, Outcome::of(row, &rows, &known)?)))
        .collect();
    print(&rows);
    let Some(limit) = &grid.limit else {
        return Ok(());
    };
    for (row, outcome) in &rows {
        let checks = [
            (
                "its loss is above the clean run's by",
                outcome.above,
                limit.above,
            ),
            (
                "hostile updates counted",
                outcome.counted.hostile,
                limit.hostile,
            ),
            (
                "honest updates that counted less than half are",
                outcome.counted.wronged,
                limit.wronged,
            ),
        ];
        for (what, found, most) in checks {
            if found.is_nan() || found > most {
                bail!(
                    "{}: {what} {:.1} %, at most {:.1} % is allowed",
                    row.name(),
                    found * 100.0,
                    most * 100.0
                );
            }
        }
    }
    Ok(())
}

impl Grid {
    fn rows<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = Row> + 'a {
        let attacks = part.attacks.as_deref().unwrap_or(&ATTACKS);
        let hostile = part.hostile.iter().flat_map(move |&workers| {
            let each = attacks.iter();
            each.map(move |&attack| Some(Hostile { workers, attack }))
        });
        let hostile: Vec<Option<Hostile>> = std::iter::once(None).chain(hostile).collect();
        part.aggregators.iter().flat_map(move |&aggregator| {
            let row = move |hostile| Row {
                workers: part.workers,
                aggregator,
                clip: part.clip,
                hostile,
                experiments: part
                    .seeds
                    .as_ref()
                    .unwrap_or(&self.seeds)
                    .iter()
                    .map(|&seed| self.experiment(part, aggregator, hostile, seed))
                    .collect(),
            };
            hostile.clone().into_iter().map(row)
        })
    }

    fn experiment(
        &self,
        part: &Part,
        aggregator: Aggregator,
        hostile: Option<Hostile>,
        seed: u64,
    ) -> Experiment {
        Experiment {
            scale: self.scale,
            method: Method::Rounds(Federated {
                rounds: self.rounds,
                steps: self.steps,
                sync: SyncSettings {
                    clip_to_median_norm: part.clip,
                    ..SyncSettings::default()
                },
                keep_unsent: 0.0,
                trust: Some(TrustSettings {
                    aggregator,
                    ..TrustSettings::default()
                }),
                hostile,
            }),
            workers: part.workers,
            inner: InnerSettings {
                learning_rate: self.rate,
                // A row is the same on every processor.
                precision: Precision::Float32,
                ..InnerSettings::default()
            },
            seed,
        }
    }
}

impl Row {
    fn name(&self) -> String {
        let rule = word(&self.aggregator);
        let clip = if self.clip { "" } else { ", no clipping" };
        match self.hostile {
            None => format!("{} workers, {rule}{clip}, none hostile", self.workers),
            Some(Hostile { workers, attack }) => format!(
                "{} workers, {rule}{clip}, {workers} hostile: {}",
                self.workers,
                word(&attack)
            ),
        }
    }

    /// The same fleet and rule without attackers.
    fn is_clean_of(&self, other: &Self) -> bool {
        let fleet = |row: &Self| (row.workers, row.aggregator, row.clip);
        self.hostile.is_none() && fleet(self) == fleet(other)
    }

    /// The figures of the seeds that are known.
    fn figures(&self, known: &Known) -> Vec<(u64, Figures)> {
        let experiments = self.experiments.iter();
        experiments
            .filter_map(|experiment| Some((experiment.seed, known.figures(experiment)?)))
            .collect()
    }
}

/// A name as files write it.
fn word(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    json.trim_matches('"').to_owned()
}

/// What a row came to, as the mean of its seeds.
struct Outcome {
    seeds: usize,
    nats: f64,
    /// Loss above that of the same fleet without attackers, as a part of it.
    above: f64,
    counted: Counted,
}

impl Outcome {
    /// None if nothing is known of the row.
    fn of(row: &Row, rows: &[Row], known: &Known) -> Option<Self> {
        let figures = row.figures(known);
        let nats = mean(figures.iter().map(|(_, figures)| figures.nats))?;
        let seeds: BTreeSet<u64> = figures.iter().map(|(seed, _)| *seed).collect();
        let clean = rows.iter().find(|other| other.is_clean_of(row));
        let clean = clean.map(|clean| clean.figures(known)).unwrap_or_default();
        let same_seeds = clean.iter().filter(|(seed, _)| seeds.contains(seed));
        let clean = mean(same_seeds.map(|(_, figures)| figures.nats));
        let counted: Vec<Counted> = figures.iter().filter_map(|(_, f)| f.counted).collect();
        let part = |part: fn(&Counted) -> f64| mean(counted.iter().map(part)).unwrap_or_default();
        Some(Self {
            seeds: seeds.len(),
            nats,
            above: clean.map_or(f64::NAN, |clean| nats / clean - 1.0),
            counted: Counted {
                honest: part(|counted| counted.honest),
                wronged: part(|counted| counted.wronged),
                hostile: part(|counted| counted.hostile),
            },
        })
    }
}

fn print(rows: &[(&Row, Outcome)]) {
    println!(
        "\n| workers | rule | hostile | attack | seeds | nats/token | to clean | honest counted | under half | hostile counted |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (row, outcome) in rows {
        let clip = if row.clip { "" } else { ", no clipping" };
        let attack = row.hostile.map(|hostile| word(&hostile.attack));
        println!(
            "| {} | {}{clip} | {} | {} | {} | {:.4} | {:+.2} % | {:.2} | {:.2} % | {} |",
            row.workers,
            word(&row.aggregator),
            row.hostile.map_or(0, |hostile| hostile.workers),
            attack.as_deref().unwrap_or("–"),
            outcome.seeds,
            outcome.nats,
            outcome.above * 100.0,
            outcome.counted.honest,
            outcome.counted.wronged * 100.0,
            row.hostile
                .map_or("–".into(), |_| format!("{:.2}", outcome.counted.hostile)),
        );
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
