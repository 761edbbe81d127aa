//! Parts of messages, for the first inputs.

use opengpu_protocol::RunSpec;
use opengpu_protocol::wire::{Activity, DatasetManifest, ShardRef, TokenShards};
use opengpu_rounds::{AssignmentId, Hash, Revision};
use opengpu_trainer_protocol::ModelConfig;

/// Some hash.
pub fn hash() -> Hash {
    Hash::of(b"example")
}

/// Some revision.
pub fn revision() -> Revision {
    Revision {
        lineage: 1,
        number: 20,
    }
}

/// A run with its model, as the coordinator completes it.
pub fn spec() -> RunSpec {
    let text = include_str!("../../examples/shakespeare-nano.toml");
    let mut spec = RunSpec::from_toml(text).expect("the example is a run file");
    spec.model = ModelConfig::preset("nano");
    spec.round.blocks_per_epoch = 100;
    spec
}

/// A small dataset.
pub fn dataset() -> DatasetManifest {
    let part = |tokens| TokenShards {
        shards: vec![ShardRef {
            hash: hash(),
            bytes: 2 * tokens,
        }],
        tokens,
        text_bytes: 3 * tokens,
    };
    DatasetManifest {
        name: "shakespeare".into(),
        tokenizer: hash(),
        vocab_size: 1024,
        token_bytes: 2,
        training: part(1000),
        held_out: part(50),
    }
}

/// What a worker is doing most of the time.
pub fn training() -> Activity {
    Activity::Training {
        assignment: AssignmentId(3),
        blocks_done: 2,
        loss: 3.299,
        tokens_per_second: 28_900.5,
    }
}
