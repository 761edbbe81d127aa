//! Audits in a simulated fleet: openings come after a while or never, and what an audit finds
//! is drawn.

use rand::RngExt;

use super::world::World;
use crate::{
    AssignmentId, Audit, AuditOutcome, Commitment, Finding, Hash, Input, Outcome, WorkerId,
};

impl World<'_> {
    /// What an honest worker commits itself to: it goes on its last accepted update, and takes
    /// back whatever it may.
    pub(super) fn commitment_of(
        &mut self,
        epoch: u64,
        worker: WorkerId,
        payload: Hash,
    ) -> Option<Commitment> {
        let owner = self.owner(epoch)?;
        let member = owner.run.member(worker)?;
        let settled = |id: &AssignmentId| {
            let verdict = member.verdict(*id);
            verdict.is_some_and(|verdict| verdict.outcome != Outcome::Waiting)
        };
        let untaken = member.untaken.keys().copied().filter(settled);
        Some(Commitment {
            root: payload,
            previous: member.committed.as_ref().map(|last| last.assignment),
            taken_back: untaken.collect(),
        })
    }

    /// Brings some of the audits on.
    pub(super) fn audit_some(&mut self, epoch: u64) {
        let Some(owner) = self.owner(epoch) else {
            return;
        };
        let audits = owner.run.audits();
        let audits: Vec<_> = audits.map(|(id, audit)| (id, audit.clone())).collect();
        for (assignment, audit) in audits {
            let input = match audit.openings {
                // Some are never opened: these lots are drawn by name.
                None if assignment.0 % 11 == 0 || !self.random.random_bool(0.3) => continue,
                None => {
                    let openings = Hash([assignment.0 as u8; 32]);
                    self.blobs.insert(openings, ());
                    Input::Opened {
                        assignment,
                        worker: audit.worker,
                        openings,
                    }
                }
                Some(_) if !self.random.random_bool(0.3) => continue,
                Some(_) => {
                    self.check_evidence(epoch, &audit);
                    Input::Audited {
                        assignment,
                        finding: self.finding(),
                    }
                }
            };
            self.ask(epoch, input);
        }
    }

    /// Whoever audits must still find what the audit is about.
    fn check_evidence(&mut self, epoch: u64, audit: &Audit) {
        if !self.log.is_owner(epoch) {
            return;
        }
        let before = audit.before.iter();
        let before = before.flat_map(|before| {
            let taken_back = before.taken_back.iter().map(|(payload, _)| *payload);
            taken_back.chain([before.payload])
        });
        let mut needed = before.chain(audit.openings).chain([audit.payload]);
        if let Some(lost) = needed.find(|blob| !self.blobs.contains_key(blob)) {
            self.broken = Some(format!("blob {lost} of a pending audit is gone"));
        }
    }

    fn finding(&mut self) -> Finding {
        let outcome = match self.random.random_range(0..20) {
            0 => AuditOutcome::Failed,
            1 => AuditOutcome::Undecided,
            _ => AuditOutcome::Passed,
        };
        Finding {
            outcome,
            code: "drawn".into(),
            reason: "it was drawn".into(),
            measured: Some(0.1),
            allowed: Some(0.2),
            reruns: Vec::new(),
        }
    }
}
