//! Who is ready, who is silent, who is worth waiting for.

use crate::{Fleet, Run, WorkerId};

impl Run {
    /// Updates a merge needs.
    pub(crate) fn quorum(&self) -> usize {
        self.settings.quorum.max(1) as usize
    }

    /// Accepted updates that a merge could take now.
    pub(crate) fn mergeable(&self) -> usize {
        self.waiting.values().filter(|update| !update.held).count()
    }

    /// Whether an update of `worker` is held for its audit. It gets nothing new until then, so
    /// that what waits for audits is bounded by the number of workers.
    pub(crate) fn is_held(&self, worker: WorkerId) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|update| update.held && update.worker == worker)
    }

    /// Whether nothing was heard of `worker` for longer than `silence_ms`.
    pub(crate) fn is_silent(&self, worker: WorkerId, now_ms: u64, fleet: &Fleet) -> bool {
        fleet.get(&worker).is_none_or(|sight| {
            now_ms.saturating_sub(sight.last_heard_ms) > self.settings.silence_ms
        })
    }

    /// Workers that could start the next round: they take part, hold the newest revision
    /// of this lineage, have named their error feedback, and are heard of.
    pub(crate) fn ready(&self, now_ms: u64, fleet: &Fleet) -> Vec<WorkerId> {
        let members = self.members.iter();
        let ready = members.filter(|(worker, member)| {
            member.present
                && member.feedback.is_some()
                && !self.is_silent(**worker, now_ms, fleet)
                && !self.is_held(**worker)
                && fleet
                    .get(worker)
                    .is_some_and(|sight| !sight.draining && sight.revision == Some(self.revision))
        });
        ready.map(|(worker, _)| *worker).collect()
    }

    /// Workers that the next round should wait a moment for: they were in the last one and
    /// are heard of, but do not hold the newest revision yet. One that still owes an update
    /// is not waited for, and neither is a newcomer that fetches a whole checkpoint.
    pub(crate) fn awaited(&self, now_ms: u64, fleet: &Fleet) -> Vec<WorkerId> {
        let last_round = self.next_round.checked_sub(1);
        let owing: std::collections::BTreeSet<_> =
            self.leases.values().map(|lease| lease.worker).collect();
        let members = self.members.iter().filter(|(worker, member)| {
            member.present
                && last_round.is_some()
                && member.last_round == last_round
                && !owing.contains(worker)
                && !self.is_held(**worker)
                && !self.is_silent(**worker, now_ms, fleet)
                && fleet.get(worker).is_some_and(|sight| {
                    !sight.draining
                        && (sight.revision != Some(self.revision) || member.feedback.is_none())
                })
        });
        members.map(|(worker, _)| *worker).collect()
    }

    /// Workers that owe an update of `round`.
    pub(crate) fn outstanding(&self, round: u64) -> impl Iterator<Item = WorkerId> + '_ {
        let leases = self.leases.values();
        leases
            .filter(move |lease| lease.round == round)
            .map(|lease| lease.worker)
    }
}
