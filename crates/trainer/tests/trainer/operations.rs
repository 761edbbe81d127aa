//! The fused operations against the same in plain Burn operations, and both against finite
//! differences.

use opengpu_trainer::{Compute, Form, Forms, Llama, Precision, fresh_weights};
use opengpu_trainer_protocol::ModelConfig;

pub fn configs() -> Vec<(ModelConfig, usize)> {
    let model = ModelConfig {
        vocab_size: 61,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        max_position_embeddings: 12,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
    };
    let untied = ModelConfig {
        tie_word_embeddings: false,
        num_key_value_heads: 6,
        num_attention_heads: 6,
        ..model.clone()
    };
    // Longer than one block of queries, and no multiple of it.
    let long = ModelConfig {
        max_position_embeddings: 150,
        num_key_value_heads: 1,
        ..model.clone()
    };
    let ones = ModelConfig {
        vocab_size: 3,
        hidden_size: 2,
        intermediate_size: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        num_hidden_layers: 1,
        max_position_embeddings: 3,
        ..model.clone()
    };
    vec![(model, 12), (untied, 12), (long, 150), (ones, 3)]
}

/// Weights large enough that every part of the model matters.
pub fn weights(model: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut weights = fresh_weights(model, seed);
    let mut start = 0;
    for tensor in model.tensors() {
        for (place, weight) in weights[start..start + tensor.len()].iter_mut().enumerate() {
            match tensor.shape.len() {
                1 => *weight += (place as f32).sin() * 0.3,
                _ => *weight *= 10.0,
            }
        }
        start += tensor.len();
    }
    weights
}

pub fn tokens(model: &ModelConfig, count: usize, seed: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * i * 31 + seed + i / 3) % model.vocab_size) as u32)
        .collect()
}

#[test]
fn fused_operations_equal_plain_ones_in_loss_logits_and_every_gradient() {
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            for (seed, (model, length)) in configs().into_iter().enumerate() {
                for document_mask in [false, true] {
                    compare(&model, length, seed as u64, document_mask);
                }
            }
        });
    }
}

/// Loss, gradient, last logits and losses of every token.
type Outcome = (f32, Vec<f32>, Vec<f32>, Vec<f32>);

fn outcome(
    model: &ModelConfig,
    weights: &[f32],
    compute: &Compute,
    inputs: &[u32],
    targets: &[u32],
    length: usize,
) -> Outcome {
    let mut llama = Llama::new(model, weights, compute);
    let (loss, gradient) = llama.loss_and_gradient(inputs, targets, length, 1.0);
    let logits = llama.logits(&inputs[..length], length.min(5));
    let losses = llama.token_losses(inputs, targets, length);
    assert_eq!(llama.weights(), weights);
    (loss, gradient.numbers(), logits, losses)
}

fn compare(model: &ModelConfig, length: usize, seed: u64, document_mask: bool) {
    let weights = weights(model, seed);
    let (inputs, targets) = (tokens(model, 3 * length, 5), tokens(model, 3 * length, 11));
    let run = |form| {
        let compute = Compute {
            forms: Forms::all(form),
            document_mask,
            ..Compute::float32()
        };
        outcome(model, &weights, &compute, &inputs, &targets, length)
    };
    let (fused, plain) = (run(Form::Fused), run(Form::Plain));
    let what = format!("{model:?}, document mask {document_mask}");
    assert!(
        (fused.0 - plain.0).abs() < 2e-6 * plain.0.abs().max(1.0),
        "{} {} {what}",
        fused.0,
        plain.0
    );
    assert_close(&fused.2, &plain.2, 1e-5, &format!("logits, {what}"));
    assert_close(&fused.3, &plain.3, 1e-5, &format!("token losses, {what}"));
    let mean = fused.3.iter().sum::<f32>() / fused.3.len() as f32;
    assert!((mean - fused.0).abs() < 1e-4);
    let mut start = 0;
    for tensor in model.tensors() {
        let range = start..start + tensor.len();
        start = range.end;
        let name = format!("gradient of {}, {what}", tensor.name);
        assert_close(&fused.1[range.clone()], &plain.1[range], 3e-5, &name);
    }
}

