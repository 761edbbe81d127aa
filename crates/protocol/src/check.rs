//! What a run file may say: every field with its range, in sentences for its author.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::{Aggregator, Codec, RunSpec, SyncSettings, TrustSettings};
use opengpu_rounds::RoundSettings;
use opengpu_trainer_protocol::{InnerSettings, InnerState, ModelConfig, preset_names};

/// Longest name of a run or dataset.
const NAME_LIMIT: usize = 64;
/// Longest round or wait: a week.
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
/// Most weights of a model.
const PARAMETER_LIMIT: u128 = 1 << 40;

/// Why a run file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is no TOML, or a field is unknown, missing or of the wrong type.
    #[error("the run file does not read")]
    Syntax(#[from] toml::de::Error),
    /// A field is outside its range.
    #[error("{field}: {problem}")]
    Field {
        /// For example `sync.tau`.
        field: String,
        /// With the number and what is allowed.
        problem: String,
    },
}

impl RunSpec {
    /// Reads and checks a run file.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        let spec: Self = toml::from_str(text)?;
        spec.check_new()?;
        Ok(spec)
    }

    /// The run file that reads back as this.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// Refuses what nobody should begin any more, beside all that [`check`](Self::check) refuses: runs
    /// from before go on.
    pub fn check_new(&self) -> Result<(), SpecError> {
        self.check()?;
        let sync = &self.sync;
        if matches!(sync.up, Codec::Sparse { .. }) && sync.tau < LEAST_TAU {
            let problem = format!(
                "{} is too low for sparse updates: it lets who sends to a weight alone decide its step; \
                 {LEAST_TAU} or more holds it down",
                sync.tau
            );
            return field("sync.tau", problem);
        }
        Ok(())
    }

    /// Refuses a run that can't be carried out, naming the field and what is allowed.
    pub fn check(&self) -> Result<(), SpecError> {
        check_name("name", &self.name)?;
        check_name("dataset", &self.dataset)?;
        within("seed", self.seed, 0..=(1 << 53) - 1)?;
        match (&self.preset, &self.model) {
            (None, None) => {
                return field(
                    "preset",
                    format!("give a preset ({}) or [model]", presets()),
                );
            }
            (Some(preset), _) if ModelConfig::preset(preset).is_none() => {
                return field("preset", format!("{preset:?} is none of {}", presets()));
            }
            _ => {}
        }
        if let Some(model) = &self.model {
            check_model(model)?;
        }
        let batch = self.inner.batch_sequences;
        within("inner.batch_sequences", batch, 1..=65_536)?;
        within("block_sequences", self.block_sequences, 1..=1 << 20)?;
        if !self.block_sequences.is_multiple_of(batch) {
            let blocks = self.block_sequences;
            let problem = format!("{blocks} must be a multiple of inner.batch_sequences = {batch}");
            return field("block_sequences", problem);
        }
        check_rounds(&self.round)?;
        check_inner(&self.inner)?;
        check_sync(&self.sync)?;
        check_trust(&self.trust, &self.sync)?;
        within("checkpoint_every", self.checkpoint_every, 1..=1_000_000)?;
        within("evaluate_every", self.evaluate_every, 0..=1_000_000)
    }
}

fn check_rounds(round: &RoundSettings) -> Result<(), SpecError> {
    within("round.rounds", round.rounds, 1..=10_000_000)?;
    within(
        "round.total_tokens",
        round.total_tokens,
        0..=1_000_000_000_000_000,
    )?;
    within("round.min_workers", round.min_workers, 1..=1_000_000)?;
    within(
        "round.max_workers",
        round.max_workers,
        round.min_workers..=1_000_000,
    )?;
    if round.quorum < 1 || round.quorum > round.min_workers {
        let (quorum, workers) = (round.quorum, round.min_workers);
        return field(
            "round.quorum",
            format!("{quorum} must be at least 1 and at most round.min_workers = {workers}"),
        );
    }
    within("round.duration_ms", round.duration_ms, 1..=WEEK_MS)?;
    within("round.grace_ms", round.grace_ms, 0..=WEEK_MS)?;
    within("round.forming_ms", round.forming_ms, 0..=WEEK_MS)?;
    within("round.silence_ms", round.silence_ms, 1_000..=WEEK_MS)?;
    within("round.max_blocks", round.max_blocks, 1..=1_000_000)?;
    within("round.staleness_rounds", round.staleness_rounds, 1..=1_000)?;
    within("round.stretch", round.stretch, 1.0..=10.0)
}

