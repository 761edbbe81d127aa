//! What is told of each round, and whether all ended as promised.

use super::report::{Report, RoundRow, Violation};
use super::worker::Worker;
use super::world::{RowBefore, World};
use crate::Phase;

impl World<'_> {
    pub(super) fn tell_round(&mut self, epoch: u64, round: u64) {
        let now_ms = self.now_ms;
        let Some(owner) = self.owners.iter().find(|owner| owner.epoch == epoch) else {
            return;
        };
        let Some(summary) = owner
            .run
            .rounds()
            .rev()
            .find(|summary| summary.round == round)
        else {
            return;
        };
        let each: Vec<_> = self.workers.iter().map(|w| w.busy_and_up(now_ms)).collect();
        let busy_ms: u64 = each.iter().map(|(busy, _)| busy).sum();
        let up_ms: u64 = each.iter().map(|(_, up)| up).sum();
        let refused: u64 = self.report.refused.values().sum();
        let before = &self.row_before;
        let faults = self.report.faults.iter();
        let faults =
            faults.map(|(what, count)| (*what, count - before.faults.get(what).unwrap_or(&0)));
        let row = RoundRow {
            at_ms: now_ms,
            system_ms: self.clocks().system_ms,
            round,
            revision: summary.revision,
            reason: summary.reason.clone(),
            workers: self.workers.iter().filter(|worker| worker.up).count() as u32,
            assigned: summary.assigned,
            merged: summary.merged,
            late: (self.log.invariants.late - before.late) as u32,
            refused: (refused - before.refused) as u32,
            utilisation: (busy_ms - before.busy_ms) as f64 / (up_ms - before.up_ms).max(1) as f64,
            faults: faults.filter(|(_, count)| *count > 0).collect(),
        };
        (self.on_round)(&row);
        self.row_before = RowBefore {
            late: self.log.invariants.late,
            refused,
            busy_ms,
            up_ms,
            faults: self.report.faults.clone(),
        };
        self.first_row.get_or_insert(each);
    }

    /// Finished, checkpointed, and all workers that can be heard hold the last weights.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(owner) = self.owners.last() else {
            return false;
        };
        if owner.run.phase() != Phase::Finished || !self.log.is_owner(owner.epoch) {
            return false;
        }
        let last = owner
            .run
            .digest()
            .map(|digest| (owner.run.revision(), digest));
        let there = |worker: &Worker| {
            !worker.up || !worker.willing || !worker.reachable || worker.holds == last
        };
        let since_ms = *self.finished_ms.get_or_insert(self.now_ms);
        let all = owner.run.pending_checkpoint(1).is_none() && self.workers.iter().all(there);
        if !all
            && !self.is_faulty()
            && self.now_ms > since_ms + 40 * self.settings.round.duration_ms + 600_000
        {
            self.broken = Some("workers do not come to hold the last weights".into());
        }
        all
    }

    pub(super) fn check_end(&self) -> Result<(), String> {
        self.log.check_snapshots()?;
        self.log.invariants.check_end()?;
        let owner = self.owners.last().ok_or("no coordinator is left")?;
        self.log.invariants.compare(&owner.run)?;
        if owner.run != self.log.read(false) {
            return Err("the log folds to another state than its owner has".into());
        }
        Ok(())
    }

    pub(super) fn summarise(mut self) -> Report {
        let now_ms = self.now_ms;
        let since = self.first_row.take().unwrap_or_default();
        let shares = self.workers.iter().enumerate().map(|(index, worker)| {
            let (busy, up) = worker.busy_and_up(now_ms);
            let (busy_before, up_before) = since.get(index).copied().unwrap_or((0, 0));
            (busy - busy_before, up - up_before)
        });
        let shares: Vec<_> = shares.collect();
        let (busy, up) = shares
            .iter()
            .fold((0, 0), |sum, share| (sum.0 + share.0, sum.1 + share.1));
        let run = self.log.read(false);
        let mut report = self.report;
        report.simulated_ms = now_ms;
        report.events = self.log.len() as u64;
        report.revision = Some(run.revision());
        report.merged_rounds = run.totals().merged_rounds;
        report.abandoned_rounds = run.totals().abandoned_rounds;
        report.accepted = run.totals().updates;
        report.late = self.log.invariants.late;
        report.credited_tokens = run.totals().tokens;
        report.utilisation = busy as f64 / up.max(1) as f64;
        let share = |(busy, up): &(u64, u64)| *busy as f64 / (*up).max(1) as f64;
        report.worker_utilisation = shares.iter().map(share).collect();
        report.refused_appends = self.log.refused_appends;
        report.violation = self.broken.map(|what| Violation {
            seed: report.seed,
            at_event: report.events,
            what,
        });
        report
    }
}
