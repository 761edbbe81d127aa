//! The run file: what a researcher declares about a run, in TOML.

use opengpu_rounds::standing::PROBATION_AUDITS;
use opengpu_rounds::{AuditRules, DIRECTION_SINCE, RoundSettings};
use opengpu_trainer_protocol::{InnerSettings, InnerState, ModelConfig};
use serde::{Deserialize, Serialize};

/// A run file, complete once the coordinator has filled in what may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// For people; unique per coordinator.
    pub name: String,
    /// Name of a dataset that the coordinator holds.
    pub dataset: String,
    /// Decides the first weights, the permutation of the data, and every draw.
    #[serde(default)]
    pub seed: u64,
    /// A preset's name; or give `[model]`.
    #[serde(default)]
    pub preset: Option<String>,
    /// The model. From a preset its vocabulary is replaced by the dataset tokenizer's.
    #[serde(default)]
    pub model: Option<ModelConfig>,
    /// Sequences in a block; a multiple of `inner.batch_sequences`.
    #[serde(default = "default_block_sequences")]
    pub block_sequences: usize,
    /// Rounds, deadlines, quorum.
    pub round: RoundSettings,
    /// Inner optimiser.
    #[serde(default)]
    pub inner: InnerSettings,
    /// Compression and the outer optimiser.
    #[serde(default)]
    pub sync: SyncSettings,
    /// How far workers are trusted.
    #[serde(default)]
    pub trust: TrustSettings,
    /// Evaluate on held-out tokens every so many rounds (0: only at start and end).
    #[serde(default = "default_evaluate_every")]
    pub evaluate_every: u64,
    /// Write a base checkpoint every so many rounds.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
}

fn default_block_sequences() -> usize {
    InnerSettings::default().batch_sequences
}
fn default_evaluate_every() -> u64 {
    5
}
fn default_checkpoint_every() -> u64 {
    10
}

/// What protects a run from workers that send something else than they should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustSettings {
    /// How the updates of a round are weighed against each other.
    pub aggregator: Aggregator,
    /// Whether updates that point away from most of their round count less or nothing with the
    /// other rules too, before they weigh what is left; not with `mean`, which is the control.
    #[serde(skip_serializing_if = "is_true")]
    pub direction: bool,
    /// Part of the weight that `trimmed-mean` leaves out at each end.
    pub trimmed_part: f32,
    /// Part of the updates of trusted nodes that is trained again and compared, in runs whose
    /// assignments can be (`inner.state = "reset"`).
    pub audit_rate: f64,
    /// Chunks of 4096 weights that are drawn of an audited update.
    pub audit_chunks: usize,
    /// Largest distance between a worker's progress and the auditor's that passes, in parts
    /// of the progress; None: what precision and numerics classes need
    /// ([`RunSpec::audit_tolerance_between`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_tolerance: Option<f64>,
    /// Audits that a new node passes before its updates are merged without waiting for theirs.
    pub probation_audits: u32,
    /// The run goes back to a checkpoint by itself, without the workers whose updates did it, when
    /// a held-out loss is above the lowest one before it by more than this part of that; 0: never.
    pub rollback_above: f64,
    /// Held-out sequences on which the loss of each merge is measured, and those of updates that
    /// stand out in it, tried alone; 0: neither is.
    pub probe_sequences: usize,
    /// By what part of itself such an update may make that loss worse alone before it is held
    /// against it.
    pub probe_above: f64,
    /// Which nodes may take part. In runs with `inner.state = "carry"`, of which nothing can be
    /// audited, only those that an operator let in, whatever this says.
    #[serde(skip_serializing_if = "Nodes::is_anyone")]
    pub nodes: Nodes,
}

fn is_true(flag: &bool) -> bool {
    *flag
}

/// Which nodes may take part in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nodes {
    /// Each.
    #[default]
    Anyone,
    /// Those that are out of probation, and not suspected.
    Trusted,
    /// Those that an operator vouches for.
    Vouched,
}

impl Nodes {
    fn is_anyone(&self) -> bool {
        *self == Self::Anyone
    }
}

impl Default for TrustSettings {
    fn default() -> Self {
        Self {
            aggregator: Aggregator::TrustWeighted,
            direction: true,
            trimmed_part: 0.25,
            audit_rate: 0.1,
            audit_chunks: 8,
            audit_tolerance: None,
            probation_audits: PROBATION_AUDITS,
            rollback_above: 0.1,
            probe_sequences: 8,
            probe_above: 0.05,
            nodes: Nodes::Anyone,
        }
    }
}

