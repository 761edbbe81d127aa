//! Nodes as the operator sees them, and what the operator tells them.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::wire::NodeView;
use opengpu_rounds::{Input, NodeId};

use super::error::{ApiError, ApiResult};
use super::extract::Segments;
use crate::Coordinator;
use crate::store::NodeState;
use crate::view::node_view;

/// `GET /v1/nodes`
pub async fn list(State(coordinator): State<Coordinator>) -> Json<Vec<NodeView>> {
    let nodes: Vec<NodeId> = coordinator.fleet().lock().nodes.keys().copied().collect();
    Json(
        nodes
            .into_iter()
            .filter_map(|node| node_view(&coordinator, node))
            .collect(),
    )
}

/// `GET /v1/nodes/{node}`
pub async fn view(
    State(coordinator): State<Coordinator>,
    Segments(node): Segments<NodeId>,
) -> ApiResult<Json<NodeView>> {
    node_view(&coordinator, node)
        .map(Json)
        .ok_or_else(|| unknown(node))
}

/// `POST /v1/nodes/{node}/{action}`
pub async fn act(
    State(coordinator): State<Coordinator>,
    Segments((node, action)): Segments<(NodeId, String)>,
) -> ApiResult<Json<NodeView>> {
    if let "vouch" | "distrust" = action.as_str() {
        return vouch(&coordinator, node, action == "vouch").await;
    }
    let state = match action.as_str() {
        "drain" => NodeState::Draining,
        "quarantine" => NodeState::Quarantined,
        "ban" => NodeState::Banned,
        "restore" | "approve" => NodeState::Active,
        _ => {
            return Err(ApiError::not_found(
                "unknown_action",
                format!(
                    "`{action}` is none of approve, drain, quarantine, ban, restore, vouch, distrust"
                ),
            ));
        }
    };
    // Whoever was not looked at yet is approved or banned, never let in by another word.
    let from: &[NodeState] = match action.as_str() {
        "approve" => &[NodeState::Pending],
        "ban" => &NodeState::ALL,
        _ => &NodeState::LOOKED_AT,
    };
    let store = coordinator.store();
    if !store
        .set_node_state(node, from, state)
        .await
        .map_err(anyhow::Error::from)?
    {
        return Err(unfit(&coordinator, node, &action));
    }
    store
        .audit("operator", &format!("node.{action}"), &node.to_string())
        .await
        .map_err(anyhow::Error::from)?;
    coordinator.signatures().set_state(node, state);
    if let Some(known) = coordinator.fleet().lock().nodes.get_mut(&node) {
        known.state = state;
    }
    if action == "restore" {
        readmit(&coordinator, node).await;
    }
    coordinator.reallocate();
    crate::caretaker::send_away_all(&coordinator).await;
    coordinator.plans_changed();
    node_view(&coordinator, node)
        .map(Json)
        .ok_or_else(|| unknown(node))
}

/// Takes the workers of a node back into the runs that left them out.
async fn readmit(coordinator: &Coordinator, node: NodeId) {
    for run in coordinator.live_runs() {
        let left_out: Vec<_> = {
            let state = run.state();
            let members = state.members();
            let of_node = members.filter(|(_, m)| m.node == node && m.left_out.is_some());
            of_node.map(|(worker, _)| worker).collect()
        };
        for worker in left_out {
            if let Err(error) = run.ask(Input::Readmit { worker }, None).await {
                tracing::warn!(run = %run.id, %worker, %error, "a worker could not be taken back");
            }
        }
    }
}

/// Why an action changed nothing: there is no such node, or it is in another state.
fn unfit(coordinator: &Coordinator, node: NodeId, action: &str) -> ApiError {
    let known = node_view(coordinator, node);
    match known.map(|view| view.state) {
        None => unknown(node),
        Some(state) if state == NodeState::Pending.as_str() => ApiError::conflict(
            "pending",
            format!("node {node} waits for approval: `opengpu node approve {node}`, or ban it"),
        ),
        Some(state) => ApiError::conflict(
            "not_pending",
            format!("node {node} is {state}; {action} is for nodes that wait for approval"),
        ),
    }
}

/// Says whether the operator vouches for a node.
async fn vouch(
    coordinator: &Coordinator,
    node: NodeId,
    vouched: bool,
) -> ApiResult<Json<NodeView>> {
    if !coordinator.fleet().lock().nodes.contains_key(&node) {
        return Err(unknown(node));
    }
    let store = coordinator.store();
    store
        .set_vouched(node, vouched)
        .await
        .map_err(anyhow::Error::from)?;
    let action = if vouched {
        "node.vouch"
    } else {
        "node.distrust"
    };
    store
        .audit("operator", action, &node.to_string())
        .await
        .map_err(anyhow::Error::from)?;
    crate::standing::learn_standing(coordinator, node).await?;
    node_view(coordinator, node)
        .map(Json)
        .ok_or_else(|| unknown(node))
}

pub(super) fn unknown(node: NodeId) -> ApiError {
    ApiError::not_found(
        "unknown_node",
        format!("there is no node {node}; `opengpu node list` shows those there are"),
    )
}
