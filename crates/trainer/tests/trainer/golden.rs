//! Logits, losses, gradients and AdamW steps as torch and `transformers` computed them.
//!
//! The files are written by `python/checks/run.sh --golden`, which also runs the whole
//! comparison; weights are not stored, they follow from a seed.

use std::path::{Path, PathBuf};

use opengpu_trainer::{Compute, Form, Forms, InnerLoop, Llama, Pair, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig};
use serde_json::Value;

struct Case {
    folder: PathBuf,
    model: ModelConfig,
    inner: InnerSettings,
    steps: u64,
    rate: f64,
    sequences: Vec<Vec<u32>>,
    weights: Vec<f32>,
    batch: Pair,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    ["tied-grouped", "untied-full"]
        .map(|name| read_case(root.join(name)))
        .into()
}

fn read_case(folder: PathBuf) -> Case {
    let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
    let case: Value = serde_json::from_str(&text).unwrap();
    let model: ModelConfig = serde_json::from_value(case["model"].clone()).unwrap();
    // As compare_transformers.py does it: matrices six times as large, gains beside 1.
    let mut weights = fresh_weights(&model, 7);
    let mut start = 0;
    for tensor in model.tensors() {
        let end = start + tensor.len();
        for (weight, place) in weights[start..end].iter_mut().zip(start..) {
            *weight = match tensor.shape.len() {
                1 => (1.0 + 0.2 * (place as f64).sin()) as f32,
                _ => *weight * 6.0,
            };
        }
        start = end;
    }
    let sequences: Vec<Vec<u32>> = serde_json::from_value(case["sequences"].clone()).unwrap();
    let length = model.max_position_embeddings;
    let mut batch = Pair::default();
    for sequence in &sequences {
        batch.inputs.extend(&sequence[..length]);
        batch.targets.extend(&sequence[1..=length]);
    }
    Case {
        folder,
        model,
        inner: InnerSettings {
            precision: opengpu_trainer_protocol::Precision::Float32,
            ..serde_json::from_value(case["inner"].clone()).unwrap()
        },
        steps: case["steps"].as_u64().unwrap(),
        rate: case["rate"].as_f64().unwrap(),
        sequences,
        weights,
        batch,
    }
}

/// Asserts that numbers are those of a golden file, to 1e-4 of the largest.
fn assert_golden(case: &Case, name: &str, got: &[f32]) {
    let bytes = std::fs::read(case.folder.join(name)).unwrap();
    let golden: Vec<f32> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    assert_eq!(got.len(), golden.len(), "{name}");
    let largest = golden
        .iter()
        .fold(0.0f32, |most, number| most.max(number.abs()));
    for (place, (got, golden)) in got.iter().zip(&golden).enumerate() {
        let error = (got - golden).abs();
        let folder = case.folder.display();
        assert!(
            error <= 1e-4 * largest,
            "{folder}/{name}: number {place}: {got}, not {golden}"
        );
    }
}

#[test]
fn logits_losses_and_gradients_are_those_of_transformers() {
    for case in cases() {
        for form in [Form::Fused, Form::Plain] {
            let length = case.model.max_position_embeddings;
            let compute = Compute {
                forms: Forms::all(form),
                ..Compute::float32()
            };
            let mut llama = Llama::new(&case.model, &case.weights, &compute);
            let logits = |sequence: &Vec<u32>| llama.logits(&sequence[..length], length);
            let logits: Vec<f32> = case.sequences.iter().flat_map(logits).collect();
            assert_golden(&case, "logits.f32", &logits);
            let (inputs, targets) = (&case.batch.inputs, &case.batch.targets);
            assert_golden(
                &case,
                "losses.f32",
                &llama.token_losses(inputs, targets, length),
            );
            let (_, gradient) = llama.loss_and_gradient(inputs, targets, length, 1.0);
            assert_golden(&case, "gradient.f32", &gradient.numbers());
        }
    }
}

#[test]
fn a_few_steps_of_adamw_end_where_torch_ends() {
    for case in cases() {
        for micro_batch in [case.sequences.len(), 1] {
            let training = InnerLoop::new(&case.model, &case.inner);
            let mut training = training.with_micro_batch(micro_batch);
            let mut llama = training.place(&case.weights);
            for _ in 0..case.steps {
                training.step(&mut llama, &case.batch, case.rate).unwrap();
            }
            assert_golden(&case, "trained.f32", &llama.weights());
        }
    }
}
