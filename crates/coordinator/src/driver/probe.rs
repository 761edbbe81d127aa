//! The probe: the loss of each merge on a few held-out sequences, and that of updates that stood
//! out in it, each tried alone on the weights before it. Measured beside the run, after the merge
//! was published, in the queue of the held-out losses; a coordinator that is behind leaves it
//! out. What follows is decided in `rounds`.

use opengpu_rounds::probe::{Flag, HURTS_ALONE, MOST_TRIED, Trial, allowed, flagged};
use opengpu_rounds::{AssignmentId, Hash, Input, Regard, Revision, WorkerId, weights};

use super::LiveRun;
use super::spike::Probe;
use super::task::KEPT_METRICS;
use super::weights_file::WeightsFile;
use crate::Coordinator;
use crate::metrics::{CodeLabel, Metrics};

/// A merge to be probed.
pub struct Merged {
    /// What it made.
    pub revision: Revision,
    round: u64,
    merge: Hash,
    stands_out: Vec<StandsOut>,
}

/// An update that stood out.
struct StandsOut {
    assignment: AssignmentId,
    worker: WorkerId,
    payload: Hash,
    factor: f32,
    flag: Flag,
}

impl Merged {
    /// The run's newest merge, which found this about its updates; None if the run has no probe.
    /// Counts what stood out, tried or not.
    pub fn of(run: &LiveRun, regards: &[Regard], metrics: &Metrics) -> Option<Self> {
        if run.spec.trust.probe_sequences == 0 || run.dataset.held_out.tokens == 0 {
            return None;
        }
        let state = run.state();
        let merge = state.merges().next_back()?;
        let weights = weights(run.spec.round.weighing, &merge.updates);
        let found = flagged(&weights, &merge.factors, regards);
        for (_, flag) in &found {
            let code = flag.as_str().to_owned();
            let counted = &metrics.updates_flagged;
            counted.get_or_create(&CodeLabel { code }).inc();
        }
        let tried = found.into_iter().take(MOST_TRIED);
        let stands_out = tried.filter_map(|(place, flag)| {
            let update = merge.updates.get(place)?;
            Some(StandsOut {
                assignment: update.assignment,
                worker: update.worker,
                payload: update.payload,
                factor: *merge.factors.get(place)?,
                flag,
            })
        });
        Some(Self {
            revision: merge.revision,
            round: merge.round,
            merge: merge.merge,
            stands_out: stands_out.collect(),
        })
    }
}

impl Probe<'_> {
    /// Measures a merge that made these weights, and what stood out in it.
    pub async fn merge(&self, merged: &Merged, weights: &WeightsFile, coordinator: &Coordinator) {
        let run = self.run;
        let (windows, revision) = (run.spec.trust.probe_sequences, merged.revision);
        match self.loss_of(revision, weights, windows).await {
            Ok(Some(loss)) => {
                tracing::info!(run = %run.id, %revision, nats_per_token = loss, "probe loss of a merge");
                self.keep(merged, loss, coordinator).await;
            }
            // Whether the weights are spoilt, the next held-out loss says.
            Ok(None) => tracing::warn!(run = %run.id, %revision, "the probe loss is no number"),
            Err(error) => {
                tracing::warn!(run = %run.id, %revision, error = format!("{error:#}"), "a merge could not be probed");
                return;
            }
        }
        let trials = match self.trials(merged, weights, coordinator).await {
            Ok(trials) => trials,
            Err(error) => {
                tracing::warn!(run = %run.id, %revision, error = format!("{error:#}"), "updates that stood out could not be tried");
                return;
            }
        };
        if trials.iter().any(Trial::hurts)
            && let Err(error) = run.ask(Input::Probed { revision, trials }, None).await
        {
            tracing::warn!(run = %run.id, %revision, %error, "nothing followed from updates that hurt alone");
        }
    }

    async fn keep(&self, merged: &Merged, loss: f64, coordinator: &Coordinator) {
        coordinator.metrics().probe_loss.set(loss);
        let metric = {
            let mut losses = self.run.losses();
            losses.probes.insert(merged.round, loss);
            losses.forget_old();
            losses.of_round(merged.revision.lineage, merged.round)
        };
        self.run.changed();
        let store = coordinator.store();
        if let Err(error) = store
            .put_round_metric(self.run.id, &metric, KEPT_METRICS)
            .await
        {
            tracing::warn!(run = %self.run.id, error = format!("{:#}", anyhow::Error::from(error)), "a probe loss could not be stored");
        }
    }

    /// What came of the updates that stood out, on the weights that the merge went on from.
    async fn trials(
        &self,
        merged: &Merged,
        weights: &WeightsFile,
        coordinator: &Coordinator,
    ) -> anyhow::Result<Vec<Trial>> {
        let mut trials = Vec::new();
        if merged.stands_out.is_empty() {
            return Ok(trials);
        }
        let run = self.run;
        let windows = run.spec.trust.probe_sequences;
        let base = self.varied(weights, merged.merge, 1.0).await?;
        let Some(before) = self.loss_of(merged.revision, &base, windows).await? else {
            return Ok(trials);
        };
        let allowed = allowed(before, run.spec.trust.probe_above);
        for update in &merged.stands_out {
            let with = self.varied(&base, update.payload, -update.factor).await?;
            let trial = Trial {
                assignment: update.assignment,
                worker: update.worker,
                flag: update.flag,
                before,
                measured: self.loss_of(merged.revision, &with, windows).await?,
                allowed,
            };
            let code = if trial.hurts() { HURTS_ALONE } else { "passed" };
            let tried = &coordinator.metrics().updates_tried;
            let label = CodeLabel { code: code.into() };
            tried.get_or_create(&label).inc();
            tracing::info!(
                run = %run.id, worker = %update.worker, flag = update.flag.as_str(), code,
                measured = trial.measured, allowed, "an update that stood out was tried alone: {}",
                trial.explanation()
            );
            trials.push(trial);
        }
        Ok(trials)
    }
}
