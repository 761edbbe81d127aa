//! The trainer's speed and memory beside PyTorch's, on this machine: the same model, the
//! same batch, threads alike, in turns, medians.
//!
//!     cargo build --release --workspace && target/release/engine
//!
//! Makes the Python environment of the checks where it is missing. Memory is the peak of
//! each process; the first step is counted from the start of the process.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use opengpu_bench::turns::{Made, Peak, Ready, Runner, median};
use opengpu_trainer::{Form, Forms, InnerLoop, Pair, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig, Precision};
use serde::Serialize;

// The allocator of the trainer as it is released.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the trainer against PyTorch.
#[derive(Parser)]
#[command(after_help = "Examples:
  engine                                    the whole table
  engine --model 7m --context 256           one model
  engine --programs float32,torch-eager     two programs
  engine --without-torch                    the trainer alone")]
struct Options {
    /// Models (7m, 25m).
    #[arg(long, value_delimiter = ',', default_value = "7m,25m")]
    model: Vec<String>,
    /// Tokens in a sequence; a batch is 2,048 tokens, or one sequence if that is longer.
    #[arg(long, value_delimiter = ',', default_value = "256,1024")]
    context: Vec<usize>,
    /// Programs: float32, bfloat16, recompute (float32 with layers computed again), plain
    /// (float32 in ordinary Burn operations), plain-layers, plain-head, plain-optimiser (one
    /// part so), torch-eager, torch-compile, torch-eager-bf16, torch-compile-bf16.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "float32,bfloat16,torch-eager,torch-compile,torch-eager-bf16"
    )]
    programs: Vec<String>,
    /// Leave out PyTorch.
    #[arg(long)]
    without_torch: bool,
    /// Turns of each program.
    #[arg(long, default_value_t = 7)]
    turns: usize,
    /// Steps in a turn.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Threads of every program.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Print a line of JSON for each row instead.
    #[arg(long)]
    json: bool,
    /// Train in this process when told to: model file, sequences, program.
    #[arg(long, num_args = 3, hide = true)]
    train: Option<Vec<String>>,
}

/// A row of the table.
#[derive(Serialize)]
struct Row {
    model: String,
    parameters: usize,
    context: usize,
    program: String,
    tokens_per_second: f64,
    step_seconds: f64,
    peak_bytes: u64,
    first_step_seconds: f64,
    /// Median over the turns of this program's speed by that of each other one.
    speed_by: Vec<(String, f64)>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(arguments) = &options.train {
        return train(arguments);
    }
    let mut programs = options.programs.clone();
    programs.retain(|program| !(options.without_torch && program.starts_with("torch")));
    let python = match programs.iter().any(|program| program.starts_with("torch")) {
        true => Some(python()?),
        false => None,
    };
    let folder = tempfile::tempdir()?;
    for model in &options.model {
        for &context in &options.context {
            let config = config(model, context)?;
            let file = folder.path().join(format!("{model}-{context}.json"));
            std::fs::write(&file, serde_json::to_vec(&config)?)?;
            let rows = measure(
                &options,
                &programs,
                python.as_deref(),
                model,
                context,
                &file,
            )?;
            tell(&options, &rows)?;
        }
    }
    Ok(())
}

fn config(model: &str, context: usize) -> Result<ModelConfig> {
    let base = match model {
        "7m" => ModelConfig {
            tie_word_embeddings: false,
            ..ModelConfig::preset("micro").context("a preset")?
        },
        "25m" => ModelConfig {
            vocab_size: 4096,
            ..ModelConfig::preset("mini").context("a preset")?
        },
        preset => ModelConfig::preset(preset)
            .with_context(|| format!("no model `{preset}`; there are 7m, 25m and the presets"))?,
    };
    Ok(ModelConfig {
        max_position_embeddings: context,
        ..base
    })
}

fn measure(
    options: &Options,
    programs: &[String],
    python: Option<&Path>,
    model: &str,
    context: usize,
    file: &Path,
) -> Result<Vec<Row>> {
    let sequences = (2048 / context).max(1);
    let mut runners = Vec::new();
    for program in programs {
        let command = command(program, python, file, sequences, options.threads)?;
        let runner = Runner::start(command)?;
        eprintln!(
            "{model}, context {context}, {program}: first step after {:.1} s, loss {:.4}",
            runner.first_step_seconds, runner.ready.loss
        );
        runners.push(runner);
    }
    // The first turn only warms up.
    let mut turns: Vec<Vec<f64>> = vec![Vec::new(); runners.len()];
    for turn in 0..=options.turns {
        for (runner, seconds) in runners.iter_mut().zip(&mut turns) {
            let median = runner.make(options.steps)?;
            if turn > 0 {
                seconds.push(median);
            }
        }
    }
    let tokens = (sequences * context) as f64;
    let mut rows = Vec::new();
    for (index, (runner, program)) in runners.into_iter().zip(programs).enumerate() {
        let seconds = median(turns[index].clone());
        let speed_by = turns
            .iter()
            .zip(programs)
            .filter(|(_, other)| *other != program);
        let speed_by = speed_by.map(|(others, other)| {
            let pairs = others.iter().zip(&turns[index]);
            (
                other.clone(),
                median(pairs.map(|(other, own)| other / own).collect()),
            )
        });
        rows.push(Row {
            model: model.to_owned(),
            parameters: runner.ready.parameters,
            context,
            program: program.clone(),
            tokens_per_second: tokens / seconds,
            step_seconds: seconds,
            first_step_seconds: runner.first_step_seconds,
            speed_by: speed_by.collect(),
            peak_bytes: runner.end()?,
        });
    }
    Ok(rows)
}