fn check_inner(inner: &InnerSettings) -> Result<(), SpecError> {
    within("inner.learning_rate", inner.learning_rate, 1e-9..=10.0)?;
    within("inner.beta1", inner.beta1, 0.0..=0.999_999)?;
    within("inner.beta2", inner.beta2, 0.0..=0.999_999)?;
    within("inner.epsilon", inner.epsilon, 1e-16..=1.0)?;
    within("inner.weight_decay", inner.weight_decay, 0.0..=10.0)?;
    within("inner.gradient_clip", inner.gradient_clip, 1e-6..=1e6)?;
    within("inner.warmup_fraction", inner.warmup_fraction, 0.0..=1.0)?;
    within("inner.final_fraction", inner.final_fraction, 0.0..=1.0)?;
    let warmup = inner.round_warmup_steps;
    within("inner.round_warmup_steps", warmup, 0..=1_000_000)?;
    if warmup > 0 && inner.state == InnerState::Carry {
        let problem = format!(
            "{warmup} steps would warm up moments that inner.state = \"carry\" keeps warm; \
             leave it 0, or set inner.state = \"reset\""
        );
        return field("inner.round_warmup_steps", problem);
    }
    Ok(())
}

/// Least floor of a coordinate's denominator where most updates send nothing to most of them: as
/// much as one node has of a round at most, in a fleet that is not tiny.
const LEAST_TAU: f32 = 0.25;

fn check_sync(sync: &SyncSettings) -> Result<(), SpecError> {
    for (name, codec) in [("sync.up", sync.up), ("sync.down", sync.down)] {
        if let Codec::Sparse { k } = codec {
            within(&format!("{name}.k"), k, 1..=4096)?;
        }
    }
    within("sync.feedback_decay", sync.feedback_decay, 0.0..=1.0)?;
    within(
        "sync.down_feedback_decay",
        sync.down_feedback_decay,
        0.0..=1.0,
    )?;
    within("sync.tau", sync.tau, 0.0..=1.0)?;
    within("sync.outer_rate", sync.outer_rate, 1e-6..=100.0)?;
    within("sync.outer_momentum", sync.outer_momentum, 0.0..=0.999)
}

fn check_trust(trust: &TrustSettings, sync: &SyncSettings) -> Result<(), SpecError> {
    within("trust.trimmed_part", trust.trimmed_part, 0.001..=0.499)?;
    within("trust.audit_rate", trust.audit_rate, 0.0..=1.0)?;
    within("trust.audit_chunks", trust.audit_chunks, 1..=256)?;
    if let Some(tolerance) = trust.audit_tolerance {
        within("trust.audit_tolerance", tolerance, 1e-9..=1.0)?;
    }
    within("trust.probation_audits", trust.probation_audits, 0..=1_000)?;
    within("trust.rollback_above", trust.rollback_above, 0.0..=10.0)?;
    within("trust.probe_sequences", trust.probe_sequences, 0..=256)?;
    within("trust.probe_above", trust.probe_above, 0.0..=10.0)?;
    if trust.aggregator == Aggregator::TrustWeighted && !sync.clip_to_median_norm {
        let problem = "trust-weighted looks at directions alone; \
            it needs sync.clip_to_median_norm = true, which limits lengths";
        return field("trust.aggregator", problem.to_owned());
    }
    if trust.aggregator == Aggregator::TrustWeighted && !trust.direction {
        let problem = "trust-weighted is the mean of updates weighed by their direction; \
            without directions write trust.aggregator = \"mean\"";
        return field("trust.direction", problem.to_owned());
    }
    Ok(())
}

