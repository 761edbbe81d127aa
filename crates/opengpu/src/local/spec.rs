//! The run that `up` submits: settings for a few minutes on a machine without a GPU.

use opengpu_protocol::{RunSpec, SyncSettings};
use opengpu_rounds::RoundSettings;
use opengpu_trainer_protocol::InnerSettings;

/// How long one round trains. Long against what a round costs besides (about 0.3 s), short
/// enough that a newcomer sees rounds go by.
const ROUND_MS: u64 = 6_000;

/// Rounds that fit in a little under five minutes.
const DEFAULT_ROUNDS: u64 = 45;

/// A run for `nodes` local nodes.
pub fn local_run(
    name: String,
    dataset: String,
    preset: &str,
    nodes: u32,
    rounds: Option<u64>,
) -> RunSpec {
    let inner = InnerSettings::default();
    RunSpec {
        name,
        dataset,
        seed: 1,
        preset: Some(preset.to_owned()),
        model: None,
        block_sequences: inner.batch_sequences,
        round: RoundSettings {
            rounds: rounds.unwrap_or(DEFAULT_ROUNDS),
            min_workers: nodes,
            max_workers: nodes,
            // One silent machine of several must not hold a round up.
            quorum: nodes.div_ceil(2),
            duration_ms: ROUND_MS,
            grace_ms: ROUND_MS / 2,
            forming_ms: 0,
            max_blocks: 10_000,
            stretch: 1.25,
            ..RoundSettings::default()
        },
        inner,
        sync: SyncSettings::default(),
        evaluate_every: 5,
        checkpoint_every: 10,
    }
}
