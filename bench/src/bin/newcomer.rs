//! What a newcomer sees of `opengpu up` once the binary is built: how soon the first round is
//! trained and merged, and what a whole run of the defaults learns. Fails when the model ends no
//! better than `xz -9e` on the held-out text, or the nodes end with different weights; times
//! are printed, never asserted.
//!
//! `cargo build --release --workspace && target/release/newcomer`

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Deserialize;

/// Times a newcomer's first minutes, each time with an empty home.
#[derive(Parser)]
#[command(after_help = "Examples:\n  newcomer\n  newcomer --starts 1 --no-whole-run")]
struct Arguments {
    /// How often the way to the first merged round is timed.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Leave out the whole run, which takes about five minutes.
    #[arg(long)]
    no_whole_run: bool,
}

/// What `up --exit --json` prints, as far as it is looked at.
#[derive(Deserialize)]
struct Outcome {
    rounds: u64,
    seconds: f64,
    held_out_before: Evaluation,
    held_out_after: Evaluation,
    xz_bits_per_byte: f64,
    digest: String,
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Evaluation {
    bits_per_byte: f64,
}

#[derive(Deserialize)]
struct Node {
    node: String,
    digest: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let program = std::env::current_exe()?.with_file_name("opengpu");
    ensure!(
        program.exists(),
        "{} does not exist; build it first: cargo build --release --workspace",
        program.display()
    );
    let mut starts = Vec::new();
    for _ in 0..arguments.starts {
        starts.push(first_round(&program)?.as_secs_f64());
    }
    starts.sort_by(f64::total_cmp);
    if let Some(median) = starts.get(starts.len() / 2) {
        println!("first round trained and merged after {median:.2} s (median of {starts:.2?})");
    }
    if !arguments.no_whole_run {
        whole_run(&program)?;
    }
    Ok(())
}

fn up(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["up", "--exit", "--listen", "127.0.0.1:0", "--home"])
        .arg(home);
    command
}

/// From the command to the line of the first merged round, home empty.
fn first_round(program: &Path) -> Result<Duration> {
    let home = tempfile::tempdir()?;
    let started = Instant::now();
    let mut child = up(program, home.path()).stdout(Stdio::piped()).spawn()?;
    let printed = child.stdout.take().context("its output is piped")?;
    let mut lines = BufReader::new(printed).lines();
    let first = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("round 1/")));
    let took = started.elapsed();
    first.context("it ended before its first round")??;
    // As by Ctrl-C, and read to the end, so that it stops its processes as for a person.
    Command::new("kill").arg(child.id().to_string()).status()?;
    lines.for_each(drop);
    let status = child.wait()?;
    ensure!(status.success(), "told to stop, it ended with {status}");
    Ok(took)
}

fn whole_run(program: &Path) -> Result<()> {
    let home = tempfile::tempdir()?;
    let output = up(program, home.path()).arg("--json").output()?;
    ensure!(
        output.status.success(),
        "`up` failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let outcome: Outcome = serde_json::from_slice(&output.stdout)?;
    let (before, after) = (outcome.held_out_before, outcome.held_out_after);
    println!(
        "{} rounds in {:.0} s: {:.3} → {:.3} bits per byte; xz -9e {:.3}",
        outcome.rounds,
        outcome.seconds,
        before.bits_per_byte,
        after.bits_per_byte,
        outcome.xz_bits_per_byte
    );
    for node in &outcome.nodes {
        ensure!(
            node.digest.as_ref() == Some(&outcome.digest),
            "{} ended with {:?}, not with {}",
            node.node,
            node.digest,
            outcome.digest
        );
    }
    ensure!(
        after.bits_per_byte < outcome.xz_bits_per_byte,
        "the model ended no better than xz"
    );
    Ok(())
}
