//! What a worker commits itself to, what it opens of it, and what an audit found.

use super::{Deciding, Granted, comparing, refuse};
use crate::audit::NOT_OPENED;
use crate::explain::seconds;
use crate::{
    AssignmentId, AuditOutcome, Commitment, Compared, EventKind, Finding, Hash, Member, Outcome,
    Refusal, WorkerId,
};

/// Most updates that are taken back between two: each is read for an audit.
const MOST_TAKEN_BACK: usize = 8;

impl Deciding<'_> {
    /// Refuses an update whose commitment does not go on its worker's last one: what it was
    /// taken from could not be proven.
    pub(super) fn check_commitment(
        &self,
        member: &Member,
        commitment: Option<&Commitment>,
    ) -> Result<(), Refusal> {
        if !self.run().settings.audit.enabled {
            return Ok(());
        }
        let Some(commitment) = commitment else {
            return refuse(
                "no_commitment",
                "updates of this run are audited, and this one commits itself to nothing; \
                 install the release that the coordinator has",
            );
        };
        let last = member.committed.as_ref().map(|last| last.assignment);
        if commitment.previous != last {
            let name = |id: Option<AssignmentId>| match id {
                Some(id) => format!("update {id}"),
                None => "no update".to_owned(),
            };
            return refuse(
                "wrong_previous",
                format!(
                    "the update follows from {}, the last one accepted of its error feedback is {}; start at zero under a new id",
                    name(commitment.previous),
                    name(last)
                ),
            );
        }
        if commitment.taken_back.len() > MOST_TAKEN_BACK {
            let (given, most) = (commitment.taken_back.len(), MOST_TAKEN_BACK);
            return refuse(
                "wrong_taken_back",
                format!(
                    "{given} updates were taken back, {most} are the most; start at zero under a new id"
                ),
            )
            .map_err(comparing(Compared {
                measured: given as u64,
                allowed: most as u64,
            }));
        }
        for (place, id) in commitment.taken_back.iter().enumerate() {
            let verdict = member.verdict(*id).map(|verdict| &verdict.outcome);
            let settled = verdict.is_some_and(|outcome| *outcome != Outcome::Waiting);
            let twice = commitment.taken_back[..place].contains(id);
            if !settled || twice || !member.untaken.contains_key(id) {
                return refuse(
                    "wrong_taken_back",
                    format!(
                        "nothing of update {id} could be taken back (again); start at zero under a new id"
                    ),
                );
            }
        }
        Ok(())
    }

    pub(super) fn opened(
        &mut self,
        assignment: AssignmentId,
        worker: WorkerId,
        openings: Hash,
    ) -> Granted {
        let audit = self.run().audits.get(&assignment);
        let Some(audit) = audit.filter(|audit| audit.worker == worker) else {
            return refuse(
                "no_such_audit",
                format!("no openings of update {assignment} are asked of worker {worker}"),
            );
        };
        if audit.openings.is_some() {
            self.explain("opened before; nothing changes");
            return Ok(());
        }
        self.emit(EventKind::AuditOpened {
            assignment,
            openings,
        });
        Ok(())
    }

    pub(super) fn audited(&mut self, assignment: AssignmentId, finding: &Finding) -> Granted {
        let run = self.run();
        let Some(audit) = run.audits.get(&assignment) else {
            return refuse(
                "no_such_audit",
                format!("update {assignment} is not being audited"),
            );
        };
        let worker = audit.worker;
        let late = run.round().saturating_sub(audit.round);
        let merge =
            finding.outcome == AuditOutcome::Passed && late <= run.settings.staleness_rounds;
        self.emit(EventKind::Audited {
            assignment,
            finding: finding.clone(),
            merge,
        });
        if finding.outcome == AuditOutcome::Failed && finding.is_proven() {
            self.drop_waiting_of(worker, "an audit of another update of its worker failed");
        }
        Ok(())
    }

    /// Ends all audits that are open: what they started from will be gone.
    pub(super) fn end_audits(&mut self, reason: &str) {
        let open: Vec<_> = self.run().audits.keys().copied().collect();
        for assignment in open {
            self.emit(EventKind::Audited {
                assignment,
                finding: Finding::undecided("rolled_back", reason),
                merge: false,
            });
        }
    }

    /// Who was asked to open chunks and did not has not proven its update.
    pub(super) fn expire_audits(&mut self) {
        let settings = &self.run().settings;
        let audits = self.run().audits.iter();
        let unopened = audits.filter(|(_, audit)| {
            let given_up_ms = audit.given_up_ms(settings);
            given_up_ms.is_some_and(|at| self.now_ms >= at)
        });
        let unopened: Vec<_> = unopened
            .map(|(id, audit)| (*id, self.now_ms.saturating_sub(audit.accepted_ms)))
            .collect();
        for (assignment, waited_ms) in unopened {
            let reason = format!(
                "the chunks that were drawn of it were not opened within {}",
                seconds(waited_ms)
            );
            self.emit(EventKind::Audited {
                assignment,
                finding: Finding::failed(NOT_OPENED, reason, None),
                merge: false,
            });
        }
    }
}
