//! What a training with unusual workers does beside all others: joiners come and go, and what
//! stands out in a merge is tried alone, as in `crates/coordinator/src/driver/probe.rs`.

use anyhow::{Context, Result};
use opengpu_rounds::probe::{MOST_TRIED, Trial, allowed, flagged};
use opengpu_rounds::{Input, PendingMerge, Regard, WorkerId};

use super::Training;
use crate::federated::honest::Kind;

/// Rounds after which a joiner leaves and another comes.
const JOINER_ROUNDS: u64 = 10;

impl Training<'_> {
    /// A joiner leaves after its rounds, and another comes.
    pub(super) fn relieve_joiner(&mut self, round: u64) -> Result<()> {
        if self.unusual.is_none() || !(round + 1).is_multiple_of(JOINER_ROUNDS) {
            return Ok(());
        }
        let joiner = |(_, worker): &(&WorkerId, &super::Worker)| worker.kind == Some(Kind::Joiner);
        let joiners = self.workers.iter().filter(joiner);
        let joiners: Vec<WorkerId> = joiners.map(|(id, _)| *id).collect();
        for worker in joiners {
            self.workers.remove(&worker);
            self.fleet.remove(&worker);
            self.decide(&Input::Leave {
                worker,
                reason: "it has other things to do".into(),
            })?;
            self.join((None, Some(Kind::Joiner)), false, round + 1)?;
        }
        Ok(())
    }

    /// Tries what stands out in a merge on the weights `before` it; `found` are the weight, the
    /// clip factor and the regard of each update.
    pub(super) fn probe(
        &mut self,
        before: &[f32],
        pending: &PendingMerge,
        (weights, factors, regards): (Vec<f32>, Vec<f32>, Vec<Regard>),
    ) -> Result<()> {
        let trust = self.settings.trust();
        let windows = trust.probe_sequences;
        let stands_out = flagged(&weights, &factors, &regards);
        for (place, _) in &stands_out {
            self.note(pending.updates[*place].worker, |tally| tally.flagged += 1);
        }
        if windows == 0 || stands_out.is_empty() {
            return Ok(());
        }
        let loss = self.data.probe_loss(before, windows)?;
        let mut trials = Vec::new();
        for (place, flag) in stands_out.into_iter().take(MOST_TRIED) {
            let update = &pending.updates[place];
            let payload = self.blobs.get(&update.payload);
            let payload = payload.context("a payload is gone")?;
            let mut with = before.to_vec();
            opengpu_merge::add_scaled(&self.layout, payload, -factors[place], &mut with)?;
            let measured = self.data.probe_loss(&with, windows)?;
            trials.push(Trial {
                assignment: update.assignment,
                worker: update.worker,
                flag,
                before: loss,
                measured: measured.is_finite().then_some(measured),
                allowed: allowed(loss, trust.probe_above),
            });
        }
        for trial in trials.iter().filter(|trial| trial.hurts()) {
            self.note(trial.worker, |tally| tally.hurt += 1);
        }
        let revision = self.run.revision();
        self.decide(&Input::Probed { revision, trials })
    }
}
