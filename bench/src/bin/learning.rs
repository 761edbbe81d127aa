//! Does a fleet that exchanges little learn as well as one that exchanges everything?
//!
//! Trains the same small model on the same tokens with synchronous data-parallel and with
//! fleets in each sync mode, and prints a table: held-out loss, distance to data-parallel,
//! bytes up and down per parameter and round. Each finished row is also a JSON line in
//! `--log`, so that a long table can be made in pieces: rows in the log are not run again.

use std::{collections::HashMap, io::Write, path::PathBuf, sync::Mutex, time::Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use opengpu_bench::{Data, Federated, Figures, Scale, synchronous};
use opengpu_protocol::{Codec, SyncSettings};
use opengpu_trainer_protocol::InnerSettings;

/// The learning experiment
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  learning --short                 minutes; fails when learning got worse\n  learning --only w8 --seeds 3     the rows with 8 workers, three seeds\n  learning --log bench/learning.jsonl"
)]
struct Arguments {
    /// A few rows at a small scale, with limits that must hold
    #[arg(long)]
    short: bool,
    /// Rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Learning rates to tune over
    #[arg(long, value_delimiter = ',', default_values_t = [2e-3, 4e-3, 8e-3])]
    rates: Vec<f64>,
    /// Seeds of each row
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Rounds
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// Inner steps in a round (H)
    #[arg(long, default_value_t = 20)]
    steps: u64,
    /// Experiments at a time, each on one thread
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Finished rows, as JSON lines
    #[arg(long)]
    log: Option<PathBuf>,
}

/// A row of the table.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    synchronous: bool,
    setting: Federated,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scale = if arguments.short {
        Scale::Short
    } else {
        Scale::Full
    };
    let data = Data::prepare(scale)?;
    println!(
        "{} parameters, {} training tokens, {} held out\n",
        data.model.parameters(),
        data.training.tokens,
        data.held_out.tokens
    );
    let rows = if arguments.short {
        short_rows()
    } else {
        full_rows(&arguments)
    };
    let figures = run_all(rows, &data, &arguments)?;
    print_table(&figures);
    if arguments.short {
        check(&figures)?;
    }
    Ok(())
}

fn sparse(k: u16, down: u16) -> SyncSettings {
    SyncSettings {
        up: Codec::Sparse { k },
        down: Codec::Sparse { k: down },
        ..SyncSettings::default()
    }
}

/// Exchanged exactly, plain mean: what rounds cost without compression.
fn exact() -> SyncSettings {
    SyncSettings {
        up: Codec::Float32,
        down: Codec::Float32,
        feedback_decay: 1.0,
        down_feedback_decay: 1.0,
        tau: 0.0,
        outer_rate: 1.0,
        ..SyncSettings::default()
    }
}

fn nesterov(up: Codec, rate: f32, momentum: f32) -> SyncSettings {
    SyncSettings {
        up,
        down: Codec::Int8,
        outer_rate: rate,
        outer_momentum: momentum,
        nesterov: true,
        ..exact()
    }
}

