//! How a worker trains between two merges.

use serde::{Deserialize, Serialize};

/// Inner optimiser (AdamW with decoupled weight decay) and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InnerSettings {
    /// Sequences in one optimiser step.
    pub batch_sequences: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay (not applied to one-dimensional tensors).
    pub weight_decay: f64,
    /// Largest Euclidean norm of the whole gradient; larger ones are scaled down to it.
    pub gradient_clip: f64,
    /// Part of the run over which the rate rises from 0.
    pub warmup_fraction: f64,
    /// How the rate falls after the warm-up.
    pub schedule: Schedule,
    /// Rate at the end of the run, as a part of the peak.
    pub final_fraction: f64,
    /// Whether the optimiser's moments outlive a round.
    pub state: InnerState,
    /// In which numbers matrix products are computed.
    pub precision: Precision,
    /// Whether a layer's forward pass is computed again for its gradient instead of kept:
    /// a third more work, for a small part of the memory. A trainer that is short of memory
    /// does it unasked.
    pub recompute: bool,
    /// Whether a token sees only its own document (from the last end-of-text token on),
    /// where a sequence holds several.
    pub document_mask: bool,
}

impl Default for InnerSettings {
    fn default() -> Self {
        Self {
            batch_sequences: 8,
            learning_rate: 4e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_clip: 1.0,
            warmup_fraction: 0.1,
            schedule: Schedule::Cosine,
            final_fraction: 0.1,
            state: InnerState::Carry,
            precision: Precision::Auto,
            recompute: false,
            document_mask: false,
        }
    }
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine from the peak to the final rate.
    Cosine,
    /// Constant, then linear to the final rate over the last fifth ("warm-up-stable-decay").
    WarmupStableDecay,
    /// Constant at the peak.
    Constant,
}

/// What happens to the optimiser's moments at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InnerState {
    /// They go on: learns better, makes audits need private state.
    Carry,
    /// They start at zero each round: an assignment is a pure function of public data.
    Reset,
}

/// In which numbers matrix products are computed. Weights, sums, norms and losses are
/// float32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// bfloat16 where the device has arithmetic for it, else float32.
    #[default]
    Auto,
    /// float32 everywhere.
    Float32,
    /// bfloat16; a device without it computes in float32 and says so in its log.
    Bfloat16,
}

impl InnerSettings {
    /// Learning rate at `progress` (0: start of the run, 1: its end).
    pub fn rate_at(&self, progress: f64) -> f64 {
        let progress = progress.clamp(0.0, 1.0);
        if progress < self.warmup_fraction {
            return self.learning_rate * progress / self.warmup_fraction;
        }
        let after = (progress - self.warmup_fraction) / (1.0 - self.warmup_fraction).max(1e-12);
        let part = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * after).cos()),
            Schedule::WarmupStableDecay => ((1.0 - after) / 0.2).min(1.0),
        };
        self.learning_rate * (self.final_fraction + (1.0 - self.final_fraction) * part)
    }
}
