//! One tiny training step on a device, compared with the CPU's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::Device;
use opengpu_trainer_protocol::ModelConfig;

use crate::compute::{Compute, Form, Forms};
use crate::initialise;
use crate::kernels::precision::Precision;
use crate::model::Llama;

/// Largest difference from the CPU's result, as a part of the largest number of a tensor's
/// gradient. Tensor cores that round float32 to TF32 stay an order of magnitude below it.
const TOLERANCE: f32 = 0.02;
/// The same where factors are rounded to bfloat16, which has three bits less than TF32.
const TOLERANCE_BFLOAT16: f32 = 0.1;

/// Tokens of a sequence: more than a tile of attention, and no multiple of it.
const LENGTH: usize = 80;

/// A result of `work`, or why it panicked, in one line.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("the backend failed without a reason");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// Whether the device trains as the CPU does with such operations in such numbers; the error is
/// a clause for people.
pub fn probe(device: &Device, form: Form, precision: Precision) -> Result<(), String> {
    let tolerance = match precision {
        Precision::Float32 => TOLERANCE,
        Precision::Bfloat16 => TOLERANCE_BFLOAT16,
    };
    let model = model();
    let weights = initialise::weights(&model, 1);
    let compute = Compute {
        device: device.clone(),
        forms: Forms::all(form),
        precision,
        ..Compute::float32()
    };
    let (loss, gradient) = step(&model, &weights, &Compute::float32())?;
    let (found_loss, found) = step(&model, &weights, &compute)
        .map_err(|reason| format!("a tiny training step failed there ({reason})"))?;
    let wrong = |what: &str| Err(format!("it computes {what} differently from the CPU"));
    if !close(found_loss, loss, tolerance * loss.abs()) {
        return wrong("the loss of a tiny model");
    }
    let mut start = 0;
    for tensor in model.tensors() {
        let range = start..start + tensor.len();
        start = range.end;
        let (found, expected) = (&found[range.clone()], &gradient[range]);
        let largest = expected.iter().fold(0.0f32, |most, g| most.max(g.abs()));
        let same = found
            .iter()
            .zip(expected)
            .all(|(&found, &expected)| close(found, expected, tolerance * largest));
        if !same {
            return wrong(&format!("the gradient of {}", tensor.name));
        }
    }
    Ok(())
}

/// Whether two numbers are as close as they have to be; no number is close to a NaN.
fn close(found: f32, expected: f32, distance: f32) -> bool {
    (found - expected).abs() <= distance
}

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 300,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: LENGTH,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
    }
}

/// Loss and gradient of two short sequences.
fn step(
    model: &ModelConfig,
    weights: &[f32],
    compute: &Compute,
) -> Result<(f32, Vec<f32>), String> {
    let tokens: Vec<u32> = (0..2 * LENGTH + 1)
        .map(|place| ((place * place * 31 + place) % model.vocab_size) as u32)
        .collect();
    let (inputs, targets) = (&tokens[..2 * LENGTH], &tokens[1..]);
    caught(|| {
        let mut llama = Llama::new(model, weights, compute);
        let (loss, gradient) = llama.loss_and_gradient(inputs, targets, LENGTH, 1.0);
        (loss, gradient.numbers())
    })
}