/// A rule of aggregation, by name ([`opengpu_merge::Aggregator`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregator {
    /// The plain mean: the control.
    Mean,
    /// Per coordinate, without the ends.
    TrimmedMean,
    /// The point with the least sum of distances.
    GeometricMedian,
    /// The mean of differences from the centre, none longer than the median.
    CentredClipping,
    /// Who agrees with most others counts.
    TrustWeighted,
}

/// Update codec, merge codec, aggregation and outer optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncSettings {
    /// How workers compress their updates.
    pub up: Codec,
    /// How the merge is compressed.
    pub down: Codec,
    /// Decay of the workers' error feedback, once a round.
    pub feedback_decay: f32,
    /// Decay of the coordinator's error feedback, once a round.
    pub down_feedback_decay: f32,
    /// Floor of a coordinate's denominator, as a part of the round's weight.
    pub tau: f32,
    /// Outer learning rate.
    pub outer_rate: f32,
    /// Outer momentum (0: plain SGD).
    pub outer_momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Whether each tensor of an update is clipped to the round's median norm.
    pub clip_to_median_norm: bool,
}

/// The winners of `docs/learning.md` for the exchange, within 0.06 bytes up and 0.23 down per parameter.
impl Default for SyncSettings {
    fn default() -> Self {
        Self {
            up: Codec::Sparse { k: 224 },
            down: Codec::Sparse { k: 1500 },
            feedback_decay: 0.9,
            down_feedback_decay: 1.0,
            tau: 0.5,
            outer_rate: 1.0,
            outer_momentum: 0.0,
            nesterov: false,
            clip_to_median_norm: true,
        }
    }
}

impl RunSpec {
    /// Which updates are audited: any, where an assignment is a pure function of what is public.
    pub fn audit_rules(&self) -> AuditRules {
        match self.inner.state {
            InnerState::Carry => AuditRules::default(),
            InnerState::Reset => AuditRules {
                enabled: true,
                rate: self.trust.audit_rate,
            },
        }
    }

    /// Aggregation and outer optimiser, as the arithmetic takes them.
    pub fn outer_settings(&self) -> opengpu_merge::OuterSettings {
        let mut settings = outer_settings(&self.sync, &self.trust);
        // Runs from before merge as they did.
        settings.direction &= self.round.weighing >= DIRECTION_SINCE;
        settings
    }
}

/// The same from its parts.
pub fn outer_settings(sync: &SyncSettings, trust: &TrustSettings) -> opengpu_merge::OuterSettings {
    use opengpu_merge::Aggregator as Rule;
    opengpu_merge::OuterSettings {
        down: sync.down.into(),
        down_feedback_decay: sync.down_feedback_decay,
        tau: sync.tau,
        outer_rate: sync.outer_rate,
        outer_momentum: sync.outer_momentum,
        nesterov: sync.nesterov,
        clip_to_median_norm: sync.clip_to_median_norm,
        aggregator: match trust.aggregator {
            Aggregator::Mean => Rule::Mean,
            Aggregator::TrimmedMean => Rule::TrimmedMean {
                part: trust.trimmed_part,
            },
            Aggregator::GeometricMedian => Rule::GeometricMedian,
            Aggregator::CentredClipping => Rule::CentredClipping,
            Aggregator::TrustWeighted => Rule::TrustWeighted,
        },
        direction: trust.direction,
    }
}

/// A codec of the format document, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "codec")]
pub enum Codec {
    /// Top `k` of each chunk of 4096, 12-bit indices and 2-bit values.
    Sparse {
        /// Kept per chunk, 1 to 4096.
        k: u16,
    },
    /// Every weight, 8 bits.
    Int8,
    /// Every weight, 4 bits.
    Int4,
    /// Every weight, 2 bits.
    Int2,
    /// Every weight, exactly (control).
    Float32,
}

impl From<Codec> for opengpu_merge::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Sparse { k } => Self::Sparse { k },
            Codec::Int8 => Self::Int8,
            Codec::Int4 => Self::Int4,
            Codec::Int2 => Self::Int2,
            Codec::Float32 => Self::Float32,
        }
    }
}
