//! What do hostile workers do to a run?
//!
//! Trains a small model with fleets in which some workers attack, with each rule of
//! aggregation that a file asks for, with audits or without, and prints a table: held-out loss
//! against the same fleet without attackers and against its honest workers alone, how much
//! honest and hostile updates counted, and how soon attackers were in quarantine. Each finished
//! experiment is a JSON line in a log and is not done again.

mod grid;
mod outcome;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use opengpu_bench::{Data, Doing, Known};

use crate::grid::{Grid, Row};
use crate::outcome::Outcome;

/// The attack grid
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  attacks bench/attacks/short.toml      what CI runs; fails when an attack does more than it should\n  attacks bench/attacks/main.toml --log bench/attacks/log.jsonl\n  attacks bench/attacks/main.toml --log bench/attacks/log.jsonl --known"
)]
struct Arguments {
    /// Declares the grid
    grid: PathBuf,
    #[command(flatten)]
    doing: Doing,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let grid = Grid::read(&arguments.grid)?;
    let rows = grid.rows();
    let mut known = Known::open(arguments.doing.log.as_deref())?;
    if !arguments.doing.known {
        let data = Data::prepare(grid.scale)?;
        println!("{} parameters\n", data.model.parameters());
        known = known.complete(grid.experiments(&rows), &data, arguments.doing.jobs)?;
    }
    let outcomes: Vec<(&Row, Outcome)> = rows
        .iter()
        .filter_map(|row| Some((row, Outcome::of(row, &known)?)))
        .collect();
    outcome::print(&outcomes);

    for (row, outcome) in &outcomes {
        if let Some(limit) = &row.limit {
            outcome.check(row, limit)?;
        }
    }
    Ok(())
}
