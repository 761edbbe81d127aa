//! A fleet of equal workers that train in rounds, in one thread.

mod audits;
mod figures;
mod honest;
mod training;
mod worker;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use opengpu_protocol::{Aggregator, RunSpec, SyncSettings, TrustSettings};
use opengpu_rounds::{AuditRules, RoundSettings, WEIGHING};
use opengpu_trainer_protocol::InnerSettings;
use serde::{Deserialize, Serialize};

pub use self::audits::Auditing;
pub use self::figures::{Audited, Counted, Figures};
pub use self::honest::{Kind, Tally};

use self::honest::Unusual;
use self::training::Training;
use crate::{Data, Hostile};

/// Length of a simulated round, in milliseconds of a clock that nothing waits for.
const ROUND_MS: u64 = 60_000;

/// How workers learn from each other in rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Federated {
    /// Rounds.
    pub rounds: u64,
    /// Inner steps in a round (H).
    pub steps: u64,
    /// Go on until the merges counted so many tokens, however many rounds that takes; 0: `rounds`
    /// says how long it is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total_tokens: u64,
    /// Compression and outer optimiser.
    pub sync: SyncSettings,
    /// Part of a worker's unsent progress that it starts a round with: 0 is the product's
    /// way (start from the global weights), 1 keeps all of it.
    #[serde(default)]
    pub keep_unsent: f32,
    /// How far workers are trusted; None: the plain mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustSettings>,
    /// Workers that do something else than they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostile: Option<Hostile>,
    /// Audits, by the rules of `trust`; None: nothing is audited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audits: Option<Auditing>,
}

fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

impl Federated {
    /// Trains `workers` workers from first weights, which `seed` decides together with the
    /// order of the data, to the last round.
    pub fn run(
        &self,
        data: &Data,
        inner: &InnerSettings,
        workers: u64,
        seed: u64,
    ) -> Result<Figures> {
        Training::start(self, (data, inner), workers, seed, None)?.finish()
    }

    /// The same with honest workers of which many are unusual; says what became of their updates,
    /// by kind.
    pub fn honest(
        &self,
        data: &Data,
        inner: &InnerSettings,
        workers: u64,
        seed: u64,
    ) -> Result<BTreeMap<Kind, Tally>> {
        ensure!(
            self.hostile.is_none() && self.audits.is_some(),
            "unusual workers are honest, and audited"
        );
        let unusual = Unusual::new(data.other_text()?);
        Training::start(self, (data, inner), workers, seed, Some(unusual))?.tallies()
    }

    fn trust(&self) -> TrustSettings {
        self.trust.clone().unwrap_or(TrustSettings {
            aggregator: Aggregator::Mean,
            ..TrustSettings::default()
        })
    }

    /// Blocks a second that fit exactly `steps` blocks into a round.
    fn speed(&self) -> f64 {
        self.steps as f64 / (ROUND_MS as f64 / 1000.0)
    }

    /// Rules of a run with so many workers. One in which some may be put in quarantine goes on
    /// with those that are left, as by the product's defaults; in one without audits everybody
    /// is there in each round, but for hostile workers whose update is refused.
    fn round_settings(
        &self,
        workers: u64,
        blocks_per_epoch: u64,
        audit: AuditRules,
    ) -> Result<RoundSettings> {
        let all = u32::try_from(workers)?;
        let defaults = RoundSettings::default();
        let (least, most, quorum) = match audit.enabled {
            true => (
                defaults.min_workers,
                defaults.max_workers.max(all),
                defaults.quorum,
            ),
            false => {
                let hostile = self.hostile.map_or(0, |hostile| hostile.workers);
                (all, all, u32::try_from(workers - hostile)?)
            }
        };
        Ok(RoundSettings {
            rounds: self.rounds,
            total_tokens: self.total_tokens,
            blocks_per_epoch,
            min_workers: least,
            max_workers: most,
            quorum,
            duration_ms: ROUND_MS,
            forming_ms: 0,
            max_blocks: self.steps,
            audit,
            weighing: WEIGHING,
            ..defaults
        })
    }

    fn spec(&self, inner: &InnerSettings, seed: u64) -> RunSpec {
        RunSpec {
            sync: self.sync.clone(),
            trust: self.trust(),
            ..run_file(inner, seed)
        }
    }
}

/// What a run file would say, where all but this is the default.
pub fn run_file(inner: &InnerSettings, seed: u64) -> RunSpec {
    RunSpec {
        name: "experiment".into(),
        dataset: "corpus".into(),
        seed,
        preset: None,
        model: None,
        block_sequences: inner.batch_sequences,
        round: RoundSettings::default(),
        inner: inner.clone(),
        sync: SyncSettings::default(),
        trust: TrustSettings::default(),
        evaluate_every: 0,
        checkpoint_every: 0,
    }
}
