//! The grid as a file declares it, and the experiments that its rows stand for.

use std::path::Path;

use anyhow::{Context, Result};
use opengpu_bench::{
    ATTACKS, Attack, Auditing, Experiment, Federated, Figures, Hostile, Known, Method, Scale, word,
};
use opengpu_protocol::{Aggregator, SyncSettings, TrustSettings};
use opengpu_trainer_protocol::{InnerSettings, InnerState, Precision};
use serde::Deserialize;

/// What a file declares.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Size of model and data.
    pub scale: Scale,
    rounds: u64,
    steps: u64,
    rate: f64,
    seeds: Vec<u64>,
    part: Vec<Part>,
    /// What must hold of every row whose part says nothing else.
    limit: Option<Limit>,
}

/// What must hold of a row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Most that its loss is above the clean run's, as a part of it.
    pub above: f64,
    /// Most that hostile updates counted, in parts of their weight.
    pub hostile: Option<f64>,
    /// Largest part of the honest updates that counted less than half of their weight.
    pub wronged: Option<f64>,
    /// Most rounds from an attacker's first audit to its quarantine, as a mean. No honest
    /// worker may be in quarantine then, and no audit of a hostile update may pass.
    pub after_first_audit: Option<f64>,
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
    /// Look at directions before the rule, as is the default; without it the rule is alone.
    #[serde(default = "yes")]
    direction: bool,
    /// Go on until so many tokens counted, however many rounds that takes.
    #[serde(default)]
    total_tokens: u64,
    /// Audit updates. The optimiser then starts at zero in each round, of clean runs too.
    #[serde(default)]
    audits: bool,
    /// Hostile workers are on probation when the run starts.
    #[serde(default)]
    newcomers: bool,
    /// Train the honest workers alone, too.
    #[serde(default)]
    alone: bool,
    seeds: Option<Vec<u64>>,
    limit: Option<Limit>,
}

fn yes() -> bool {
    true
}

/// One row.
pub struct Row {
    pub workers: u64,
    pub aggregator: Aggregator,
    clip: bool,
    direction: bool,
    total_tokens: u64,
    audits: bool,
    newcomers: bool,
    pub hostile: Option<Hostile>,
    pub limit: Option<Limit>,
    experiments: Vec<Experiment>,
    /// The same fleet, all of it honest.
    clean: Vec<Experiment>,
    /// The honest workers of the fleet alone; empty if nobody asked for it.
    alone: Vec<Experiment>,
}