/// A model that can be: within the decoder's rules, and with a number of weights that a
/// program can count.
fn check_model(model: &ModelConfig) -> Result<(), SpecError> {
    let sizes = [
        ("model.vocab_size", model.vocab_size, 1 << 24),
        ("model.hidden_size", model.hidden_size, 1 << 17),
        ("model.intermediate_size", model.intermediate_size, 1 << 19),
        ("model.num_hidden_layers", model.num_hidden_layers, 1 << 10),
        (
            "model.num_attention_heads",
            model.num_attention_heads,
            1 << 10,
        ),
        (
            "model.num_key_value_heads",
            model.num_key_value_heads,
            1 << 10,
        ),
        (
            "model.max_position_embeddings",
            model.max_position_embeddings,
            1 << 21,
        ),
    ];
    for (name, size, most) in sizes {
        within(name, size, 1..=most)?;
    }
    within("model.rms_norm_eps", model.rms_norm_eps, 0.0..=1.0)?;
    within("model.rope_theta", model.rope_theta, 1.0..=1e12)?;
    model.check().or_else(|problem| field("model", problem))?;
    let parameters = model
        .tensors()
        .iter()
        .map(|tensor| tensor.len() as u128)
        .sum::<u128>();
    if parameters > PARAMETER_LIMIT {
        let problem = format!("it has {parameters} weights; at most {PARAMETER_LIMIT} are allowed");
        return field("model", problem);
    }
    Ok(())
}

/// A name that is safe as a folder's name and in a path.
fn check_name(name: &str, value: &str) -> Result<(), SpecError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.is_empty()
        || value.len() > NAME_LIMIT
        || value.starts_with('.')
        || !value.chars().all(plain)
    {
        return field(
            name,
            format!(
                "{value:?} must be 1 to {NAME_LIMIT} of the characters a-z A-Z 0-9 - _ . and not start with a dot"
            ),
        );
    }
    Ok(())
}

/// Not a number is within nothing.
fn within<T: PartialOrd + Display>(
    name: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<(), SpecError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    field(
        name,
        format!(
            "{value} must be from {} to {}",
            allowed.start(),
            allowed.end()
        ),
    )
}

fn field<T>(field: &str, problem: String) -> Result<T, SpecError> {
    Err(SpecError::Field {
        field: field.to_owned(),
        problem,
    })
}

