//! How far nodes are trusted, in memory as it is in the database.

use opengpu_rounds::NodeId;

use crate::Coordinator;
use crate::store::NodeState;

/// Reads a node's standing and state again, after an audit may have changed them.
pub async fn learn_standing(coordinator: &Coordinator, node: NodeId) -> anyhow::Result<()> {
    let store = coordinator.store();
    let standing = store.standing(node).await?;
    let Some(record) = store.node(node).await? else {
        return Ok(());
    };
    let before = {
        let mut memory = coordinator.fleet().lock();
        let Some(known) = memory.nodes.get_mut(&node) else {
            return Ok(());
        };
        known.standing = standing;
        std::mem::replace(&mut known.state, record.state)
    };
    if before != record.state {
        coordinator.signatures().set_state(node, record.state);
        if record.state == NodeState::Quarantined {
            tracing::warn!(%node, failed = standing.failed, "a node failed an audit and is in quarantine; `opengpu node restore` ends it");
            let detail = format!("{node}: it failed an audit");
            store
                .audit("coordinator", "node.quarantine", &detail)
                .await?;
        }
        coordinator.plans_changed();
    }
    Ok(())
}
