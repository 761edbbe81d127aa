//! Looks inside the trainer for the comparison with `transformers`
//! (`python/checks/compare_transformers.py`).
//!
//! Without arguments it is a trainer on its standard streams. With a folder it reads
//! `case.json` and `weights.f32` there and writes what the model makes of them:
//! `logits.f32`, `losses.f32`, `gradient.f32` and, after some optimiser steps on the same
//! batch, `trained.f32`.

use std::path::Path;

use anyhow::Context;
use opengpu_trainer::{Compute, InnerLoop, Llama, Pair};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig, Precision};
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1) {
        Some(folder) => probe(Path::new(&folder)),
        None => opengpu_trainer::run(),
    }
}

fn probe(folder: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(folder.join("case.json")).context("case.json")?;
    let case: Value = serde_json::from_str(&text)?;
    let model: ModelConfig = serde_json::from_value(case["model"].clone())?;
    let sequences: Vec<Vec<u32>> = serde_json::from_value(case["sequences"].clone())?;
    let inner = InnerSettings {
        precision: Precision::Float32,
        ..serde_json::from_value(case["inner"].clone())?
    };
    let steps = case["steps"].as_u64().context("steps")?;
    let rate = case["rate"].as_f64().context("rate")?;
    let weights = read(&folder.join("weights.f32"))?;

    let length = model.max_position_embeddings;
    let mut batch = Pair::default();
    for sequence in &sequences {
        batch.inputs.extend(&sequence[..length]);
        batch.targets.extend(&sequence[1..=length]);
    }
    let compute = Compute {
        document_mask: inner.document_mask,
        ..Compute::float32()
    };
    let mut llama = Llama::new(&model, &weights, &compute);
    let mut logits = Vec::new();
    for sequence in &sequences {
        logits.extend(llama.logits(&sequence[..length], length));
    }
    write(&folder.join("logits.f32"), &logits)?;
    let losses = llama.token_losses(&batch.inputs, &batch.targets, length);
    write(&folder.join("losses.f32"), &losses)?;
    let (inputs, targets) = (&batch.inputs, &batch.targets);
    let (_, gradient) = llama.loss_and_gradient(inputs, targets, length, 1.0);
    write(&folder.join("gradient.f32"), &gradient.numbers())?;

    let mut training = InnerLoop::new(&model, &inner);
    let mut llama = training.place(&weights);
    for _ in 0..steps {
        training.step(&mut llama, &batch, rate)?;
    }
    write(&folder.join("trained.f32"), &llama.weights())
}

fn read(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

fn write(path: &Path, numbers: &[f32]) -> anyhow::Result<()> {
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