impl Grid {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
        toml::from_str(&text).with_context(|| format!("{path:?}"))
    }

    pub fn rows(&self) -> Vec<Row> {
        let parts = self.part.iter();
        parts.flat_map(|part| self.rows_of(part)).collect()
    }

    /// All experiments with their names, seed by seed: so a part of them is a table already.
    pub fn experiments(&self, rows: &[Row]) -> Vec<(String, Experiment)> {
        let mut all: Vec<_> = rows.iter().flat_map(Row::named).collect();
        let place = |seed| self.seeds.iter().position(|own| *own == seed);
        all.sort_by_key(|(_, experiment)| place(experiment.seed).unwrap_or(usize::MAX));
        all
    }

    fn rows_of(&self, part: &Part) -> Vec<Row> {
        let attacks = part.attacks.as_deref().unwrap_or(&ATTACKS);
        let mut hostile = vec![None];
        for &workers in &part.hostile {
            let each = attacks.iter();
            hostile.extend(each.map(|&attack| Some(Hostile { workers, attack })));
        }
        let mut rows = Vec::new();
        for &aggregator in &part.aggregators {
            for &hostile in &hostile {
                rows.push(self.row(part, aggregator, hostile));
            }
        }
        rows
    }

    fn row(&self, part: &Part, aggregator: Aggregator, hostile: Option<Hostile>) -> Row {
        let seeds = part.seeds.as_ref().unwrap_or(&self.seeds);
        let of = |workers: u64, hostile: Option<Hostile>| -> Vec<Experiment> {
            let each = seeds.iter();
            each.map(|&seed| self.experiment((part, aggregator), workers, hostile, seed))
                .collect()
        };
        let alone = match hostile {
            Some(hostile) if part.alone => of(part.workers - hostile.workers, None),
            _ => Vec::new(),
        };
        Row {
            workers: part.workers,
            aggregator,
            clip: part.clip,
            direction: part.direction,
            total_tokens: part.total_tokens,
            audits: part.audits,
            newcomers: part.newcomers && hostile.is_some(),
            hostile,
            limit: part.limit.clone().or_else(|| self.limit.clone()),
            experiments: of(part.workers, hostile),
            clean: of(part.workers, None),
            alone,
        }
    }

    fn experiment(
        &self,
        (part, aggregator): (&Part, Aggregator),
        workers: u64,
        hostile: Option<Hostile>,
        seed: u64,
    ) -> Experiment {
        Experiment {
            scale: self.scale,
            method: Method::Rounds(Federated {
                rounds: self.rounds,
                steps: self.steps,
                total_tokens: part.total_tokens,
                sync: SyncSettings {
                    clip_to_median_norm: part.clip,
                    ..SyncSettings::default()
                },
                keep_unsent: 0.0,
                trust: Some(TrustSettings {
                    aggregator,
                    direction: part.direction,
                    ..TrustSettings::default()
                }),
                hostile,
                audits: part.audits.then_some(Auditing {
                    hostile_are_new: part.newcomers && hostile.is_some(),
                }),
            }),
            workers,
            inner: InnerSettings {
                learning_rate: self.rate,
                state: match part.audits {
                    true => InnerState::Reset,
                    false => InnerState::Carry,
                },
                // A row is the same on every processor.
                precision: Precision::Float32,
                ..InnerSettings::default()
            },
            seed,
        }
    }
}

impl Row {
    pub fn name(&self) -> String {
        self.name_of(self.workers, self.hostile)
    }

    fn name_of(&self, workers: u64, hostile: Option<Hostile>) -> String {
        let fleet = format!("{workers} workers, {}, {}", self.rule(), self.checks());
        match hostile {
            None => format!("{fleet}, none hostile"),
            Some(Hostile { workers, attack }) => {
                format!("{fleet}, {workers} hostile: {}", word(&attack))
            }
        }
    }

    pub fn rule(&self) -> String {
        let alone = if self.direction { "" } else { " alone" };
        let clip = if self.clip { "" } else { ", no clipping" };
        let tokens = if self.total_tokens > 0 {
            ", as many tokens"
        } else {
            ""
        };
        format!("{}{alone}{clip}{tokens}", word(&self.aggregator))
    }

    pub fn checks(&self) -> &'static str {
        match (self.audits, self.newcomers) {
            (false, _) => "no audits",
            (true, false) => "audits",
            (true, true) => "audits of newcomers",
        }
    }

    /// What it needs, what it is compared with first.
    fn named(&self) -> Vec<(String, Experiment)> {
        let honest = self.workers - self.hostile.map_or(0, |hostile| hostile.workers);
        let groups = [
            (&self.clean, self.name_of(self.workers, None)),
            (&self.alone, self.name_of(honest, None)),
            (&self.experiments, self.name()),
        ];
        let mut named = Vec::new();
        for (experiments, name) in groups {
            named.extend(experiments.iter().map(|one| (name.clone(), one.clone())));
        }
        named
    }

    /// The figures of each seed that is known: its own, the clean run's, and those of the
    /// honest alone.
    pub fn figures(&self, known: &Known) -> Vec<(Figures, Option<Figures>, Option<Figures>)> {
        let of_seed = |experiments: &[Experiment], seed: u64| {
            let same = experiments.iter().find(|one| one.seed == seed);
            same.and_then(|one| known.figures(one))
        };
        let own = self.experiments.iter();
        own.filter_map(|one| {
            let figures = known.figures(one)?;
            let clean = of_seed(&self.clean, one.seed);
            Some((figures, clean, of_seed(&self.alone, one.seed)))
        })
        .collect()
    }
}
