//! Who is ready, who is silent, who is worth waiting for.

use std::collections::BTreeSet;

use crate::input::is_trusted;
use crate::{AssignmentId, Fleet, Lease, Run, WorkerId};

impl Run {
    /// Updates a merge needs.
    pub(crate) fn quorum(&self) -> usize {
        self.settings.quorum.max(1) as usize
    }

    /// Accepted updates that a merge could take now.
    pub(crate) fn mergeable(&self) -> usize {
        self.waiting.values().filter(|update| !update.held).count()
    }

    /// Whether a merge that is under way takes this update.
    pub(crate) fn is_closing(&self, assignment: AssignmentId) -> bool {
        let closing = self.closing.as_ref();
        closing.is_some_and(|closing| closing.updates.contains(&assignment))
    }

    /// Audits of trusted workers' updates.
    pub(crate) fn trusted_audits(&self) -> usize {
        self.audits.values().filter(|audit| !audit.held).count()
    }

    /// Workers that get nothing new yet, in a run that audits: those of whom an update waits for
    /// its audit (so that nothing follows from what is not proven, and what waits is bounded by
    /// the number of workers), that were not heard to open what was drawn, or that still owe an update
    /// (a node keeps what it accumulated for its last two updates alone), until it is unlikely to
    /// come.
    pub(crate) fn busy(&self, now_ms: u64) -> BTreeSet<WorkerId> {
        if !self.settings.audit.enabled {
            return BTreeSet::new();
        }
        let audits = self.audits.values();
        let audited = audits.filter(|audit| audit.held || audit.openings.is_none());
        let owing = self.leases.values();
        let owing = owing.filter(|lease| now_ms < self.owed_until_ms(lease));
        let owing = owing.map(|lease| lease.worker);
        audited.map(|audit| audit.worker).chain(owing).collect()
    }

    /// Until when a worker that owes an update of a run that audits gets nothing new.
    pub(crate) fn owed_until_ms(&self, lease: &Lease) -> u64 {
        let patience = self
            .settings
            .grace_ms
            .saturating_add(self.settings.silence_ms);
        lease.deadline_ms.saturating_add(patience)
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
        let busy = self.busy(now_ms);
        let members = self.members.iter();
        let ready = members.filter(|(worker, member)| {
            member.present
                && member.feedback.is_some()
                && !self.is_silent(**worker, now_ms, fleet)
                && !busy.contains(worker)
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
        let busy = self.busy(now_ms);
        let owing: BTreeSet<_> = self.leases.values().map(|lease| lease.worker).collect();
        let members = self.members.iter().filter(|(worker, member)| {
            member.present
                && last_round.is_some()
                && member.last_round == last_round
                && !owing.contains(worker)
                && !busy.contains(worker)
                && !self.is_silent(**worker, now_ms, fleet)
                && fleet.get(worker).is_some_and(|sight| {
                    !sight.draining
                        && (sight.revision != Some(self.revision) || member.feedback.is_none())
                })
        });
        members.map(|(worker, _)| *worker).collect()
    }

    /// Workers that owe an update of `round` and for which it waits. Not for those on probation
    /// where others train too: what they send is held for its audit, so that waiting would win
    /// nothing, and who comes under enough names could have every round wait out its grace.
    pub(crate) fn waited_for<'a>(
        &'a self,
        round: u64,
        fleet: &'a Fleet,
    ) -> impl Iterator<Item = WorkerId> + 'a {
        let trusted = move |worker: &WorkerId| is_trusted(fleet, *worker);
        let others = self.settings.audit.enabled
            && self
                .members
                .iter()
                .any(|(worker, member)| member.last_round == Some(round) && trusted(worker));
        self.outstanding(round)
            .filter(move |worker| !others || trusted(worker))
    }

    /// Workers that owe an update of `round`.
    pub(crate) fn outstanding(&self, round: u64) -> impl Iterator<Item = WorkerId> + '_ {
        let leases = self.leases.values();
        leases
            .filter(move |lease| lease.round == round)
            .map(|lease| lease.worker)
    }
}
