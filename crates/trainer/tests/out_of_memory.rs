//! A step that does not fit into memory goes on with smaller parts. A test process of its
//! own, since the limit it sets is that of the whole process.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use opengpu_trainer::{InnerLoop, Pair, TrainerError, fresh_weights, limit_memory};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig, Precision};

/// Few weights, but 23 KiB of activations a token: 94 MB for the batch.
fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 64,
        hidden_size: 64,
        intermediate_size: 176,
        num_hidden_layers: 8,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
    }
}

#[test]
fn out_of_memory_halves_the_micro_batch_and_training_goes_on_the_same() {
    let model = model();
    let settings = InnerSettings {
        batch_sequences: 16,
        precision: Precision::Float32,
        ..InnerSettings::default()
    };
    let count = settings.batch_sequences * model.max_position_embeddings;
    let token = |i: usize| ((i * i + i / 5) % model.vocab_size) as u32;
    let batch = Pair {
        inputs: (0..count).map(token).collect(),
        targets: (1..=count).map(token).collect(),
    };
    let weights = fresh_weights(&model, 1);
    let train = |steps: usize| -> Result<(usize, Vec<f32>), TrainerError> {
        let mut training = InnerLoop::new(&model, &settings);
        let mut llama = training.place(&weights);
        for _ in 0..steps {
            training.step(&mut llama, &batch, 1e-3)?;
        }
        Ok((training.micro_batch(), llama.weights()))
    };
    limit_memory(40 << 20);
    let planned = train(1).unwrap().0;
    assert!((1..16).contains(&planned), "{planned}");

    // Without a plan: found out by the step.
    limit_memory(u64::MAX);
    let mut training = InnerLoop::new(&model, &settings);
    assert_eq!(training.micro_batch(), 16);
    let mut llama = training.place(&weights);
    limit_memory(40 << 20);
    for _ in 0..3 {
        training.step(&mut llama, &batch, 1e-3).unwrap();
    }
    assert_eq!(training.micro_batch(), planned);
    let limited = llama.weights();

    // Not even one sequence fits: told in words, and training can go on when there is room.
    limit_memory(1 << 20);
    match training.step(&mut llama, &batch, 1e-3) {
        Err(TrainerError::OutOfMemory(message)) => assert!(message.contains("one sequence")),
        other => panic!("{other:?}"),
    }
    assert_eq!(llama.weights(), limited);

    limit_memory(u64::MAX);
    training.step(&mut llama, &batch, 1e-3).unwrap();
    let (micro_batch, free) = train(3).unwrap();
    assert_eq!(micro_batch, 16);
    let largest = free
        .iter()
        .fold(0.0f32, |most, weight| most.max(weight.abs()));
    for (free, limited) in free.iter().zip(&limited) {
        assert!((free - limited).abs() < 1e-4 * largest, "{free} {limited}");
    }
}
