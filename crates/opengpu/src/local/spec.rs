//! The run that `up` submits: settings for a few minutes on a machine without a GPU.

use opengpu_protocol::{RunSpec, SyncSettings, TrustSettings};
use opengpu_rounds::RoundSettings;
use opengpu_trainer_protocol::{InnerSettings, ModelConfig};

/// The shortest time that a round trains. Long against what a round costs besides (about
/// 0.3 s), short enough that a newcomer sees rounds go by.
const SHORTEST_ROUND_MS: u64 = 6_000;

/// Blocks that fit into a round at least: with fewer, what a round costs besides would weigh
/// too much, and a machine somewhat slower than thought would finish none.
const BLOCKS_A_ROUND: f64 = 8.0;

/// Floating-point operations a second that a core is trusted with before anyone measured it.
/// A faster one gets more blocks, not shorter rounds.
const SLOW_CORE: f64 = 30e9;

/// Rounds that fit in a little under five minutes.
const DEFAULT_ROUNDS: u64 = 45;

/// A run for `nodes` local nodes.
pub fn local_run(
    name: String,
    dataset: String,
    preset: &str,
    model: &ModelConfig,
    nodes: u32,
    rounds: Option<u64>,
) -> RunSpec {
    let inner = InnerSettings::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let duration_ms = round_ms(model, inner.batch_sequences, nodes, cores);
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
            duration_ms,
            grace_ms: duration_ms / 2,
            forming_ms: 0,
            ..RoundSettings::default()
        },
        inner,
        sync: SyncSettings::default(),
        trust: TrustSettings::default(),
        evaluate_every: 5,
        checkpoint_every: 10,
    }
}

/// How long a round trains, so that enough blocks of `batch` sequences fit into it on cores that
/// are shared by `nodes` trainers. A token costs about six operations a parameter (forward and
/// backward).
fn round_ms(model: &ModelConfig, batch: usize, nodes: u32, cores: usize) -> u64 {
    let tokens = batch * model.max_position_embeddings;
    let operations = 6.0 * model.parameters() as f64 * tokens as f64;
    let speed = SLOW_CORE * (cores as f64 / f64::from(nodes)).max(0.05);
    let needed = BLOCKS_A_ROUND * operations / speed * 1000.0;
    (needed as u64).max(SHORTEST_ROUND_MS)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_larger_model_has_longer_rounds_and_the_default_the_shortest() {
        let ms = |preset, nodes| round_ms(&ModelConfig::preset(preset).unwrap(), 8, nodes, 2);
        assert_eq!(ms("nano", 3), SHORTEST_ROUND_MS);
        assert!(ms("micro", 3) < ms("mini", 3));
        assert!(ms("mini", 3) < ms("mini", 6));
    }

    /// On the machine that the shortest round is made for; a slower one gets longer rounds.
    #[test]
    fn the_run_file_of_the_examples_declares_what_up_trains() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../examples/shakespeare-nano.toml"
        );
        let declared = RunSpec::from_toml(&std::fs::read_to_string(file).unwrap()).unwrap();
        let (name, dataset) = ("shakespeare-nano".into(), "shakespeare".into());
        let model = ModelConfig::preset("nano").unwrap();
        let trained = local_run(name, dataset, "nano", &model, 3, None);
        assert_eq!(declared, trained);
    }
}