fn full_rows(arguments: &Arguments) -> Vec<Row> {
    let mut modes = vec![
        ("exact mean".to_owned(), exact()),
        (
            "dense float32, Nesterov 0.7/0.9".into(),
            nesterov(Codec::Float32, 0.7, 0.9),
        ),
        (
            "dense int4, Nesterov 0.7/0.9".into(),
            nesterov(Codec::Int4, 0.7, 0.9),
        ),
        (
            "dense int4, Nesterov 0.8/0.5".into(),
            nesterov(Codec::Int4, 0.8, 0.5),
        ),
    ];
    for (k, down) in [(64, 512), (128, 512), (128, 1536), (248, 1024), (248, 1536)] {
        modes.push((format!("sparse k={k} down {down}"), sparse(k, down)));
    }
    let gentle = SyncSettings {
        outer_rate: 1.0,
        tau: 0.0,
        ..sparse(248, 1536)
    };
    modes.push((
        "sparse k=248 down 1536, rate 1, no floor".into(),
        gentle.clone(),
    ));
    let patient = SyncSettings {
        feedback_decay: 0.95,
        ..gentle
    };
    modes.push((
        "sparse k=248 down 1536, rate 1, no floor, decay 0.95".into(),
        patient,
    ));
    modes.push((
        "sparse k=128 up, merge exact".into(),
        SyncSettings {
            down: Codec::Float32,
            ..sparse(128, 512)
        },
    ));
    let mut rows = Vec::new();
    for workers in [1, 2, 4, 8, 32] {
        for seed in 1..=arguments.seeds {
            for &rate in &arguments.rates {
                let setting = |sync: &SyncSettings| Federated {
                    workers,
                    rounds: arguments.rounds,
                    steps: arguments.steps,
                    sync: sync.clone(),
                    inner: InnerSettings {
                        learning_rate: rate,
                        ..InnerSettings::default()
                    },
                    seed,
                };
                rows.push(Row {
                    name: format!("w{workers} data-parallel"),
                    synchronous: true,
                    setting: setting(&exact()),
                });
                for (name, sync) in &modes {
                    let name = format!("w{workers} {name}");
                    rows.push(Row {
                        name,
                        synchronous: false,
                        setting: setting(sync),
                    });
                }
            }
        }
    }
    if let Some(only) = &arguments.only {
        rows.retain(|row| row.name.contains(only.as_str()));
    }
    rows
}

/// Few rounds say nothing about fine differences, but much about something broken.
fn short_rows() -> Vec<Row> {
    let setting = |sync: SyncSettings| Federated {
        workers: 4,
        rounds: 30,
        steps: 10,
        sync,
        inner: InnerSettings::default(),
        seed: 1,
    };
    let row = |name: &str, synchronous, sync| Row {
        name: name.into(),
        synchronous,
        setting: setting(sync),
    };
    vec![
        row("data-parallel", true, exact()),
        row("exact mean", false, exact()),
        row("default sparse", false, SyncSettings::default()),
    ]
}

type Done = Vec<(Row, Figures)>;

fn run_all(rows: Vec<Row>, data: &Data, arguments: &Arguments) -> Result<Done> {
    let known = read_log(arguments)?;
    let log = arguments.log.as_ref().map(|file| {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
    });
    let log = Mutex::new(log.transpose()?);
    let total = rows.len();
    let queue = Mutex::new(rows.into_iter().enumerate());
    let done: Mutex<Vec<(usize, Row, Figures)>> = Mutex::default();
    let work = || -> Result<()> {
        // Each experiment has a pool of its own: threads of one must not wait for another's.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let next = queue.lock().map_or(None, |mut queue| queue.next());
            let Some((index, row)) = next else {
                return Ok(());
            };
            let key = key(&row);
            let started = Instant::now();
            let figures = match known.get(&key) {
                Some(figures) => *figures,
                None => pool.install(|| match row.synchronous {
                    true => synchronous(&row.setting, data),
                    false => row.setting.run(data),
                })?,
            };
            if !known.contains_key(&key) {
                println!(
                    "[{}/{total}] {key}: {:.4} nats ({:.0} s)",
                    index + 1,
                    figures.nats,
                    started.elapsed().as_secs_f64()
                );
                if let Ok(mut log) = log.lock()
                    && let Some(file) = log.as_mut()
                {
                    let line = serde_json::json!({ "key": key, "figures": figures });
                    writeln!(file, "{line}")?;
                }
            }
            if let Ok(mut done) = done.lock() {
                done.push((index, row, figures));
            }
        }
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..arguments.jobs.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        jobs.into_iter().try_for_each(|job| match job.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("an experiment panicked"),
        })
    })?;
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, ..)| *index);
    Ok(done
        .into_iter()
        .map(|(_, row, figures)| (row, figures))
        .collect())
}

