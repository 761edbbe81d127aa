//! How far apart are two honest trainings of one assignment, and how far is a cheat?
//!
//! Trains a small model for a while, then one assignment over and over: on the same numerics
//! (the control, which must give the same bytes), cut into other micro-batches, in another form
//! of the operations, in bfloat16, and as cheats do it. Prints the distance that an audit
//! measures (`opengpu_merge::audit`), over many draws of chunks, and which part of the draws
//! each tolerance accuses or lets pass. The numbers behind `trust.audit_tolerance`.

use anyhow::Result;
use clap::Parser;
use opengpu_bench::{Data, Scale};
use opengpu_merge::Layout;
use opengpu_merge::audit::{Opened, draw_chunks, typical_length};
use opengpu_trainer::{Form, Forms, InnerLoop, Signals, fresh_weights};
use opengpu_trainer_protocol::{
    InnerSettings, InnerState, Optimizer, Precision, TensorShape, TrainRequest,
};

/// Distances between trainings of one assignment
#[derive(Parser)]
struct Arguments {
    /// Steps of the audited assignment
    #[arg(long, default_value_t = 20)]
    steps: u64,
    /// Steps before it
    #[arg(long, default_value_t = 400)]
    before: u64,
    /// Chunks that an audit opens
    #[arg(long, default_value_t = 8)]
    chunks: usize,
    /// Draws of chunks for each row
    #[arg(long, default_value_t = 1000)]
    draws: u64,
    /// Train hidden matrices with Muon instead of AdamW
    #[arg(long)]
    muon: bool,
    /// Seeds: of first weights, data and rows
    #[arg(long, default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
}

const TOLERANCES: [f64; 5] = [0.01, 0.03, 0.1, 0.25, 0.5];

/// How an assignment is trained for a row.
type Variant = (&'static str, Kind, fn(&mut Assignment));

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Honest,
    Cheat,
}

/// Everything that a row may change.
#[derive(Clone)]
struct Assignment {
    inner: InnerSettings,
    micro_batch: usize,
    form: Form,
    request: TrainRequest,
    /// Starts from the weights of a round before.
    stale: bool,
    /// What is claimed is so much of what was trained.
    claimed: f32,
    /// Length of noise on top, in parts of the progress.
    noise: f32,
    /// Part of the chunks whose sign is turned.
    turned: f64,
}

fn variants() -> Vec<Variant> {
    use Kind::{Cheat, Honest};
    vec![
        ("the same again", Honest, |_| ()),
        ("micro-batches of 4", Honest, |a| a.micro_batch = 4),
        ("micro-batches of 1", Honest, |a| a.micro_batch = 1),
        ("unfused operations", Honest, |a| a.form = Form::Plain),
        ("bfloat16", Honest, |a| {
            a.inner.precision = Precision::Bfloat16
        }),
        ("other data", Cheat, |a| a.request.seed += 1000),
        ("last tenth not trained", Cheat, |a| fewer(a, 9)),
        ("half not trained", Cheat, |a| fewer(a, 5)),
        ("nothing trained", Cheat, |a| a.claimed = 0.0),
        ("from the weights of a round before", Cheat, |a| {
            a.stale = true
        }),
        ("sign turned", Cheat, |a| a.claimed = -1.0),
        ("ten times too long", Cheat, |a| a.claimed = 10.0),
        ("a tenth too long", Cheat, |a| a.claimed = 1.1),
        ("noise of a half", Cheat, |a| a.noise = 0.5),
        ("noise of a tenth", Cheat, |a| a.noise = 0.1),
        ("sign turned in a tenth of the chunks", Cheat, |a| {
            a.turned = 0.1
        }),
    ]
}

fn fewer(assignment: &mut Assignment, tenths: u64) {
    let (start, end) = assignment.request.blocks[0];
    assignment.request.at_most_blocks = Some((end - start) * tenths / 10);
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let data = Data::prepare(Scale::Full)?;
    let layout = Layout::new(data.model.tensors().iter().map(TensorShape::len));
    let mut rows: Vec<(&str, Kind, Vec<f64>)> = variants()
        .into_iter()
        .map(|(name, kind, _)| (name, kind, Vec::new()))
        .collect();
    for &seed in &arguments.seeds {
        let inner = InnerSettings {
            learning_rate: 8e-3,
            optimizer: match arguments.muon {
                true => Optimizer::Muon,
                false => Optimizer::AdamW,
            },
            state: InnerState::Reset,
            precision: Precision::Float32,
            ..InnerSettings::default()
        };
        let (older, base) = prepared(&data, &inner, &arguments, seed)?;
        let assignment = Assignment {
            micro_batch: inner.batch_sequences,
            form: Form::Fused,
            request: request(&data, &inner, seed, (arguments.before, arguments.steps)),
            inner,
            stale: false,
            claimed: 1.0,
            noise: 0.0,
            turned: 0.0,
        };
        let auditor = trained(&data, &assignment, &base)?;
        let typical = typical_length(&layout, &base, &auditor);
        for ((_, _, change), row) in variants().into_iter().zip(&mut rows) {
            let mut own = assignment.clone();
            change(&mut own);
            let from = if own.stale { &older } else { &base };
            let local = trained(&data, &own, from)?;
            let progress = claimed(&own, &layout, from, &local, seed);
            let each = distances(&layout, &progress, (&base, &auditor), typical);
            for draw in 0..arguments.draws {
                let drawn = draw_chunks(&layout, draw, arguments.chunks);
                row.2
                    .push(drawn.iter().map(|at| each[*at]).fold(0.0, f64::max));
            }
        }
    }
    print(&arguments, &layout, &mut rows);
    Ok(())
}