fn presets() -> String {
    preset_names().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use opengpu_trainer_protocol::Optimizer;

    const FILE: &str = r#"
        name = "shakespeare"
        dataset = "tiny"
        preset = "nano"

        [round]
        rounds = 20
        min_workers = 3
        max_workers = 8
        quorum = 2
        duration_ms = 5000
        grace_ms = 2000
        forming_ms = 1000
        max_blocks = 100
        stretch = 1.5
        staleness_rounds = 2
        silence_ms = 15000

        [sync]
        up = { codec = "sparse", k = 64 }
    "#;

    #[test]
    fn runs_from_before_directions_were_looked_at_are_merged_without() {
        let mut spec: RunSpec = toml::from_str(FILE).unwrap();
        assert!(spec.trust.direction);
        for (weighing, expected) in [(0, false), (1, false), (opengpu_rounds::WEIGHING, true)] {
            spec.round.weighing = weighing;
            assert_eq!(spec.outer_settings().direction, expected, "{weighing}");
        }
        spec.trust.direction = false;
        assert!(!spec.outer_settings().direction);
    }

    #[test]
    fn a_run_file_reads_and_reads_back_the_same() {
        let spec = RunSpec::from_toml(FILE).unwrap();
        assert_eq!(spec.sync.up, Codec::Sparse { k: 64 });
        assert_eq!(spec.round.quorum, 2);
        let again = RunSpec::from_toml(&spec.to_toml().unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn each_field_out_of_range_is_refused_by_name_with_what_is_allowed() {
        type Change = fn(&mut RunSpec);
        let changes: &[(&str, Change)] = &[
            ("name", |spec| spec.name = "../etc".into()),
            ("dataset", |spec| spec.dataset = String::new()),
            ("preset", |spec| spec.preset = Some("huge".into())),
            ("preset", |spec| spec.preset = None),
            ("block_sequences", |spec| spec.block_sequences = 12),
            ("inner.batch_sequences", |spec| {
                spec.inner.batch_sequences = 0
            }),
            ("round.rounds", |spec| spec.round.rounds = 0),
            ("round.total_tokens", |spec| {
                spec.round.total_tokens = u64::MAX
            }),
            ("round.quorum", |spec| spec.round.quorum = 4),
            ("round.quorum", |spec| spec.round.quorum = 0),
            ("round.max_workers", |spec| spec.round.max_workers = 2),
            ("round.stretch", |spec| spec.round.stretch = 0.5),
            ("sync.up.k", |spec| spec.sync.up = Codec::Sparse { k: 0 }),
            ("sync.down.k", |spec| {
                spec.sync.down = Codec::Sparse { k: 4097 }
            }),
            ("trust.trimmed_part", |spec| spec.trust.trimmed_part = 0.5),
            ("trust.aggregator", |spec| {
                spec.sync.clip_to_median_norm = false
            }),
            ("trust.direction", |spec| spec.trust.direction = false),
            ("trust.probe_sequences", |spec| {
                spec.trust.probe_sequences = 257
            }),
            ("trust.probe_above", |spec| spec.trust.probe_above = -0.1),
            ("sync.tau", |spec| spec.sync.tau = f32::NAN),
            ("sync.tau", |spec| spec.sync.tau = 1.5),
            ("sync.tau", |spec| spec.sync.tau = 0.2),
            ("sync.outer_rate", |spec| {
                spec.sync.outer_rate = f32::INFINITY
            }),
            ("inner.learning_rate", |spec| {
                spec.inner.learning_rate = f64::NAN
            }),
            ("inner.beta2", |spec| spec.inner.beta2 = 1.0),
            ("inner.round_warmup_steps", |spec| {
                spec.inner.round_warmup_steps = 5
            }),
            ("inner.round_warmup_steps", |spec| {
                spec.inner.state = InnerState::Reset;
                spec.inner.round_warmup_steps = 1_000_001;
            }),
            ("model.hidden_size", |spec| {
                spec.model = ModelConfig::preset("nano");
                spec.model.as_mut().unwrap().hidden_size = usize::MAX;
            }),
            ("model", |spec| {
                spec.model = ModelConfig::preset("nano");
                spec.model.as_mut().unwrap().num_key_value_heads = 3;
            }),
        ];
        for (name, change) in changes {
            let mut spec = RunSpec::from_toml(FILE).unwrap();
            change(&mut spec);
            match spec.check_new() {
                Err(SpecError::Field { field, .. }) => assert_eq!(&field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_passes_is_good_enough_to_start_and_to_merge() {
        for number in [0.0, 0.5, 0.999, 0.9995, 1.0, 10.0, 10.5, 100.0] {
            let mut spec = RunSpec::from_toml(FILE).unwrap();
            spec.round.blocks_per_epoch = 1;
            spec.round.stretch = number;
            if spec.check().is_ok() {
                assert_eq!(spec.round.problem(), None);
            }
            spec.round.stretch = 1.0;
            spec.sync.outer_momentum = number;
            if spec.check().is_ok() {
                let outer = spec.outer_settings();
                assert_eq!(outer.check(), Ok(()));
            }
        }
    }

    #[test]
    fn what_a_run_file_leaves_out_has_a_default() {
        let short = "name = \"a\"\ndataset = \"b\"\npreset = \"nano\"\n[round]\nrounds = 3\n";
        let spec = RunSpec::from_toml(short).unwrap();
        let round = RoundSettings {
            rounds: 3,
            ..RoundSettings::default()
        };
        assert_eq!(spec.round, round);
    }

    #[test]
    fn a_run_file_chooses_its_inner_optimiser_and_warms_its_rounds_up() {
        let inner = "[inner]\noptimizer = \"muon\"\nstate = \"reset\"\nround_warmup_steps = 5\n";
        let spec = RunSpec::from_toml(&format!("{FILE}\n{inner}")).unwrap();
        assert_eq!(spec.inner.optimizer, Optimizer::Muon);
        assert_eq!(spec.inner.round_warmup_steps, 5);
        let without = RunSpec::from_toml(FILE).unwrap();
        assert_eq!(without.inner.optimizer, Optimizer::AdamW);
        assert!(RunSpec::from_toml(&format!("{FILE}\n[inner]\noptimizer = \"sgd\"\n")).is_err());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = RunSpec::from_toml(&format!("rnds = 3\n{FILE}")).unwrap_err();
        assert!(matches!(error, SpecError::Syntax(_)));
    }

    #[test]
    fn every_preset_passes() {
        for preset in preset_names() {
            let mut spec = RunSpec::from_toml(FILE).unwrap();
            spec.model = ModelConfig::preset(preset);
            spec.check().unwrap();
        }
    }
}