/// Everything that decides a row's figures.
fn key(row: &Row) -> String {
    let Federated {
        rounds,
        steps,
        inner,
        seed,
        ..
    } = &row.setting;
    format!(
        "{} | lr {:.0e} | {rounds} x {steps} | seed {seed}",
        row.name, inner.learning_rate
    )
}

fn read_log(arguments: &Arguments) -> Result<HashMap<String, Figures>> {
    #[derive(serde::Deserialize)]
    struct Line {
        key: String,
        figures: Figures,
    }
    let text = match &arguments.log {
        Some(file) if file.exists() => std::fs::read_to_string(file)?,
        _ => String::new(),
    };
    text.lines()
        .map(|line| {
            let Line { key, figures } = serde_json::from_str(line)?;
            Ok((key, figures))
        })
        .collect()
}

/// One line for each name: the best learning rate by mean loss over seeds.
fn print_table(figures: &Done) {
    let mut names: Vec<&String> = Vec::new();
    for (row, _) in figures {
        if !names.contains(&&row.name) {
            names.push(&row.name);
        }
    }
    println!(
        "\n| setting | rate | nats/token | to data-parallel | up B/param | down B/param | rounds |"
    );
    println!("|---|---|---|---|---|---|---|");
    for name in names {
        let Some((rate, nats, row)) = best(figures, name) else {
            continue;
        };
        let workers = name.split(' ').next().unwrap_or_default();
        let control = best(figures, &format!("{workers} data-parallel"))
            .or_else(|| best(figures, "data-parallel"));
        let distance = control.map_or("-".into(), |(_, control, _)| {
            format!("{:+.1} %", (nats / control - 1.0) * 100.0)
        });
        println!(
            "| {name} | {rate:.0e} | {nats:.4} | {distance} | {:.4} | {:.4} | {} |",
            row.up, row.down, row.rounds
        );
    }
}

/// The learning rate with the least mean loss over seeds.
fn best<'a>(figures: &'a Done, name: &str) -> Option<(f64, f64, &'a Figures)> {
    let of_name = figures.iter().filter(|(row, _)| row.name == name);
    let mut by_rate: Vec<(f64, Vec<&Figures>)> = Vec::new();
    for (row, figures) in of_name {
        let rate = row.setting.inner.learning_rate;
        match by_rate.iter_mut().find(|(known, _)| *known == rate) {
            Some((_, list)) => list.push(figures),
            None => by_rate.push((rate, vec![figures])),
        }
    }
    by_rate
        .into_iter()
        .map(|(rate, list)| {
            let mean = list.iter().map(|figures| figures.nats).sum::<f64>() / list.len() as f64;
            (rate, mean, list[0])
        })
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// What the short form must show.
fn check(figures: &Done) -> Result<()> {
    let nats = |name: &str| best(figures, name).map_or(f64::NAN, |(_, nats, _)| nats);
    let (control, exact, sparse) = (
        nats("data-parallel"),
        nats("exact mean"),
        nats("default sparse"),
    );
    ensure!(
        control < SHORT_CONTROL_LIMIT,
        "data-parallel reaches {control:.4} nats per token; {SHORT_CONTROL_LIMIT} was reached before"
    );
    ensure!(
        exact < control * SHORT_EXACT_LIMIT,
        "rounds without compression are at {:.3} of data-parallel; {SHORT_EXACT_LIMIT} was reached before",
        exact / control
    );
    ensure!(
        sparse < control * SHORT_SPARSE_LIMIT,
        "the default is at {:.3} of data-parallel; {SHORT_SPARSE_LIMIT} was reached before",
        sparse / control
    );
    println!("\nlearning is as good as it was");
    Ok(())
}

/// Limits of the short form, a little above what was measured when they were set.
const SHORT_CONTROL_LIMIT: f64 = 4.2;
const SHORT_EXACT_LIMIT: f64 = 1.03;
const SHORT_SPARSE_LIMIT: f64 = 1.05;
