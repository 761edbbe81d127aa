//! Folding commitments and audits.

use crate::audit::Committed;
use crate::{
    AssignmentId, Audit, AuditBefore, AuditOutcome, Commitment, Finding, Hash, Lease, Member,
    Outcome, Run,
};

/// Updates of which something may still be taken back that are remembered for each worker.
const KEPT_UNTAKEN: usize = 64;

impl Run {
    /// Takes note of a worker's commitment, and of the audit if one was drawn.
    pub(super) fn fold_committed(
        &mut self,
        assignment: AssignmentId,
        (lease, payload): (&Lease, Hash),
        (blocks_completed, tokens): (u64, u64),
        commitment: &Commitment,
        drawn: Option<(u64, u64, bool)>,
    ) {
        let Some(member) = self.members.get_mut(&lease.worker) else {
            return;
        };
        let taken_back = commitment.taken_back.iter();
        let taken_back = taken_back.filter_map(|id| {
            let payload = member.untaken.remove(id)?;
            Some((payload, part_not_merged(member, *id)))
        });
        let taken_back: Vec<_> = taken_back.collect();
        let committed = Committed {
            assignment,
            root: commitment.root,
            payload,
        };
        let before = member.committed.replace(committed);
        member.untaken.insert(assignment, payload);
        while member.untaken.len() > KEPT_UNTAKEN {
            member.untaken.pop_first();
        }
        let Some((accepted_ms, draw, held)) = drawn else {
            return;
        };
        let audit = Audit {
            worker: lease.worker,
            round: lease.round,
            base: lease.base,
            span: lease.span,
            blocks: lease.blocks(),
            blocks_completed,
            tokens,
            payload,
            root: commitment.root,
            before: before.map(|before| AuditBefore {
                root: before.root,
                payload: before.payload,
                taken_back,
            }),
            accepted_ms,
            draw,
            held,
            openings: None,
        };
        self.audits.insert(assignment, audit.into());
    }

    pub(super) fn fold_audited(
        &mut self,
        assignment: AssignmentId,
        finding: &Finding,
        merge: bool,
    ) {
        let Some(audit) = self.audits.remove(&assignment) else {
            return;
        };
        if finding.outcome != AuditOutcome::Passed
            && let Some(member) = self.members.get_mut(&audit.worker)
        {
            // Nothing may follow from what was not proven: the next update begins at zero.
            member.committed = None;
            member.untaken.clear();
            if finding.outcome == AuditOutcome::Failed {
                member.credited_tokens = member.credited_tokens.saturating_sub(audit.tokens);
                self.totals.tokens = self.totals.tokens.saturating_sub(audit.tokens);
            }
        }
        if self.is_closing(assignment) {
            // Its merge is under way and takes it.
            return;
        }
        let held = self.waiting.get(&assignment).map(|update| update.held);
        match (held, finding.outcome) {
            (Some(true), _) if merge => {
                if let Some(update) = self.waiting.get_mut(&assignment) {
                    update.held = false;
                }
            }
            (Some(true), AuditOutcome::Passed) => {
                self.drop_update(assignment, "its audit passed too late for a merge");
            }
            (Some(true), _) | (Some(false), AuditOutcome::Failed) => {
                self.drop_update(assignment, &finding.reason);
            }
            _ => {}
        }
    }
}

/// The part of an update that its worker takes back, as it reckons it itself.
fn part_not_merged(member: &Member, assignment: AssignmentId) -> f32 {
    match member.verdict(assignment).map(|verdict| &verdict.outcome) {
        Some(Outcome::Merged { factor, .. }) => 1.0 - factor.clamp(0.0, 1.0),
        _ => 1.0,
    }
}
