//! What a simulated fleet is like.

use serde::{Deserialize, Serialize};

use super::TOKENS_PER_BLOCK;
use crate::{AuditRules, RoundSettings};

/// A fleet and what happens to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SimulationSettings {
    /// Everything random follows from it.
    pub seed: u64,
    /// Workers at the start. More may join.
    pub workers: u32,
    /// How many of them are four times slower than the rest.
    pub slow_workers: u32,
    /// Rules of the training run.
    pub round: RoundSettings,
    /// Merges between base checkpoints.
    pub checkpoint_every: u64,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for SimulationSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            workers: 8,
            slow_workers: 1,
            round: RoundSettings {
                rounds: 50,
                blocks_per_epoch: 1000,
                min_workers: 2,
                quorum: 2,
                grace_ms: 15_000,
                max_blocks: 60,
                ..RoundSettings::default()
            },
            checkpoint_every: 5,
            faults: Faults::default(),
        }
    }
}

impl SimulationSettings {
    /// A fleet whose size, rules and faults are drawn from the seed too: what tests sweep.
    pub fn drawn(seed: u64, rounds: u64) -> Self {
        use rand::{RngExt, SeedableRng};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let workers = random.random_range(1..=9);
        let min_workers = random.random_range(1..=workers.min(3));
        let blocks = rounds * u64::from(workers) * (1 + seed % 3);
        let round = RoundSettings {
            rounds,
            total_tokens: if seed % 5 == 2 {
                blocks * TOKENS_PER_BLOCK
            } else {
                0
            },
            blocks_per_epoch: random.random_range(3..400),
            min_workers,
            max_workers: random.random_range(min_workers..=12),
            quorum: random.random_range(1..=min_workers),
            duration_ms: random.random_range(5_000..90_000),
            grace_ms: random.random_range(0..30_000),
            forming_ms: random.random_range(0..12_000),
            max_blocks: random.random_range(1..60),
            stretch: if random.random_bool(0.5) { 1.0 } else { 1.5 },
            staleness_rounds: random.random_range(0..4),
            silence_ms: random.random_range(8_000..40_000),
            audit: AuditRules {
                enabled: seed.is_multiple_of(3),
                rate: 0.3,
            },
            rollback_above: if seed.is_multiple_of(2) { 0.1 } else { 0.0 },
            weighing: crate::WEIGHING,
        };
        let faults = match seed % 4 {
            0 => Faults::none(),
            1 | 2 => Faults::default(),
            _ => Faults::harsh(),
        };
        Self {
            seed,
            workers,
            slow_workers: random.random_range(0..=workers / 2),
            round,
            checkpoint_every: random.random_range(1..8),
            faults,
        }
    }
}

/// What goes wrong: probabilities for each message, and for the rest the number expected in
/// a hundred rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Part of the messages that are lost.
    pub lost_messages: f64,
    /// Part of the messages that arrive twice.
    pub repeated_messages: f64,
    /// Part of the messages that take up to three rounds.
    pub late_messages: f64,
    /// A worker's machine goes down and comes back.
    pub worker_crashes: f64,
    /// Part of those crashes that lose the error feedback, and as many the disk.
    pub lost_feedback: f64,
    /// A worker's weights differ from what they should be.
    pub rotten_weights: f64,
    /// A worker is cut off for a while.
    pub partitions: f64,
    /// A worker leaves by its own will, and comes back later.
    pub leavers: f64,
    /// A new worker comes.
    pub joiners: f64,
    /// An operator drains a worker for a while.
    pub drains: f64,
    /// The coordinator dies between two inputs.
    pub coordinator_crashes: f64,
    /// Part of the inputs at which it dies midway: before the append, after it, or before
    /// the answer.
    pub midway_crashes: f64,
    /// A second coordinator takes over while the first goes on.
    pub takeovers: f64,
    /// The system's clock steps by up to a day, back or forth.
    pub clock_steps: f64,
    /// The run is paused for a while.
    pub pauses: f64,
    /// The run is rolled back to a checkpoint.
    pub rollbacks: f64,
    /// A merge can't be computed; a person resumes the run later.
    pub failed_merges: f64,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self {
            lost_messages: 0.0,
            repeated_messages: 0.0,
            late_messages: 0.0,
            worker_crashes: 0.0,
            lost_feedback: 0.0,
            rotten_weights: 0.0,
            partitions: 0.0,
            leavers: 0.0,
            joiners: 0.0,
            drains: 0.0,
            coordinator_crashes: 0.0,
            midway_crashes: 0.0,
            takeovers: 0.0,
            clock_steps: 0.0,
            pauses: 0.0,
            rollbacks: 0.0,
            failed_merges: 0.0,
        }
    }

    /// Far more than any real fleet sees.
    pub fn harsh() -> Self {
        Self {
            lost_messages: 0.1,
            repeated_messages: 0.1,
            late_messages: 0.05,
            worker_crashes: 150.0,
            lost_feedback: 0.4,
            rotten_weights: 20.0,
            partitions: 40.0,
            leavers: 40.0,
            joiners: 20.0,
            drains: 20.0,
            coordinator_crashes: 80.0,
            midway_crashes: 0.004,
            takeovers: 40.0,
            clock_steps: 50.0,
            pauses: 20.0,
            rollbacks: 20.0,
            failed_merges: 10.0,
        }
    }
}

impl Default for Faults {
    /// A bad week of a volunteer fleet.
    fn default() -> Self {
        Self {
            lost_messages: 0.02,
            repeated_messages: 0.02,
            late_messages: 0.01,
            worker_crashes: 30.0,
            lost_feedback: 0.2,
            rotten_weights: 3.0,
            partitions: 10.0,
            leavers: 10.0,
            joiners: 6.0,
            drains: 4.0,
            coordinator_crashes: 15.0,
            midway_crashes: 0.0005,
            takeovers: 6.0,
            clock_steps: 10.0,
            pauses: 3.0,
            rollbacks: 4.0,
            failed_merges: 2.0,
        }
    }
}
