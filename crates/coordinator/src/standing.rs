//! How far nodes are trusted, in memory as it is in the database.

use opengpu_protocol::standing::{Against, AppealOutcome, AppealView, ChangeView, StandingPlan};
use opengpu_rounds::NodeId;
use opengpu_rounds::standing::{Cause, Level};

use crate::Coordinator;
use crate::clock::unix_ms;
use crate::fleet::NodeMemory;
use crate::metrics::CodeLabel;
use crate::store::{ChangeRecord, STEPS};

/// Reads a node's standing and state again, after something may have changed them; counts and
/// logs each step that is new.
pub async fn learn_standing(coordinator: &Coordinator, node: NodeId) -> anyhow::Result<()> {
    // One after the other: who read first must not write last.
    let _turn = coordinator.learning().lock().await;
    let store = coordinator.store();
    let Some(record) = store.node(node).await? else {
        return Ok(());
    };
    let standing = store.standing(node).await?;
    let changes = store.changes_of(node, STEPS).await?;
    let approved = coordinator.enrolment().has_approved(record.admitted);
    let new = {
        let mut memory = coordinator.fleet().lock();
        let Some(known) = memory.nodes.get_mut(&node) else {
            return Ok(());
        };
        let seen = known.newest_change;
        known.state = record.state;
        known.standing = standing;
        known.approved = approved;
        known.hear(&changes);
        changes.iter().filter(|change| change.id > seen).count()
    };
    coordinator.signatures().set_state(node, record.state);
    for change in changes[..new].iter().rev() {
        note(coordinator, node, change).await?;
    }
    coordinator.plans_changed();
    Ok(())
}

async fn note(
    coordinator: &Coordinator,
    node: NodeId,
    change: &ChangeRecord,
) -> anyhow::Result<()> {
    let code = change.code.clone();
    let counted = &coordinator.metrics().standing_changes;
    counted.get_or_create(&CodeLabel { code }).inc();
    tracing::info!(
        %node, change = change.id, from = %change.from, to = %change.to, code = change.code,
        reason = change.reason, "a node's standing changed"
    );
    let action = match change.cause {
        Cause::Doubt => "node.suspect",
        Cause::Proof => {
            tracing::warn!(%node, change = change.id, reason = change.reason, "a node failed an audit and is in quarantine; `opengpu node show` has the evidence, `opengpu node review` or `restore` ends it");
            "node.quarantine"
        }
        _ => return Ok(()),
    };
    let detail = format!("{node}: {}", change.reason);
    let store = coordinator.store();
    Ok(store.audit("coordinator", action, &detail).await?)
}

impl NodeMemory {
    /// Takes note of the node's steps, newest first.
    pub(crate) fn hear(&mut self, changes: &[ChangeRecord]) {
        let newest = changes.first().map_or(0, |change| change.id);
        self.newest_change = self.newest_change.max(newest);
        self.against = against(self.standing.level, changes);
        self.appeals = changes.iter().any(|change| {
            let appeal = change.appeal.as_ref();
            appeal.is_some_and(|appeal| appeal.outcome == AppealOutcome::Open)
        });
    }

    /// Where it stands, for its owner.
    pub(crate) fn standing_plan(&self) -> StandingPlan {
        StandingPlan {
            standing: self.standing.level_at(unix_ms()),
            against: self.against.clone(),
        }
    }
}

/// The newest that is held against a node; of one that stands well, the newest that its owner
/// appealed, so that he hears the answer.
fn against(level: Level, changes: &[ChangeRecord]) -> Option<Against> {
    let mut faults = changes.iter().filter(|c| c.cause.severity().is_some());
    let found = faults.find(|change| match level.is_held_against() {
        true => change.holds(),
        false => change.appeal.is_some(),
    })?;
    let appeal = found.appeal.as_ref();
    Some(Against {
        change: found.id,
        code: found.code.clone(),
        reason: found.reason.clone(),
        reversed: found.reversed_by.is_some(),
        appeal: appeal.map(|appeal| appeal.outcome),
        note: appeal.and_then(|appeal| appeal.note.clone()),
    })
}

/// A step as people see it.
pub fn change_view(change: ChangeRecord) -> ChangeView {
    let now_ms = unix_ms();
    let age = |at_ms: u64| now_ms.saturating_sub(at_ms) / 1000;
    let by = match change.cause.is_operators() {
        true => "operator",
        false => "coordinator",
    };
    ChangeView {
        change: change.id,
        age_seconds: age(change.at_ms),
        from: change.from,
        to: change.to,
        cause: change.cause,
        by: by.to_owned(),
        code: change.code,
        reason: change.reason,
        evidence: change.evidence,
        reversed_by: change.reversed_by,
        appeal: change.appeal.map(|appeal| AppealView {
            text: appeal.text,
            age_seconds: age(appeal.at_ms),
            outcome: appeal.outcome,
            note: appeal.note,
        }),
    }
}