/// Each difference is at most `tolerance` of the largest number.
pub fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(1e-6f32, |most, number| most.max(number.abs()));
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(
            error <= tolerance * largest,
            "{what}: number {place} is {got}, not {expected}"
        );
    }
}

/// The derivative of the loss along a direction, from two losses.
#[test]
fn gradients_equal_finite_differences_along_every_tensor() {
    for (seed, (model, length)) in configs().into_iter().enumerate() {
        let weights = weights(&model, seed as u64 + 9);
        let (inputs, targets) = (tokens(&model, 2 * length, 3), tokens(&model, 2 * length, 8));
        let compute = Compute {
            document_mask: true,
            ..Compute::float32()
        };
        let loss = |weights: &[f32]| -> f64 {
            let llama = Llama::frozen(&model, weights, &compute);
            let losses = llama.token_losses(&inputs, &targets, length);
            losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64
        };
        let mut llama = Llama::new(&model, &weights, &compute);
        let (_, gradient) = llama.loss_and_gradient(&inputs, &targets, length, 1.0);
        let gradient = gradient.numbers();
        let mut start = 0;
        for tensor in model.tensors() {
            let range = start..start + tensor.len();
            start = range.end;
            // Along the gradient itself the derivative is its norm.
            let here = &gradient[range.clone()];
            let norm = here
                .iter()
                .map(|&g| f64::from(g).powi(2))
                .sum::<f64>()
                .sqrt();
            if norm < 1e-4 {
                continue;
            }
            let step = 4e-3;
            let moved = |sign: f64| {
                let mut weights = weights.clone();
                for (weight, &g) in weights[range.clone()].iter_mut().zip(here) {
                    *weight += (sign * step * f64::from(g) / norm) as f32;
                }
                loss(&weights)
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            assert!(
                (slope - norm).abs() < 0.01 * norm + 2e-4,
                "{} of {model:?}: slope {slope}, gradient {norm}",
                tensor.name
            );
        }
    }
}

#[test]
fn bfloat16_products_are_float32_ones_but_for_rounding() {
    if opengpu_trainer::has_bfloat16() {
        return compare_precisions(&Compute::float32());
    }
    // Elsewhere it is float32 by another name.
    let (model, length) = configs().remove(0);
    let (weights, tokens) = (weights(&model, 1), tokens(&model, length, 5));
    let run = |precision| {
        let compute = Compute {
            precision,
            ..Compute::float32()
        };
        outcome(&model, &weights, &compute, &tokens, &tokens, length)
    };
    assert_eq!(run(Precision::Float32), run(Precision::Bfloat16));
}

/// bfloat16 keeps 8 bits of each factor: every product is off by a part in 400 at most, and
/// sums of many by far less of their size.
pub fn compare_precisions(at: &Compute) {
    for (seed, (model, length)) in configs().into_iter().enumerate() {
        let weights = weights(&model, seed as u64);
        let (inputs, targets) = (
            tokens(&model, 3 * length, 5),
            tokens(&model, 3 * length, 11),
        );
        let run = |precision| {
            let compute = Compute {
                precision,
                ..at.clone()
            };
            outcome(&model, &weights, &compute, &inputs, &targets, length)
        };
        let (exact, rounded) = (run(Precision::Float32), run(Precision::Bfloat16));
        assert!(
            (exact.0 - rounded.0).abs() < 0.02 * exact.0 && exact.1 != rounded.1,
            "{} {}",
            exact.0,
            rounded.0
        );
        // Along the whole gradient: the angle between both.
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        };
        let (a, b) = (&exact.1, &rounded.1);
        let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        assert!(cosine > 0.999, "cosine {cosine} of {model:?}");
    }
}

#[test]
fn a_layer_computed_again_gives_the_same_gradient_to_the_bit() {
    for (seed, (model, length)) in configs().into_iter().enumerate() {
        let weights = weights(&model, seed as u64);
        let (inputs, targets) = (
            tokens(&model, 2 * length, 5),
            tokens(&model, 2 * length, 11),
        );
        for precision in [Precision::Float32, Precision::Bfloat16] {
            let run = |recompute| {
                let compute = Compute {
                    recompute,
                    precision,
                    ..Compute::float32()
                };
                outcome(&model, &weights, &compute, &inputs, &targets, length)
            };
            assert_eq!(run(false), run(true));
        }
    }
}
