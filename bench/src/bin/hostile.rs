//! What a hostile network costs honest nodes: the median time of an honest node's requests
//! before and during each attack, and the most memory that the coordinator held. Fails when
//! honest requests take more than twice their usual time, memory passes its bound, bad input
//! is taken or answered with a server's fault, or a log tells a secret.
//!
//! `cargo build --release --workspace && target/release/hostile`

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use opengpu_bench::hostile::{attack_all, memory_bound};
use opengpu_coordinator::ConnectionSettings;

/// How many times its usual time an honest request may take during an attack.
const MOST_TIMES: f64 = 2.0;

/// A hostile network against a real coordinator
#[derive(Parser)]
#[command(after_help = "Examples:\n  hostile\n  hostile --seconds 30")]
struct Arguments {
    /// Shortest time of each attack
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = ConnectionSettings::default();
    let bound = memory_bound(&settings);
    let outcome = attack_all(Duration::from_secs(arguments.seconds), settings).await?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "| attack | sent | accepted | refused | closed | held | honest requests | median, ms | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let usual = milliseconds(outcome.usual);
    println!("| none | | | | | | | {usual:.2} | 1 |");
    for row in &outcome.rows {
        let tally = &row.tally;
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {:.2} | {:.2} |",
            row.kind.name(),
            tally.sent(),
            tally.accepted,
            tally.refused,
            tally.closed,
            tally.silent,
            row.answered,
            milliseconds(row.median),
            milliseconds(row.median) / usual,
        );
    }
    println!(
        "\nMost memory of the coordinator: {:.0} MB before, {:.0} MB in the end, {:.0} MB allowed.",
        outcome.usual_peak_bytes as f64 / 1e6,
        outcome.peak_bytes as f64 / 1e6,
        bound as f64 / 1e6
    );
    for row in &outcome.rows {
        if let Some(wrong) = row.tally.wrong() {
            bail!("{}: {wrong}", row.kind.name());
        }
    }
    ensure!(outcome.told.is_empty(), "logged: {:?}", outcome.told);
    ensure!(
        outcome.peak_bytes <= bound,
        "the coordinator held {} bytes",
        outcome.peak_bytes
    );
    let (ratio, name) = outcome.slowest().context("no attack was tried")?;
    ensure!(
        ratio <= MOST_TIMES,
        "honest requests took {ratio:.2} times as long as usual during: {name}"
    );
    Ok(())
}
