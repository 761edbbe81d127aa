//! Run files: TOML that a researcher writes. (Over the network they are JSON, which the
//! message targets read.)

#![no_main]

use opengpu_fuzz::{Seed, check_spec, within};
use opengpu_protocol::RunSpec;

opengpu_fuzz::target!(seeds, attempt);

fn seeds() -> Vec<Seed> {
    let example = include_str!("../../../examples/shakespeare-nano.toml");
    let mut spec = RunSpec::from_toml(example).expect("the example is a run file");
    let mut seeds = vec![("example".to_owned(), example.into())];
    for preset in opengpu_trainer_protocol::preset_names() {
        spec.model = opengpu_trainer_protocol::ModelConfig::preset(preset);
        let text = spec.to_toml().expect("a run file can be written");
        seeds.push((preset.to_owned(), text.into_bytes()));
    }
    seeds.extend([
        ("largest".to_owned(), LARGEST.into()),
        ("smallest".to_owned(), SMALLEST.into()),
    ]);
    seeds
}

/// Every number that has a range, at its ends: a fuzzer does not find those of fractions.
const LARGEST: &str = r#"
name = "a"
dataset = "a"
preset = "nano"
seed = 9007199254740991
block_sequences = 1048576
evaluate_every = 1000000
checkpoint_every = 1000000
[round]
rounds = 10000000
min_workers = 1000000
max_workers = 1000000
quorum = 1000000
duration_ms = 604800000
grace_ms = 604800000
forming_ms = 604800000
silence_ms = 604800000
max_blocks = 1000000
staleness_rounds = 1000
stretch = 10.0
[inner]
batch_sequences = 65536
learning_rate = 10.0
beta1 = 0.999999
beta2 = 0.999999
epsilon = 1.0
weight_decay = 10.0
gradient_clip = 1e6
warmup_fraction = 1.0
final_fraction = 1.0
[sync]
up = { codec = "sparse", k = 4096 }
down = { codec = "sparse", k = 4096 }
feedback_decay = 1.0
down_feedback_decay = 1.0
tau = 1.0
outer_rate = 100.0
outer_momentum = 0.999
"#;
const SMALLEST: &str = r#"
name = "a"
dataset = "a"
preset = "nano"
block_sequences = 1
evaluate_every = 0
checkpoint_every = 1
[round]
rounds = 1
min_workers = 1
max_workers = 1
quorum = 1
duration_ms = 1
grace_ms = 0
forming_ms = 0
silence_ms = 1000
max_blocks = 1
staleness_rounds = 1
stretch = 1.0
[inner]
batch_sequences = 1
learning_rate = 1e-9
beta1 = 0.0
beta2 = 0.0
epsilon = 1e-16
weight_decay = 0.0
gradient_clip = 1e-6
warmup_fraction = 0.0
final_fraction = 0.0
[sync]
up = { codec = "sparse", k = 1 }
down = { codec = "sparse", k = 1 }
feedback_decay = 0.0
down_feedback_decay = 0.0
tau = 0.25
outer_rate = 1e-6
outer_momentum = 0.0
"#;

fn attempt(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let most = 512 * text.len() + 65_536;
    if let Ok(spec) = within(most, || RunSpec::from_toml(text)) {
        check_spec(&spec);
    }
}
