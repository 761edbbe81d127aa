//! Speed of one training step in plain and in fused operations: `speed [PRESET] [THREADS]`.
//!
//! Prints the fastest of several steps, since other programs only ever make one slower.

use std::time::Instant;

use burn::tensor::Device;
use opengpu_trainer::{Form, InnerLoop, Llama, Pair, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let preset = arguments.next().unwrap_or_else(|| "nano".into());
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let model = ModelConfig::preset(&preset)
        .ok_or_else(|| anyhow::anyhow!("There is no preset named `{preset}`."))?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    pool.install(|| measure(&preset, &model))
}

fn measure(preset: &str, model: &ModelConfig) -> anyhow::Result<()> {
    let settings = InnerSettings::default();
    let length = model.max_position_embeddings;
    let count = settings.batch_sequences * length;
    let token = |i: usize| ((i * i + i / 7) % model.vocab_size) as u32;
    let batch = Pair {
        inputs: (0..count).map(token).collect(),
        targets: (1..=count).map(token).collect(),
    };
    let mut weights = fresh_weights(model, 1);
    let mut gradient = vec![0.0; weights.len()];
    let threads = rayon::current_num_threads();
    println!(
        "{preset}: {} weights, {count} tokens a step, {threads} threads",
        weights.len()
    );
    let device = Device::flex().autodiff();
    for (name, form) in [("plain", Form::Plain), ("fused", Form::Fused)] {
        let gradients = fastest(|| {
            let llama = Llama::new(model, &weights, &device, form);
            llama.loss_and_gradient(&batch.inputs, &batch.targets, length, &mut gradient);
        });
        let losses = fastest(|| {
            let llama = Llama::new(model, &weights, &Device::flex(), form);
            llama.token_losses(&batch.inputs, &batch.targets, length);
        });
        tell(&format!("{name}, loss only"), losses, count);
        tell(&format!("{name}, loss and gradient"), gradients, count);
    }
    let mut training = InnerLoop::new(model, &settings);
    let mut failure = None;
    let step = fastest(|| {
        if let Err(error) = training.step(&mut weights, &batch, 1e-3) {
            failure = Some(error);
        }
    });
    tell("fused, with AdamW", step, count);
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Seconds of the fastest of several calls.
fn fastest(mut call: impl FnMut()) -> f64 {
    call();
    let seconds = (0..7).map(|_| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

fn tell(name: &str, seconds: f64, tokens: usize) {
    println!(
        "{name:28} {:8.1} ms  {:8.0} tokens/s",
        seconds * 1e3,
        tokens as f64 / seconds
    );
}
