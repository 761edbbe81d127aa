//! How a worker trains between two merges.

use serde::{Deserialize, Serialize};

/// Inner optimiser and its schedule.
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
    /// What trains the matrices of the hidden layers.
    #[serde(skip_serializing_if = "Optimizer::is_adamw")]
    pub optimizer: Optimizer,
    /// Whether the optimiser's moments outlive a round.
    pub state: InnerState,
    /// Steps of each round over which the rate rises to what the schedule says, for moments
    /// that start at zero; see [`Self::round_factor`].
    #[serde(skip_serializing_if = "is_zero")]
    pub round_warmup_steps: u64,
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
            optimizer: Optimizer::AdamW,
            state: InnerState::Carry,
            round_warmup_steps: 0,
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

/// What trains the matrices of the hidden layers. Embedding, norms and head are AdamW's in
/// any case, with decoupled weight decay (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW too: two moments for each weight.
    #[default]
    AdamW,
    /// Muon (Jordan et al. 2024): momentum made orthogonal, matrix by matrix; one moment for
    /// each weight. Its steps are as long as AdamW's (Liu et al. 2025), so that learning rate
    /// and weight decay may stay.
    Muon,
}

impl Optimizer {
    /// Whether it is what runs had before there was a choice; not written then.
    fn is_adamw(&self) -> bool {
        *self == Self::AdamW
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
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

    /// What the rate of a round's step is multiplied by, `step` counted from 0:
    /// `(step + 1) / (round_warmup_steps + 1)` during the warm-up, 1 after it. It depends on
    /// nothing but the place of the step in its assignment, so whoever trains that again
    /// has the same.
    pub fn round_factor(&self, step: u64) -> f64 {
        if step >= self.round_warmup_steps {
            return 1.0;
        }
        (step + 1) as f64 / (self.round_warmup_steps as f64 + 1.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_round_warms_up_in_equal_steps_and_without_warm_up_not_at_all() {
        let settings = InnerSettings {
            round_warmup_steps: 4,
            ..InnerSettings::default()
        };
        let factors: Vec<f64> = (0..6).map(|step| settings.round_factor(step)).collect();
        assert_eq!(factors, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]);
        assert_eq!(InnerSettings::default().round_factor(0), 1.0);
        let endless = InnerSettings {
            round_warmup_steps: u64::MAX,
            ..InnerSettings::default()
        };
        assert!(endless.round_factor(0) > 0.0 && endless.round_factor(u64::MAX - 1) <= 1.0);
    }

    #[test]
    fn settings_from_before_there_was_a_choice_read_and_write_as_then() {
        let old = r#"{"batch_sequences":4,"state":"reset"}"#;
        let settings: InnerSettings = serde_json::from_str(old).unwrap();
        assert_eq!(settings.optimizer, Optimizer::AdamW);
        assert_eq!(settings.round_warmup_steps, 0);
        let text = serde_json::to_string(&settings).unwrap();
        assert!(!text.contains("optimizer"), "{text}");
        assert!(!text.contains("round_warmup_steps"), "{text}");
        let chosen = r#"{"optimizer":"muon","round_warmup_steps":5}"#;
        let settings: InnerSettings = serde_json::from_str(chosen).unwrap();
        assert_eq!(settings.optimizer, Optimizer::Muon);
        let text = serde_json::to_string(&settings).unwrap();
        let again: InnerSettings = serde_json::from_str(&text).unwrap();
        assert_eq!(again, settings);
    }
}
