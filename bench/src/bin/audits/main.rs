//! How often does an audit accuse the honest, and how often does it miss a cheat?
//!
//! Trains a small model for a while, then one round: an assignment on machines of several
//! numerics classes, and those of other honest workers. Then audits it as the product does
//! (`opengpu_merge::audit`), over many draws of chunks, with the tolerance that the product allows
//! the two classes (`crates/protocol/src/tolerance.rs`). Two tables: every pair of classes, both
//! honest, with the largest distance and the false alarms; and each cheat and each attack
//! (`bench/src/attack.rs`) with what is missed of it. The figures are in `docs/audits.md`.

mod lies;
mod machine;
mod rate;
mod round;
mod seen;
mod tables;

use anyhow::{Result, bail};
use clap::Parser;
use opengpu_bench::{Data, Scale, random};
use opengpu_merge::Layout;
use opengpu_merge::audit::draw_chunks;
use opengpu_protocol::{RunSpec, TrustSettings};
use opengpu_trainer_protocol::{Optimizer, TensorShape};

use crate::round::{Lengths, Round};
use crate::seen::History;
use crate::tables::{Honest, Lie};

/// False alarms and misses of audits
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  audits                                        what docs/audits.md has; a minute or two\n  audits --seeds 1 --draws 100                  a glance\n  audits --steps 200 --before 600 --seeds 1     rounds as long as real ones\n\nFails if a pair of honest machines is accused, or if something that is wrong in all chunks,\nby more than the widest tolerance, is missed at any."
)]
struct Arguments {
    /// Steps of the audited assignment
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps before it, at least as many as of the assignment
    #[arg(long, default_value_t = 400)]
    before: u64,
    /// Honest workers that the attackers see
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..))]
    workers: u64,
    /// Chunks that an audit opens; by default as many as a run that says nothing else
    #[arg(long)]
    chunks: Option<usize>,
    /// Audits of each pair and of each cheat: draws of chunks for each seed
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    draws: u64,
    /// Train hidden matrices with Muon instead of AdamW
    #[arg(long)]
    muon: bool,
    /// Seeds: of first weights, data, draws and noise
    #[arg(long, default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let lengths = Lengths {
        before: arguments.before,
        steps: arguments.steps,
        workers: arguments.workers,
    };
    lengths.check()?;
    let data = Data::prepare(Scale::Full)?;
    let layout = Layout::new(data.model.tensors().iter().map(TensorShape::len));
    let spec = round::spec(match arguments.muon {
        true => Optimizer::Muon,
        false => Optimizer::AdamW,
    });
    let chunks = arguments
        .chunks
        .unwrap_or(TrustSettings::default().audit_chunks);

    let (mut honest, mut lies) = (Vec::new(), Vec::new());
    for &seed in &arguments.seeds {
        let round = Round::train(&data, &spec, lengths, seed)?;
        let history = History::of(&layout, &spec, &round.before)?;
        let draws: Vec<Vec<usize>> = (0..arguments.draws)
            .map(|draw| {
                let number = random::mix(random::mix(seed) ^ draw);
                draw_chunks(&layout, number, chunks)
            })
            .collect();
        pairs(&round, &history, (&spec, &draws), &mut honest)?;
        cheats(&data, &round, &history, (&spec, &draws), &mut lies)?;
    }

    println!(
        "{chunks} of {} chunks drawn, {} draws for each of {} seeds, {} steps after {}\n",
        layout.chunk_count(),
        arguments.draws,
        arguments.seeds.len(),
        arguments.steps,
        arguments.before
    );
    tables::print_honest(&honest);
    println!();
    tables::print_lies(&lies);
    let complaints = tables::complaints(&honest, &lies);
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

/// Audits every machine's honest work by every machine.
fn pairs(
    round: &Round,
    history: &History,
    (spec, draws): (&RunSpec, &[Vec<usize>]),
    rows: &mut Vec<Honest>,
) -> Result<()> {
    let first = rows.is_empty();
    let mut place = 0;
    for worker in &round.machines {
        let opened = history.prove(&round.progress(&worker.first))?;
        for auditor in &round.machines {
            let local = &auditor.again;
            let distances = history.distances(&opened, (&round.base, local), draws);
            if first {
                rows.push(Honest {
                    worker: worker.name,
                    auditor: auditor.name,
                    allowed: round.allowed(spec, worker, auditor),
                    same_bytes: true,
                    distances: Vec::new(),
                });
            }
            let row = &mut rows[place];
            place += 1;
            row.same_bytes &= *local == worker.first;
            row.distances.extend(distances);
        }
    }
    Ok(())
}

/// Audits everything that a worker could send instead, once by an auditor of each kind.
fn cheats(
    data: &Data,
    round: &Round,
    history: &History,
    (spec, draws): (&RunSpec, &[Vec<usize>]),
    rows: &mut Vec<Lie>,
) -> Result<()> {
    let first = rows.is_empty();
    let auditors = round.auditors(spec);
    for (place, lie) in lies::all().into_iter().enumerate() {
        let opened = history.prove(&lie.tell(data, round)?)?;
        if first {
            rows.push(Lie::new(
                &lie,
                auditors.each_ref().map(|(_, allowed)| *allowed),
            ));
        }
        for (seen, (auditor, _)) in rows[place].seen.iter_mut().zip(&auditors) {
            let weights = (&round.base[..], &auditor.again[..]);
            seen.distances
                .extend(history.distances(&opened, weights, draws));
        }
    }
    Ok(())
}
