//! The fused operations on a GPU against the same on the CPU. A software Vulkan device such
//! as lavapipe will do.

use std::sync::OnceLock;

use burn::tensor::Device;
use opengpu_trainer::device::{Chosen, Wish, choose};
use opengpu_trainer::{Compute, InnerLoop, Llama, Pair};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig};

use crate::operations::{assert_close, compare_precisions, configs, tokens, weights};

/// The first GPU; a test without one fails with what to install.
fn gpu() -> Chosen {
    static GPU: OnceLock<Chosen> = OnceLock::new();
    GPU.get_or_init(|| match choose(Wish::Gpu(0)) {
        Ok(chosen) => {
            eprintln!("GPU tests run on {}", chosen.name);
            chosen
        }
        Err(error) => panic!(
            "the GPU tests need a Vulkan device (on Debian mesa-vulkan-drivers brings a \
             software one): {error}"
        ),
    })
    .clone()
}

/// Loss, gradient, logits and token losses of a batch of `sequences`; of three with a
/// document mask.
type Results = (f32, Vec<f32>, Vec<f32>, Vec<f32>);

fn run(model: &ModelConfig, length: usize, sequences: usize, device: &Device) -> Results {
    let weights = weights(model, 3);
    let count = sequences * length;
    let (inputs, targets) = (tokens(model, count, 5), tokens(model, count, 11));
    let compute = Compute {
        device: device.clone(),
        document_mask: sequences == 3,
        ..Compute::float32()
    };
    let mut llama = Llama::new(model, &weights, &compute);
    let (loss, gradient) = llama.loss_and_gradient(&inputs, &targets, length, 1.0);
    let gradient = gradient.numbers();
    let llama = Llama::frozen(model, &weights, &compute);
    let logits = llama.logits(&inputs[..length], length.min(5));
    let losses = llama.token_losses(&inputs, &targets, length);
    (loss, gradient, logits, losses)
}

fn compare(model: &ModelConfig, length: usize, sequences: usize) {
    let expected = run(model, length, sequences, &Device::flex());
    let found = run(model, length, sequences, &gpu().device);
    let what = format!("{model:?}");
    assert!(
        (found.0 - expected.0).abs() < 1e-5 * expected.0.abs().max(1.0),
        "loss {} {} {what}",
        found.0,
        expected.0
    );
    assert_close(&found.2, &expected.2, 1e-4, &format!("logits, {what}"));
    assert_close(
        &found.3,
        &expected.3,
        1e-4,
        &format!("token losses, {what}"),
    );
    let mut start = 0;
    for tensor in model.tensors() {
        let range = start..start + tensor.len();
        start = range.end;
        let name = format!("gradient of {}, {what}", tensor.name);
        assert_close(&found.1[range.clone()], &expected.1[range], 1e-4, &name);
    }
}

#[test]
fn the_gpu_equals_the_cpu_in_loss_logits_and_every_gradient() {
    for (model, length) in configs() {
        compare(&model, length, 3);
    }
}

/// Heads as wide as those of real models, and sequences of several tiles.
#[test]
fn wide_heads_equal_the_cpu() {
    let (small, _) = configs().remove(0);
    for (depth, length) in [(64, 130), (128, 97), (80, 64)] {
        let model = ModelConfig {
            hidden_size: 4 * depth,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            num_hidden_layers: 1,
            intermediate_size: 300,
            max_position_embeddings: length,
            ..small.clone()
        };
        compare(&model, length, 2);
    }
}

/// More rows of the vocabulary than a side of a grid has workgroups, and more logits than
/// are held at a time. Not many more: lavapipe ends every loop after 65,536 turns in all, which
/// a product over a wider vocabulary may need.
#[test]
fn a_large_vocabulary_equals_the_cpu() {
    let (small, _) = configs().remove(3);
    let model = ModelConfig {
        vocab_size: 66_000,
        tie_word_embeddings: false,
        max_position_embeddings: 300,
        ..small
    };
    compare(&model, 300, 2);
}

#[test]
fn the_same_step_gives_the_same_bytes_twice() {
    let (model, length) = configs().remove(2);
    let bits = || {
        let (loss, gradient, _, _) = run(&model, length, 3, &gpu().device);
        let gradient: Vec<u32> = gradient.iter().map(|number| number.to_bits()).collect();
        (loss.to_bits(), gradient)
    };
    assert_eq!(bits(), bits());
}

#[test]
fn bfloat16_on_the_gpu_is_float32_but_for_rounding() {
    let gpu = gpu();
    if !gpu.bfloat16 {
        eprintln!("not tested: {} has no bfloat16", gpu.name);
        return;
    }
    compare_precisions(&Compute {
        device: gpu.device,
        ..Compute::float32()
    });
}

/// One step with an optimiser on both.
#[test]
fn adamw_on_the_gpu_clips_and_updates_as_on_the_cpu() {
    let (model, length) = configs().remove(0);
    let settings = InnerSettings {
        gradient_clip: 0.05,
        batch_sequences: 4,
        precision: opengpu_trainer_protocol::Precision::Float32,
        ..InnerSettings::default()
    };
    let batch = Pair {
        inputs: tokens(&model, 4 * length, 5),
        targets: tokens(&model, 4 * length, 11),
    };
    let weights = weights(&model, 3);
    let train = |device: Chosen, micro_batch| {
        let training = InnerLoop::on(&model, &settings, &device);
        let mut training = training.with_micro_batch(micro_batch);
        let mut llama = training.place(&weights);
        for _ in 0..3 {
            training.step(&mut llama, &batch, 1e-3).unwrap();
        }
        llama.weights()
    };
    let expected = train(Chosen::cpu(), 4);
    assert_close(&train(gpu(), 4), &expected, 1e-4, "three steps");
    assert_close(&train(gpu(), 1), &expected, 1e-4, "three steps in parts");
}
