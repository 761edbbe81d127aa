//! What a real fleet costs: how busy its workers are when one is much slower than the rest,
//! what goes over each node's link, what its processes take of memory and disk, and how soon
//! a node knows what became of its updates.
//!
//! Starts a coordinator and nodes as processes of their own, has them train a run to its
//! end, and prints one table for each question. Reads `/proc`, so it needs Linux.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use opengpu_bench::installation::{Installation, Said, Usage};
use opengpu_bench::relay::Carried;
use opengpu_protocol::Client;
use opengpu_protocol::operator::LogEntry;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::{EventKind, RunId};
use opengpu_trainer_protocol::ModelConfig;

/// How long after the check a node may learn what became of its update.
const MOST_UNTIL_KNOWN: Duration = Duration::from_secs(2);

/// What a real fleet costs
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  fleet                                        three nano workers, one four times as slow\n  fleet --preset mini --rounds 4 --seconds 30  memory and disk of a larger model"
)]
struct Arguments {
    /// Model
    #[arg(long, default_value = "nano")]
    preset: String,
    /// One node for each: how many times as long as it could it takes
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 1.0, 4.0])]
    slowdowns: Vec<f64>,
    /// Rounds
    #[arg(long, default_value_t = 12)]
    rounds: u64,
    /// Length of a round
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds between base checkpoints
    #[arg(long, default_value_t = 10)]
    checkpoint_every: u64,
    /// Sequences in a block, and in an optimiser step
    #[arg(long, default_value_t = 8)]
    batch: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let model = ModelConfig::preset(&arguments.preset)
        .with_context(|| format!("no preset is called '{}'", arguments.preset))?;
    ensure!(arguments.rounds >= 3, "the figures need at least 3 rounds");
    let mut fleet = Installation::start().await?;
    fleet.add_corpus(model.vocab_size)?;
    for &slowdown in &arguments.slowdowns {
        fleet.join(slowdown).await?;
    }
    let submitted = fleet.submit(&run_file(&arguments))?;
    let parameters = submitted
        .spec
        .model
        .as_ref()
        .context("the run has no model")?
        .parameters();
    println!("{parameters} parameters, {} workers", fleet.nodes.len());
    let client = fleet.client()?;

    wait(&client, submitted.run, |view| view.revision.number >= 1).await?;
    let before = Marks::of(&fleet)?;
    let view = wait(&client, submitted.run, |view| view.phase == "finished").await?;
    let after = Marks::of(&fleet)?;
    let log = client.whole_log(submitted.run).await?;

    print_busy(&fleet, &log, view.revision.number)?;
    let rounds = (view.revision.number - 1) as f64;
    print_bytes(&before, &after, &view, rounds, parameters as f64);
    print_memory(&fleet, &after, parameters as f64)?;
    print_verdicts(&fleet)?;
    Ok(())
}

fn run_file(arguments: &Arguments) -> String {
    let (rounds, workers) = (arguments.rounds, arguments.slowdowns.len());
    let (duration, batch) = (arguments.seconds * 1000, arguments.batch);
    let (preset, checkpoints) = (&arguments.preset, arguments.checkpoint_every);
    format!(
        "name = \"fleet\"\ndataset = \"corpus\"\npreset = \"{preset}\"\nseed = 1\nevaluate_every = 0\n\
         checkpoint_every = {checkpoints}\nblock_sequences = {batch}\n[inner]\nbatch_sequences = {batch}\n\
         [round]\nrounds = {rounds}\nmin_workers = {workers}\nmax_workers = {workers}\nquorum = 1\n\
         duration_ms = {duration}\ngrace_ms = {duration}\nforming_ms = 0\nmax_blocks = 100000\n\
         stretch = 1.25\n"
    )
}

/// Counters at one moment.
struct Marks {
    carried: Vec<Carried>,
    nodes: Vec<Usage>,
}

impl Marks {
    fn of(fleet: &Installation) -> Result<Self> {
        Ok(Self {
            carried: fleet
                .nodes
                .iter()
                .map(|node| node.relay.carried())
                .collect(),
            nodes: fleet
                .nodes
                .iter()
                .map(|node| node.usage())
                .collect::<Result<_>>()?,
        })
    }
}

