//! What a held-out loss says about a run: whether it is far above the lowest before it, and if
//! so, whose updates did it. Each update since the last good loss is tried by itself, on the
//! newest checkpoint from before it: an honest one makes the loss lower, or hardly changes it.
//! What follows is decided in `rounds`.

use std::collections::BTreeSet;

use opengpu_protocol::wire::Evaluation;
use opengpu_rounds::{Hash, Look, Revision, WorkerId};
use opengpu_trainer_protocol::{SharedFolder, TokenFiles};

use super::weights_file::WeightsFile;
use super::{LiveRun, is_over};
use crate::blobs::Blobs;
use crate::trainer::Trainer;

/// Windows of held-out text that an update is tried on.
const WINDOWS: usize = 16;
/// Updates that are tried at most, newest first.
const MOST_TRIED: usize = 128;

/// What updates are tried with.
pub struct Probe<'a> {
    /// Of which run.
    pub run: &'a LiveRun,
    /// Where payloads and checkpoints are.
    pub blobs: &'a Blobs,
    /// Measures.
    pub trainer: &'a Trainer,
    /// For the weights with an update.
    pub shared: &'a SharedFolder,
    /// The held-out text.
    pub tokens: &'a TokenFiles,
}

impl Probe<'_> {
    /// What was seen of a revision. `loss` is None if it is no finite number.
    pub async fn look(&self, revision: Revision, loss: Option<f64>) -> Look {
        let good = lowest_before(self.run, revision);
        let above = self.run.spec.round.rollback_above;
        let mut look = Look {
            revision,
            loss,
            good,
            suspects: Vec::new(),
        };
        if above > 0.0 && look.is_spike(above) {
            tracing::warn!(run = %self.run.id, %revision, loss, lowest = good.map(|(_, loss)| loss), "the held-out loss is far above the lowest before it; updates are tried one by one");
            let good = good.map_or(0, |(good, _)| good.number);
            match self.suspects(good, above).await {
                Ok(suspects) => look.suspects = suspects,
                Err(error) => {
                    tracing::error!(run = %self.run.id, error = format!("{error:#}"), "updates could not be tried");
                }
            }
        }
        look
    }

    /// Workers of whose updates since revision `good` one makes the loss worse by half of what
    /// is allowed.
    async fn suspects(&self, good: u64, above: f64) -> anyhow::Result<Vec<WorkerId>> {
        let (checkpoint, updates) = {
            let state = self.run.state();
            let checkpoint = state.checkpoint_up_to(good).copied();
            let since = state.merges().rev();
            let since = since.filter(|merge| merge.revision.number > good);
            let updates = since.flat_map(|merge| &merge.updates);
            let updates = updates.map(|update| (update.worker, update.payload));
            (checkpoint, updates.take(MOST_TRIED).collect::<Vec<_>>())
        };
        let Some(checkpoint) = checkpoint else {
            return Ok(Vec::new());
        };
        let base = WeightsFile::Blob(self.blobs.path(checkpoint.weights));
        let Some(before) = self.loss_of(checkpoint.revision, &base, WINDOWS).await? else {
            return Ok(Vec::new());
        };
        let most = before * (1.0 + above / 2.0);
        let mut suspects = BTreeSet::new();
        for (worker, payload) in updates {
            if suspects.contains(&worker) {
                continue;
            }
            let with = self.varied(&base, payload, -1.0).await?;
            let loss = self.loss_of(checkpoint.revision, &with, WINDOWS).await?;
            tracing::info!(run = %self.run.id, %worker, %payload, before, loss, most, "an update was tried");
            if loss.is_none_or(|loss| loss > most) {
                suspects.insert(worker);
            }
        }
        Ok(suspects.into_iter().collect())
    }

    /// Weights plus a payload times its factor.
    pub(super) async fn varied(
        &self,
        weights: &WeightsFile,
        payload: Hash,
        factor: f32,
    ) -> anyhow::Result<WeightsFile> {
        let payload = self.blobs.read(payload).await?;
        let name = WeightsFile::name(self.run.id, "probe");
        let layout = &self.run.layout;
        let file = self.shared.create(&name, 4 * layout.len() as u64)?;
        weights.varied(file, layout, payload, factor).await
    }

    /// The loss of weights over so many windows of held-out text, always the same ones; None if
    /// it is no finite number.
    pub(super) async fn loss_of(
        &self,
        revision: Revision,
        weights: &WeightsFile,
        windows: usize,
    ) -> anyhow::Result<Option<f64>> {
        let (model, tokens) = (&self.run.model, self.tokens.clone());
        let measured = self
            .trainer
            .evaluate(revision, model, weights.path(), tokens, Some(windows))
            .await?;
        let loss = measured.nats_per_token;
        Ok(loss.is_finite().then_some(loss))
    }
}

/// The lowest loss of weights before `revision` in its line of descent.
fn lowest_before(run: &LiveRun, revision: Revision) -> Option<(Revision, f64)> {
    let losses = run.losses();
    let state = run.state();
    let before = losses.evaluations.values();
    let before = before
        .filter(|known| known.revision.number < revision.number && state.is_live(known.revision));
    let before = before.map(
        |Evaluation {
             revision,
             nats_per_token,
             ..
         }| (*revision, *nats_per_token),
    );
    before.min_by(|one, other| one.1.total_cmp(&other.1))
}

/// Whether a checkpoint should wait for a held-out loss that is still being measured: weights
/// that turn out to be spoilt must not be what the run goes back to. Not for long, or a
/// coordinator that can't keep up with measuring would keep none.
pub fn awaits_look(run: &LiveRun) -> bool {
    let every = run.spec.evaluate_every;
    if every == 0 || run.spec.round.rollback_above <= 0.0 || run.dataset.held_out.tokens == 0 {
        return false;
    }
    let losses = run.losses();
    let state = run.state();
    let newest = state.revision();
    let Some(checkpoint) = state.checkpoint() else {
        return false;
    };
    let due = Revision {
        number: newest.number - newest.number % every,
        ..newest
    };
    let behind = newest.number - checkpoint.revision.number;
    due.number > checkpoint.revision.number
        && !is_over(&state)
        && behind < 2 * run.spec.checkpoint_every
        && !losses.evaluations.contains_key(&due)
}
