//! Things to store.

use opengpu_coordinator::store::Store;
use opengpu_ledger::{Entry, EntryKind};
use opengpu_protocol::{
    RunSpec,
    wire::{DatasetManifest, Machine, Offer, ShardRef, TokenShards},
};
use opengpu_rounds::{
    AssignmentId, Event, EventKind, FeedbackId, Hash, NodeId, RoundSettings, RunId, WorkerId,
};

pub fn manifest(name: &str) -> DatasetManifest {
    let shards = |text: &str| TokenShards {
        shards: vec![ShardRef {
            hash: Hash::of(text.as_bytes()),
            bytes: text.len() as u64,
        }],
        tokens: 1_000,
        text_bytes: 4_000,
    };
    serde_json::from_value(serde_json::json!({
        "name": name,
        "tokenizer": Hash::of(b"tokenizer"),
        "vocab_size": 512,
        "token_bytes": 2,
        "training": shards("training"),
        "held_out": shards("held out"),
    }))
    .unwrap()
}

pub fn spec(name: &str, dataset: &str) -> RunSpec {
    serde_json::from_value(serde_json::json!({
        "name": name,
        "dataset": dataset,
        "preset": "nano",
        "round": RoundSettings::default(),
    }))
    .unwrap()
}

pub fn machine() -> Machine {
    Machine {
        platform: "linux x86_64".into(),
        cores: 2,
        memory_bytes: 8 << 30,
        software: "opengpu 0.1.0".into(),
    }
}

pub fn offer(device: &str) -> Offer {
    serde_json::from_value(serde_json::json!({
        "trainer": "burn-flex 0.1.0",
        "device": device,
        "numerics_class": "test",
    }))
    .unwrap()
}

pub fn created(at_ms: u64) -> Event {
    Event {
        at_ms,
        kind: EventKind::Created {
            settings: RoundSettings::default(),
        },
    }
}

/// An event that can be told from others by its two numbers.
pub fn marked(at_ms: u64, mark: u64) -> Event {
    Event {
        at_ms,
        kind: EventKind::FeedbackReset {
            worker: WorkerId(1),
            feedback: FeedbackId(mark),
        },
    }
}

/// An accepted update and its entry in the ledger.
pub fn accepted(at_ms: u64, assignment: u64, worker: u64, tokens: u64) -> (Event, Entry) {
    let event = Event {
        at_ms,
        kind: EventKind::UpdateAccepted {
            assignment: AssignmentId(assignment),
            blocks_completed: 3,
            payload: Hash::of(&assignment.to_le_bytes()),
            payload_bytes: 1_234,
            tokens,
            mergeable: true,
            commitment: None,
            audit: None,
            held: false,
            trust: 1.0,
        },
    };
    let entry = Entry {
        at_unix_ms: at_ms,
        node: NodeId(worker),
        worker: WorkerId(worker),
        assignment: AssignmentId(assignment),
        round: 0,
        kind: EntryKind::Accepted {
            blocks: 3,
            tokens,
            megaflops: 6 * tokens,
            payload: Hash::of(&assignment.to_le_bytes()),
        },
    };
    (event, entry)
}

/// A run with one event, whose dataset is there.
pub async fn new_run(store: &Store, name: &str) -> RunId {
    store.put_dataset(&manifest("tales")).await.unwrap();
    store
        .create_run(&spec(name, "tales"), &[created(1)])
        .await
        .unwrap()
}
