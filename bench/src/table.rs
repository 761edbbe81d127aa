//! An experiment's rows, as its file declares them, and the experiments that they stand for.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use opengpu_protocol::{SyncSettings, TrustSettings};
use opengpu_trainer_protocol::{InnerSettings, Precision};
use serde::{Deserialize, Serialize};

use crate::{Data, Federated, Figures, Scale, synchronous};

/// What a file declares: rows, each for several numbers of workers, seeds and rates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Size of model and data.
    pub scale: Scale,
    /// Rows that say nothing else have so many rounds…
    rounds: u64,
    /// … of so many inner steps each (H).
    steps: u64,
    workers: Vec<u64>,
    rates: Vec<f64>,
    seeds: Vec<u64>,
    row: Vec<Declared>,
    /// What must hold.
    #[serde(default)]
    pub limit: Vec<Limit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    rounds: Option<u64>,
    steps: Option<u64>,
    workers: Option<Vec<u64>>,
    rates: Option<Vec<f64>>,
    seeds: Option<Vec<u64>>,
    /// Exchange every gradient: the control.
    #[serde(default)]
    synchronous: bool,
    #[serde(default)]
    sync: SyncSettings,
    #[serde(default)]
    keep_unsent: f32,
    trust: Option<TrustSettings>,
    #[serde(default)]
    inner: InnerSettings,
}

/// An upper limit of a row's loss.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The row.
    pub row: String,
    /// Nats per token, or with `times` a factor.
    pub below: f64,
    /// The row whose loss the factor is of.
    pub times: Option<String>,
}

/// One training from first weights to the end; a row has one for each seed and rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Size of model and data.
    pub scale: Scale,
    /// How the workers learn from each other.
    pub method: Method,
    /// Workers, all alike.
    pub workers: u64,
    /// Inner optimiser.
    pub inner: InnerSettings,
    /// Decides first weights and the order of the data.
    pub seed: u64,
}

/// How workers learn from each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Every gradient is exchanged.
    Synchronous {
        /// Optimiser steps.
        steps: u64,
    },
    /// In rounds.
    Rounds(Federated),
}

/// A row for one number of workers.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name in the file.
    pub name: String,
    /// Workers.
    pub workers: u64,
    /// Sequences that a worker trains on in an inner step.
    batch: usize,
    /// Inner steps of a worker in all.
    steps: u64,
    synchronous: bool,
    /// Each rate with its experiments, one for each seed.
    pub rates: Vec<(f64, Vec<Experiment>)>,
}

impl Row {
    /// Whether this is data-parallel training with the other's batches, as long as it.
    pub fn is_control_of(&self, other: &Self) -> bool {
        let size = |row: &Self| (row.workers, row.batch, row.steps);
        self.synchronous && size(self) == size(other)
    }
}

impl Table {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
        let table: Self = toml::from_str(&text).with_context(|| format!("{path:?}"))?;
        for limit in &table.limit {
            for name in limit.times.iter().chain([&limit.row]) {
                ensure!(
                    table.row.iter().any(|row| row.name == *name),
                    "{path:?}: a limit names the row '{name}', which does not exist"
                );
            }
        }
        Ok(table)
    }

    /// All rows, by number of workers.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.row.iter().flat_map(|row| self.expand(row)).collect();
        rows.sort_by_key(|row| row.workers);
        rows
    }

    fn expand<'a>(&'a self, row: &'a Declared) -> impl Iterator<Item = Row> + 'a {
        let (rounds, steps) = (
            row.rounds.unwrap_or(self.rounds),
            row.steps.unwrap_or(self.steps),
        );
        let workers = row.workers.as_ref().unwrap_or(&self.workers);
        workers.iter().map(move |&workers| {
            let experiment = |rate, seed| Experiment {
                scale: self.scale,
                method: match row.synchronous {
                    true => Method::Synchronous {
                        steps: rounds * steps,
                    },
                    false => Method::Rounds(Federated {
                        rounds,
                        steps,
                        total_tokens: 0,
                        sync: row.sync.clone(),
                        keep_unsent: row.keep_unsent,
                        trust: row.trust.clone(),
                        hostile: None,
                        audits: None,
                    }),
                },
                workers,
                inner: InnerSettings {
                    learning_rate: rate,
                    // A row is the same on every processor.
                    precision: Precision::Float32,
                    ..row.inner.clone()
                },
                seed,
            };
            let seeds = row.seeds.as_ref().unwrap_or(&self.seeds);
            let rates = row.rates.as_ref().unwrap_or(&self.rates).iter();
            Row {
                name: row.name.clone(),
                workers,
                batch: row.inner.batch_sequences,
                steps: rounds * steps,
                synchronous: row.synchronous,
                rates: rates
                    .map(|&rate| {
                        let each = seeds.iter().map(|&seed| experiment(rate, seed));
                        (rate, each.collect())
                    })
                    .collect(),
            }
        })
    }
}

impl Experiment {
    /// Trains.
    pub fn run(&self, data: &Data) -> Result<Figures> {
        match &self.method {
            Method::Synchronous { steps } => {
                synchronous(data, &self.inner, self.workers, *steps, self.seed)
            }
            Method::Rounds(rounds) => rounds.run(data, &self.inner, self.workers, self.seed),
        }
    }
}
