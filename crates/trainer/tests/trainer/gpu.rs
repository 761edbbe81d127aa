//! The fused operations on a GPU against the same on the CPU. A software Vulkan device such
//! as lavapipe will do.

use std::sync::OnceLock;

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{Device, Tensor, TensorData};
use burn_cubecl::tensor::CubeTensor;
use opengpu_trainer::cube::{adamw, reduce};
use opengpu_trainer::device::{Wish, choose};
use opengpu_trainer::{Form, Llama};
use opengpu_trainer_protocol::ModelConfig;

use crate::operations::{assert_close, configs, tokens, weights};

/// The first GPU; a test without one fails with what to install.
fn gpu() -> Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(|| match choose(Wish::Gpu(0)) {
        Ok(chosen) => {
            eprintln!("GPU tests run on {}", chosen.name);
            chosen.device
        }
        Err(error) => panic!(
            "the GPU tests need a Vulkan device (on Debian mesa-vulkan-drivers brings a \
             software one): {error}"
        ),
    })
    .clone()
}

/// Loss, gradient, logits and token losses of a batch of `sequences`.
type Results = (f32, Vec<f32>, Vec<f32>, Vec<f32>);

fn run(model: &ModelConfig, length: usize, sequences: usize, device: &Device) -> Results {
    let weights = weights(model, 3);
    let count = sequences * length;
    let (inputs, targets) = (tokens(model, count, 5), tokens(model, count, 11));
    let llama = Llama::new(model, &weights, &device.clone().autodiff(), Form::Fused);
    let mut gradient = vec![f32::NAN; weights.len()];
    let loss = llama.loss_and_gradient(&inputs, &targets, length, &mut gradient);
    let llama = Llama::new(model, &weights, device, Form::Fused);
    let logits = llama.logits(&inputs[..length], length.min(5));
    let losses = llama.token_losses(&inputs, &targets, length);
    (loss, gradient, logits, losses)
}

fn compare(model: &ModelConfig, length: usize, sequences: usize) {
    let expected = run(model, length, sequences, &Device::flex());
    let found = run(model, length, sequences, &gpu());
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
/// are held at a time.
#[test]
fn a_large_vocabulary_equals_the_cpu() {
    let (small, _) = configs().remove(3);
    let model = ModelConfig {
        vocab_size: 300_000,
        tie_word_embeddings: false,
        max_position_embeddings: 50,
        ..small
    };
    compare(&model, 50, 2);
}

#[test]
fn the_same_step_gives_the_same_bytes_twice() {
    let (model, length) = configs().remove(2);
    let bits = || {
        let (loss, gradient, _, _) = run(&model, length, 3, &gpu());
        let gradient: Vec<u32> = gradient.iter().map(|number| number.to_bits()).collect();
        (loss.to_bits(), gradient)
    };
    assert_eq!(bits(), bits());
}

fn on_gpu(numbers: &[f32]) -> CubeTensor {
    let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
    match Tensor::<1>::from_data(data, &gpu()).into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) => tensor,
        _ => panic!("a GPU's tensors are CubeCL's"),
    }
}

fn numbers(tensor: CubeTensor) -> Vec<f32> {
    let bytes = tensor.client.read_one_unchecked(tensor.handle);
    bytes
        .chunks_exact(4)
        .map(|number| f32::from_le_bytes(number.try_into().unwrap()))
        .collect()
}

#[test]
fn adamw_on_the_gpu_clips_and_updates_as_published() {
    let count = 70_000;
    let start: Vec<f32> = (0..count).map(|i| (i as f32 * 0.013).sin()).collect();
    let gradient: Vec<f32> = (0..count).map(|i| (i as f32 * 0.07).cos() * 0.01).collect();
    let (rest, all) = (vec![0.5f32; 300], 0.5f64 * 0.5 * 300.0);
    let norm_squared: f64 = all + gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    let (weights, first, second) = (
        on_gpu(&start),
        on_gpu(&vec![0.01; count]),
        on_gpu(&vec![0.02; count]),
    );
    let gradient_there = on_gpu(&gradient);
    let found = reduce::sum_of_squares(&[gradient_there.clone(), on_gpu(&rest)]).unwrap();
    let limit = 2.0f32;
    let factor = adamw::clip_factor(&found, limit);
    let found = f64::from(numbers(found)[0]);
    assert!(
        (found - norm_squared).abs() < 1e-5 * norm_squared,
        "{found}"
    );
    let clip = f64::from(limit) / norm_squared.sqrt();
    assert!(clip < 1.0);

    let step = adamw::Step {
        beta1: 0.9,
        beta2: 0.95,
        rate: 0.01,
        epsilon: 1e-8,
        keep: 0.999,
    };
    adamw::update(&weights, &first, &second, &gradient_there, &factor, step);
    let weights = numbers(weights);
    for ((found, &weight), &g) in weights.iter().zip(&start).zip(&gradient) {
        let g = f64::from(g) * clip;
        let m = 0.9 * 0.01 + 0.1 * g;
        let v = 0.95 * 0.02 + 0.05 * g * g;
        let expected = f64::from(weight) * 0.999 - 0.01 * m / (v.sqrt() + 1e-8);
        assert!(
            (f64::from(*found) - expected).abs() < 1e-6,
            "{found} {expected}"
        );
    }
    assert_eq!(reduce::sum_of_squares(&[]).map(|_| ()), None);
}