/// Weights of a run that goes on, and those of a round before.
fn prepared(
    data: &Data,
    inner: &InnerSettings,
    arguments: &Arguments,
    seed: u64,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let inner = InnerSettings {
        state: InnerState::Carry,
        ..inner.clone()
    };
    let mut tokens = data.training()?;
    let mut training = InnerLoop::new(&data.model, &inner);
    let first = fresh_weights(&data.model, seed);
    let round = arguments.steps;
    let mut go = |weights, from, steps| {
        let request = request(data, &inner, seed, (from, steps));
        let signals = Signals::default();
        training.train(weights, &mut tokens, &request, &signals, &mut |_| ())
    };
    let (_, older) = go(first, 0, arguments.before - round)?;
    let (_, base) = go(older.clone(), arguments.before - round, round)?;
    Ok((older, base))
}

fn request(
    data: &Data,
    inner: &InnerSettings,
    seed: u64,
    (from, steps): (u64, u64),
) -> TrainRequest {
    let whole = 2000.0;
    TrainRequest {
        blocks: vec![(from, from + steps)],
        blocks_per_epoch: data.blocks(inner.batch_sequences),
        block_sequences: inner.batch_sequences,
        seed,
        progress_from: from as f64 / whole,
        progress_to: (from + steps) as f64 / whole,
        at_most_blocks: None,
        out: Default::default(),
        slowdown: 1.0,
    }
}

fn trained(data: &Data, assignment: &Assignment, base: &[f32]) -> Result<Vec<f32>> {
    let (_, local) = InnerLoop::new(&data.model, &assignment.inner)
        .with_micro_batch(assignment.micro_batch)
        .with_forms(Forms::all(assignment.form))
        .train(
            base.to_vec(),
            &mut data.training()?,
            &assignment.request,
            &Signals::default(),
            &mut |_| (),
        )?;
    Ok(local)
}

/// The progress that the worker commits itself to.
fn claimed(own: &Assignment, layout: &Layout, from: &[f32], local: &[f32], seed: u64) -> Vec<f32> {
    let mut progress: Vec<f32> = from.iter().zip(local).map(|(g, l)| g - l).collect();
    let length: f32 = progress.iter().map(|p| p * p).sum::<f32>().sqrt();
    let scale = own.noise * length / (progress.len() as f32).sqrt();
    let mut state = seed;
    for value in &mut progress {
        // A sum of four uniform numbers, near enough to a bell curve of variance 1/3.
        let bell: f32 = (0..4).map(|_| uniform(&mut state) - 0.5).sum();
        *value = *value * own.claimed + scale * bell * 3f32.sqrt();
    }
    let turned = (layout.chunk_count() as f64 * own.turned).ceil() as usize;
    if own.turned > 0.0 {
        let end = (turned * opengpu_merge::CHUNK).min(progress.len());
        progress[..end]
            .iter_mut()
            .for_each(|value| *value = -*value);
    }
    progress
}

fn uniform(state: &mut u64) -> f32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1u32 << 24) as f32
}

/// The distance of each chunk, in order.
fn distances(
    layout: &Layout,
    progress: &[f32],
    (base, auditor): (&[f32], &[f32]),
    typical: f64,
) -> Vec<f64> {
    let chunks = layout.chunk_ranges();
    chunks
        .enumerate()
        .map(|(chunk, range)| {
            let opened = Opened {
                start: range.start,
                chunk,
                unsent: 0.0,
                progress: progress[range].to_vec(),
            };
            opened.distance(base, auditor, typical)
        })
        .collect()
}

fn print(arguments: &Arguments, layout: &Layout, rows: &mut [(&str, Kind, Vec<f64>)]) {
    println!(
        "{} of {} chunks drawn, {} draws for each of {} seeds, {} steps after {}\n",
        arguments.chunks,
        layout.chunk_count(),
        arguments.draws,
        arguments.seeds.len(),
        arguments.steps,
        arguments.before
    );
    let header = TOLERANCES.map(|tolerance| format!("{tolerance}"));
    println!(
        "| trained | | least | median | largest | accused at {} |",
        header.join(" | ")
    );
    println!("|---|---|---|---|---|{}", "---|".repeat(TOLERANCES.len()));
    for (name, kind, distances) in rows {
        distances.sort_by(f64::total_cmp);
        let kind = match kind {
            Kind::Honest => "honest",
            Kind::Cheat => "cheat",
        };
        let accused = TOLERANCES.map(|tolerance| {
            let over = distances.iter().filter(|distance| **distance > tolerance);
            format!(
                "{:.1} %",
                100.0 * over.count() as f64 / distances.len() as f64
            )
        });
        println!(
            "| {name} | {kind} | {:.2e} | {:.2e} | {:.2e} | {} |",
            distances[0],
            distances[distances.len() / 2],
            distances[distances.len() - 1],
            accused.join(" | ")
        );
    }
}