fn tell(options: &Options, rows: &[Row]) -> Result<()> {
    if options.json {
        for row in rows {
            println!("{}", serde_json::to_string(row)?);
        }
        return Ok(());
    }
    for row in rows {
        let by: Vec<String> = row
            .speed_by
            .iter()
            .map(|(other, ratio)| format!("{ratio:.2} x {other}"))
            .collect();
        println!(
            "{:4} {:4}  {:18} {:7.0} tokens/s  {:6.3} s a step  {:6.0} MB  first step {:5.1} s  {}",
            row.model,
            row.context,
            row.program,
            row.tokens_per_second,
            row.step_seconds,
            row.peak_bytes as f64 / 1e6,
            row.first_step_seconds,
            by.join(", ")
        );
    }
    Ok(())
}

fn command(
    program: &str,
    python: Option<&Path>,
    file: &Path,
    sequences: usize,
    threads: usize,
) -> Result<Command> {
    let mut command = match (program.strip_prefix("torch-"), python) {
        (Some(mode), Some(python)) => {
            let mut command = Command::new(python);
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/pytorch.py");
            command
                .arg(script)
                .arg(file)
                .arg(sequences.to_string())
                .arg(mode);
            command
        }
        _ => {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .arg("--train")
                .arg(file)
                .arg(sequences.to_string())
                .arg(program);
            command
        }
    };
    let threads = threads.to_string();
    command
        .env("OPENGPU_THREADS", &threads)
        .env("OMP_NUM_THREADS", &threads);
    Ok(command)
}

/// The Python of the checks, with PyTorch; made where it is missing.
fn python() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/checks/environment.sh");
    let output = Command::new("sh")
        .arg(script)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "the Python environment could not be made"
    );
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// The trainer's side, as pytorch.py is the other's.
fn train(arguments: &[String]) -> Result<()> {
    let [file, sequences, program] = arguments else {
        unreachable!("clap takes three");
    };
    let model: ModelConfig = serde_json::from_slice(&std::fs::read(file)?)?;
    let sequences: usize = sequences.parse()?;
    let (mut precision, mut recompute) = (Precision::Float32, false);
    let mut forms = Forms::all(Form::Fused);
    match program.as_str() {
        "float32" => {}
        "bfloat16" => precision = Precision::Bfloat16,
        "recompute" => recompute = true,
        "plain" => forms = Forms::all(Form::Plain),
        "plain-layers" => forms.layers = Form::Plain,
        "plain-head" => forms.head = Form::Plain,
        "plain-optimiser" => forms.optimiser = Form::Plain,
        other => anyhow::bail!("no program `{other}`; --help names them"),
    }
    let threads = std::env::var("OPENGPU_THREADS")?.parse()?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    let settings = InnerSettings {
        batch_sequences: sequences,
        precision,
        recompute,
        ..InnerSettings::default()
    };
    pool.install(|| steps(&model, &settings, forms))
}

fn steps(model: &ModelConfig, settings: &InnerSettings, forms: Forms) -> Result<()> {
    let length = model.max_position_embeddings;
    let count = settings.batch_sequences * length;
    let token = |i: usize| ((i * i + i / 7) % model.vocab_size) as u32;
    let batch = Pair {
        inputs: (0..count).map(token).collect(),
        targets: (1..=count).map(token).collect(),
    };
    let mut training = InnerLoop::new(model, settings).with_forms(forms);
    let mut llama = training.place(&fresh_weights(model, 1));
    let loss = training.step(&mut llama, &batch, 1e-3)?;
    say(&Ready {
        name: training.numerics_class(),
        parameters: model.parameters(),
        loss,
    })?;
    for line in std::io::stdin().lock().lines() {
        let mut made = Made {
            seconds: Vec::new(),
            loss: f64::NAN,
        };
        for _ in 0..line?.trim().parse()? {
            let start = Instant::now();
            made.loss = training.step(&mut llama, &batch, 1e-3)?;
            made.seconds.push(start.elapsed().as_secs_f64());
        }
        say(&made)?;
    }
    say(&Peak {
        peak_bytes: opengpu_bench::memory::peak_bytes()?,
    })
}

fn say(words: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(words)?);
    Ok(())
}
