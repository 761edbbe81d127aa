//! What was promised of updates: accepted once, audited once, dropped or merged and not both.

use super::{Invariants, ensure, numbers};
use crate::{AssignmentId, AuditOutcome, EventKind};

impl Invariants {
    pub(super) fn check_accepted(&mut self, kind: &EventKind) -> Result<(), String> {
        let EventKind::UpdateAccepted {
            assignment,
            blocks_completed,
            payload,
            tokens,
            mergeable,
            audit,
            held,
            ..
        } = kind
        else {
            return Ok(());
        };
        let given = self
            .given
            .get_mut(assignment)
            .ok_or("an update of no assignment")?;
        ensure(given.accepted.is_none(), || {
            "an assignment has two updates".into()
        })?;
        ensure(!given.returned, || "an update of a returned lease".into())?;
        let blocks: Vec<u64> = numbers(&given.blocks, u64::MAX).collect();
        ensure((1..=blocks.len() as u64).contains(blocks_completed), || {
            "no prefix".into()
        })?;
        let late = self.round.unwrap_or(0) - given.round;
        ensure(late <= self.settings.staleness_rounds, || {
            format!("{late} rounds late")
        })?;
        self.late += u64::from(late > 0);
        let proven = !self.proven.insert(given.worker);
        ensure(*mergeable == proven, || {
            "only a joiner's first update is not merged".into()
        })?;
        ensure(!held || audit.is_some(), || {
            "held for an audit that nobody makes".into()
        })?;
        given.accepted = Some((*blocks_completed, *mergeable, *payload));
        (given.tokens, given.held, given.audited) = (*tokens, *held, audit.is_some());
        let kept = if *mergeable {
            *blocks_completed as usize
        } else {
            0
        };
        for block in &blocks[kept..] {
            self.held.remove(block);
        }
        *self.credited.entry(given.worker).or_default() += tokens;
        Ok(())
    }

    pub(super) fn check_audited(&mut self, kind: &EventKind) -> Result<(), String> {
        let EventKind::Audited {
            assignment,
            finding,
            merge,
        } = kind
        else {
            return Ok(());
        };
        let merging = self.is_merging(*assignment);
        let given = self
            .given
            .get_mut(assignment)
            .ok_or("an audit of no assignment")?;
        ensure(std::mem::take(&mut given.audited), || {
            "an update was audited twice".into()
        })?;
        ensure(!merge || finding.outcome == AuditOutcome::Passed, || {
            "merged although its audit did not pass".into()
        })?;
        let failed = finding.outcome == AuditOutcome::Failed;
        if failed && let Some(credited) = self.credited.get_mut(&given.worker) {
            *credited -= given.tokens;
        }
        let dropped = failed || (given.held && !merge);
        given.held = false;
        if let Some((completed, true, _)) = given.accepted
            && dropped
            && !merging
            && !std::mem::replace(&mut given.dropped, true)
        {
            for block in numbers(&given.blocks, completed) {
                self.held.remove(&block);
            }
        }
        Ok(())
    }

    pub(super) fn check_dropped(
        &mut self,
        assignment: AssignmentId,
        reason: &str,
    ) -> Result<(), String> {
        ensure(!reason.is_empty(), || {
            "an update dropped without a reason".into()
        })?;
        let merging = self.is_merging(assignment);
        let given = self
            .given
            .get_mut(&assignment)
            .ok_or("an unknown update dropped")?;
        let Some((completed, true, _)) = given.accepted.filter(|_| !merging) else {
            return Err(format!("update {assignment} did not wait"));
        };
        ensure(!std::mem::replace(&mut given.dropped, true), || {
            "an update was dropped twice".into()
        })?;
        for block in numbers(&given.blocks, completed) {
            self.held.remove(&block);
        }
        Ok(())
    }

    /// Whether a merge has it, or the one under way takes it.
    fn is_merging(&self, assignment: AssignmentId) -> bool {
        self.merged.contains(&assignment) || self.closing.contains(&assignment)
    }
}
