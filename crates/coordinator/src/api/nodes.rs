//! Nodes as the operator sees them, and what the operator tells them.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::standing::{ActionReason, LONGEST_TEXT};
use opengpu_protocol::wire::NodeView;
use opengpu_rounds::{Input, NodeId, RunId};

use super::error::{ApiError, ApiResult};
use super::extract::{Content, Segments, parse};
use crate::Coordinator;
use crate::store::TellError;
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
    Content(body): Content,
) -> ApiResult<Json<NodeView>> {
    let Some(action) = NodeAction::read(&action) else {
        let known = NodeAction::ALL.map(NodeAction::as_str).join(", ");
        return Err(ApiError::not_found(
            "unknown_action",
            format!("`{action}` is none of {known}, review"),
        ));
    };
    // What an older command sends has no body.
    let told: ActionReason = match body.is_empty() {
        true => ActionReason::default(),
        false => parse(&body)?,
    };
    let reason = told.reason.as_deref().map(bounded).transpose()?;
    let reason = reason.filter(|reason| !reason.is_empty());
    let store = coordinator.store();
    store
        .tell_node(node, action, reason)
        .await
        .map_err(refused)?;
    let detail = match reason {
        Some(reason) => format!("{node}: {reason}"),
        None => node.to_string(),
    };
    store
        .audit("operator", &format!("node.{}", action.as_str()), &detail)
        .await
        .map_err(anyhow::Error::from)?;
    let everywhere = coordinator.live_runs().iter().map(|run| run.id).collect();
    let back = (action == NodeAction::Restore).then_some(everywhere);
    settle(&coordinator, node, back).await
}

/// A text for people, of bounded length.
pub(super) fn bounded(text: &str) -> ApiResult<&str> {
    let text = text.trim();
    let length = text.chars().count();
    if length > LONGEST_TEXT {
        return Err(ApiError::unacceptable(
            "bad_reason",
            format!("a reason or a note has at most {LONGEST_TEXT} characters, not {length}"),
        ));
    }
    Ok(text)
}

/// Does what follows from a node's new standing; its workers take part again in the runs `back`
/// if these left them out.
pub(super) async fn settle(
    coordinator: &Coordinator,
    node: NodeId,
    back: Option<Vec<RunId>>,
) -> ApiResult<Json<NodeView>> {
    crate::standing::learn_standing(coordinator, node).await?;
    for run in back.unwrap_or_default() {
        readmit(coordinator, node, run).await;
    }
    coordinator.reallocate();
    crate::caretaker::send_away_all(coordinator).await;
    coordinator.plans_changed();
    node_view(coordinator, node)
        .map(Json)
        .ok_or_else(|| unknown(node))
}

/// Takes the workers of a node back into a run that left them out.
async fn readmit(coordinator: &Coordinator, node: NodeId, run: RunId) {
    let Some(run) = coordinator.run(run) else {
        return;
    };
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

fn refused(error: TellError) -> ApiError {
    let message = error.to_string();
    match error {
        TellError::Unknown(node) => unknown(node),
        TellError::Pending(_) => ApiError::conflict("pending", message),
        TellError::NotPending { .. } => ApiError::conflict("not_pending", message),
        TellError::Illegal { .. } => ApiError::conflict("shut_out", message),
        TellError::Store(error) => ApiError::fault(&error.into()),
    }
}

pub(super) fn unknown(node: NodeId) -> ApiError {
    ApiError::not_found(
        "unknown_node",
        format!("there is no node {node}; `opengpu node list` shows those there are"),
    )
}
