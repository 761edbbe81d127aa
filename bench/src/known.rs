//! The log of finished experiments: what is there already is not done again.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{Data, Experiment, Figures};

/// A line of the log.
#[derive(Serialize, Deserialize)]
struct Line {
    experiment: Experiment,
    figures: Figures,
}

/// How a declared set of experiments is done: what every command for one takes.
#[derive(clap::Args)]
pub struct Doing {
    /// Experiments at a time, each on one thread
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// Finished experiments, as JSON lines
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Train nothing; print what the log knows
    #[arg(long, requires = "log")]
    pub known: bool,
}

/// What has been done.
pub struct Known {
    figures: HashMap<String, Figures>,
    log: Option<std::fs::File>,
}

impl Known {
    /// Reads a log, which it goes on with.
    pub fn open(log: Option<&Path>) -> Result<Self> {
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

    /// What an experiment gave, if it was done.
    pub fn figures(&self, experiment: &Experiment) -> Option<Figures> {
        self.figures.get(&key(experiment)).copied()
    }

    /// Does the experiments that are not known yet, `jobs` at a time, each on one thread. Each
    /// comes with what to call it.
    pub fn complete(
        self,
        experiments: Vec<(String, Experiment)>,
        data: &Data,
        jobs: usize,
    ) -> Result<Self> {
        let mut todo: Vec<(String, Experiment)> = Vec::new();
        for (name, experiment) in experiments {
            let again = todo.iter().any(|(_, other)| *other == experiment);
            if !again && self.figures(&experiment).is_none() {
                todo.push((name, experiment));
            }
        }
        let total = todo.len();
        let known = Mutex::new(self);
        let queue = Mutex::new(todo.into_iter().enumerate());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<()> {
            // Each experiment has a pool of its own: threads of one must not wait for another's.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            while let Some((index, (name, experiment))) = next() {
                let started = Instant::now();
                let figures = pool.install(|| experiment.run(data))?;
                println!(
                    "[{}/{total}] {name}, seed {}: {:.4} nats ({:.0} s)",
                    index + 1,
                    experiment.seed,
                    figures.nats,
                    started.elapsed().as_secs_f64()
                );
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.add(&experiment, figures)?;
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
}

/// Everything that decides an experiment's figures.
fn key(experiment: &Experiment) -> String {
    serde_json::to_string(experiment).unwrap_or_default()
}