async fn wait(client: &Client, run: RunId, until: impl Fn(&RunView) -> bool) -> Result<RunView> {
    loop {
        let view = client.run(run).await?;
        if until(&view) {
            return Ok(view);
        }
        if view.phase == "failed" {
            bail!("the run failed: {}", view.explanation);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Seconds in the trainer, over the seconds from the opening of the second round to the
/// merge of the last.
fn print_busy(fleet: &Installation, log: &[LogEntry], rounds: u64) -> Result<()> {
    let opened = log.iter().find_map(|entry| match entry.event.kind {
        EventKind::RoundOpened { round: 1, .. } => Some(entry.event.at_ms),
        _ => None,
    });
    let merged = log.iter().rev().find_map(|entry| match entry.event.kind {
        EventKind::Merged { .. } => Some(entry.event.at_ms),
        _ => None,
    });
    let (opened, merged) = opened.zip(merged).context("there was no second round")?;
    let seconds = (merged - opened) as f64 / 1000.0;
    println!(
        "\nFrom the opening of the second round to the last merge: {seconds:.1} s, {} rounds.\n",
        rounds - 1
    );
    println!("| node | slowed | rounds | busy, s | busy |\n|---|---|---|---|---|");
    for (index, node) in fleet.nodes.iter().enumerate() {
        let trained = node.trained()?;
        let counted: Vec<f64> = trained
            .iter()
            .filter(|(round, _)| *round >= 1)
            .map(|(_, seconds)| *seconds)
            .collect();
        let busy: f64 = counted.iter().sum();
        println!(
            "| {index} | {}× | {} | {busy:.1} | {:.1} % |",
            node.slowdown,
            counted.len(),
            100.0 * busy / seconds
        );
    }
    Ok(())
}

fn print_bytes(before: &Marks, after: &Marks, view: &RunView, rounds: f64, parameters: f64) {
    println!("\nPer round, after the first; over the link with all headers and heartbeats.\n");
    println!(
        "| node | up, bytes | per parameter | down, bytes | per parameter | to disk, bytes | per parameter |"
    );
    println!("|---|---|---|---|---|---|---|");
    for index in 0..after.carried.len() {
        let per_round = |after: u64, before: u64| (after - before) as f64 / rounds;
        let up = per_round(after.carried[index].up, before.carried[index].up);
        let down = per_round(after.carried[index].down, before.carried[index].down);
        let disk = per_round(
            after.nodes[index].disk_bytes,
            before.nodes[index].disk_bytes,
        );
        println!(
            "| {index} | {up:.0} | {:.4} | {down:.0} | {:.4} | {disk:.0} | {:.3} |",
            up / parameters,
            down / parameters,
            disk / parameters
        );
    }
    let updates: u64 = view.workers.iter().map(|worker| worker.accepted).sum();
    println!(
        "\nPayloads alone: {:.4} bytes up per parameter and update ({updates} updates).",
        view.upload_bytes as f64 / updates as f64 / parameters
    );
}

fn print_memory(fleet: &Installation, after: &Marks, parameters: f64) -> Result<()> {
    const MEGA: f64 = 1e6;
    println!("\n| process | peak memory, MB | allowed, MB |\n|---|---|---|");
    let coordinator = fleet.usage()?.peak_bytes as f64 / MEGA;
    println!(
        "| coordinator | {coordinator:.0} | {:.0} |",
        100.0 + 16.0 * parameters / MEGA
    );
    for (index, node) in after.nodes.iter().enumerate() {
        println!(
            "| agent of node {index} | {:.0} | {:.0} |",
            node.peak_bytes as f64 / MEGA,
            60.0 + 12.0 * parameters / MEGA
        );
    }
    Ok(())
}

/// From the coordinator's decision on an update, as its log has it, to the line in the log of
/// the update's own node.
fn print_verdicts(fleet: &Installation) -> Result<()> {
    /// What both say, and the field by which they mean the same.
    const DECISIONS: [(&str, &str, &str, &str); 2] = [
        (
            "accepted",
            "update accepted",
            "update accepted",
            "assignment",
        ),
        ("merged", "merge is durable", "update merged", "revision"),
    ];
    println!("\n| verdict | seen by nodes | after, median, ms | at most, ms |\n|---|---|---|---|");
    let decided = fleet.said()?;
    for (name, here, there, field) in DECISIONS {
        // Assignments are numbers in one log and text in the other.
        let key = |said: &Said| said.fields[field].to_string().replace('"', "");
        let decisions: BTreeMap<String, SystemTime> = decided
            .iter()
            .filter(|said| said.message() == here)
            .map(|said| (key(said), said.at))
            .collect();
        let mut after: Vec<Duration> = Vec::new();
        for node in &fleet.nodes {
            let seen = node.said()?;
            let seen = seen.iter().filter(|said| said.message() == there);
            // Who reads the answer before the log's line was written knew it at once.
            after.extend(seen.filter_map(|said| {
                let decided = decisions.get(&key(said))?;
                Some(said.at.duration_since(*decided).unwrap_or_default())
            }));
        }
        after.sort();
        let most = after.last().context("no node was told a verdict")?;
        println!(
            "| {name} | {} | {:.0} | {:.0} |",
            after.len(),
            after[after.len() / 2].as_secs_f64() * 1000.0,
            most.as_secs_f64() * 1000.0
        );
        ensure!(
            *most <= MOST_UNTIL_KNOWN,
            "a node knew {most:?} after the check that its update was {name}"
        );
    }
    Ok(())
}
