//! What a run declares about its rounds.

use serde::{Deserialize, Serialize};

use crate::AuditRules;

/// The part of a run file that the state machine reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoundSettings {
    /// Outer steps after which the run is finished; with `total_tokens`, how many those are expected to take.
    pub rounds: u64,
    /// Tokens after which the run is finished, as its merges counted them, however many rounds
    /// that takes; 0: `rounds` says how long it is.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_tokens: u64,
    /// Blocks in one epoch of the dataset (filled in when the run is created).
    pub blocks_per_epoch: u64,
    /// Workers needed before the first round opens, and to open any later one.
    pub min_workers: u32,
    /// Workers that get an assignment in one round, at most.
    pub max_workers: u32,
    /// Updates that a round needs before it may be merged.
    pub quorum: u32,
    /// How long workers train in one round.
    pub duration_ms: u64,
    /// How long after the deadline the round still waits for updates.
    pub grace_ms: u64,
    /// How long a forming run waits for more than `min_workers`.
    pub forming_ms: u64,
    /// Most blocks in one assignment, whatever the worker's speed (H, if a block is one step).
    pub max_blocks: u64,
    /// How many blocks more than the measured speed predicts a worker gets, as a factor
    /// (1.0: none). The worker stops at the deadline; its finished prefix counts.
    pub stretch: f32,
    /// Rounds after which a silent worker's lease returns and its update is refused.
    pub staleness_rounds: u64,
    /// A worker not heard of for this long counts as gone.
    pub silence_ms: u64,
    /// Which updates are audited (filled in when the run is created).
    #[serde(skip_serializing_if = "AuditRules::is_off")]
    pub audit: AuditRules,
    /// By what part of the lowest held-out loss before it a loss must be higher for the run to
    /// roll back by itself; 0: it never does (filled in when the run is created).
    #[serde(skip_serializing_if = "is_zero")]
    pub rollback_above: f64,
    /// How updates are weighed ([`crate::weights`]): 0 by their tokens alone, as runs from before
    /// there were limits, whose merges must come out again as they did; [`crate::WEIGHING`] for
    /// all others (filled in when the run is created).
    #[serde(skip_serializing_if = "is_zero")]
    pub weighing: u32,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for RoundSettings {
    fn default() -> Self {
        Self {
            rounds: 100,
            total_tokens: 0,
            blocks_per_epoch: 0,
            min_workers: 1,
            max_workers: 1024,
            quorum: 1,
            duration_ms: 60_000,
            grace_ms: 30_000,
            forming_ms: 10_000,
            max_blocks: 10_000,
            stretch: 1.25,
            staleness_rounds: 2,
            silence_ms: 30_000,
            audit: AuditRules::default(),
            rollback_above: 0.0,
            weighing: 0,
        }
    }
}

impl RoundSettings {
    /// What makes these settings unusable, as a sentence that names the number.
    pub fn problem(&self) -> Option<String> {
        let positive = [
            ("rounds", self.rounds),
            ("blocks_per_epoch", self.blocks_per_epoch),
            ("min_workers", self.min_workers.into()),
            ("quorum", self.quorum.into()),
            ("duration_ms", self.duration_ms),
            ("max_blocks", self.max_blocks),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Some(format!("{name} is 0; it must be at least 1"));
        }
        if self.max_workers < self.min_workers {
            let (most, least) = (self.max_workers, self.min_workers);
            return Some(format!(
                "max_workers is {most}, less than min_workers, {least}"
            ));
        }
        if self.quorum > self.max_workers {
            let (quorum, most) = (self.quorum, self.max_workers);
            return Some(format!("quorum is {quorum}, more than max_workers, {most}"));
        }
        if !(self.stretch.is_finite() && (0.1..=10.0).contains(&self.stretch)) {
            return Some(format!(
                "stretch is {}; it lies between 0.1 and 10",
                self.stretch
            ));
        }
        None
    }
}
