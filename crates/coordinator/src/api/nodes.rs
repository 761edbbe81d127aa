//! Nodes: greeting, enrolment, and the operator's view of them.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::signing::is_public_key;
use opengpu_protocol::wire::{Enrol, Enrolled, Hello, NodeView, VERSION, Welcome};
use opengpu_rounds::{Hash, NodeId};

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments};
use crate::Coordinator;
use crate::fleet::NodeMemory;
use crate::store::{EnrolError, NodeState};
use crate::view::node_view;

/// `POST /v1/hello`
pub async fn hello(Parsed(hello): Parsed<Hello>) -> ApiResult<Json<Welcome>> {
    if hello.oldest > VERSION || hello.newest < VERSION {
        return Err(ApiError::unacceptable(
            "no_common_version",
            format!(
                "this coordinator speaks protocol version {VERSION}, {} speaks {} to {}; \
                 install the same release on both sides",
                hello.software, hello.oldest, hello.newest
            ),
        ));
    }
    Ok(Json(Welcome {
        version: VERSION,
        software: concat!("opengpu ", env!("CARGO_PKG_VERSION")).to_owned(),
        unix_ms: crate::clock::unix_ms(),
    }))
}

/// `POST /v1/nodes`
pub async fn enrol(
    State(coordinator): State<Coordinator>,
    Parsed(enrol): Parsed<Enrol>,
) -> ApiResult<Json<Enrolled>> {
    if !is_public_key(&enrol.public_key) {
        return Err(ApiError::unacceptable(
            "bad_key",
            "public_key is no Ed25519 public key",
        ));
    }
    if enrol.name.chars().count() > 100
        || enrol.machine.platform.len() > 200
        || enrol.machine.software.len() > 200
    {
        return Err(ApiError::unacceptable(
            "bad_name",
            "a machine's name has at most 100 characters",
        ));
    }
    let token = Hash::of(enrol.token.as_bytes());
    let enrolled = coordinator
        .store()
        .enrol(token, enrol.public_key, &enrol.name, &enrol.machine)
        .await;
    let node = match enrolled {
        Ok(node) => node,
        Err(error @ EnrolError::UnknownToken) => {
            return Err(ApiError::forbidden("unknown_token", error.to_string()));
        }
        Err(error @ EnrolError::UsedUp { .. }) => {
            return Err(ApiError::forbidden("token_used_up", error.to_string()));
        }
        Err(error @ EnrolError::Expired { .. }) => {
            return Err(ApiError::forbidden("token_expired", error.to_string()));
        }
        Err(error @ EnrolError::Revoked) => {
            return Err(ApiError::forbidden("token_revoked", error.to_string()));
        }
        Err(EnrolError::Store(error)) => return Err(ApiError::fault(&error.into())),
    };
    let record = coordinator
        .store()
        .node(node)
        .await
        .map_err(anyhow::Error::from)?;
    let record = record.ok_or_else(|| anyhow::anyhow!("node {node} was just stored"))?;
    coordinator.signatures().learn(&record);
    coordinator
        .fleet()
        .lock()
        .nodes
        .entry(node)
        .or_insert(NodeMemory {
            name: record.name,
            machine: record.machine,
            state: record.state,
            stream: 0,
            connected: false,
        });
    tracing::info!(%node, name = enrol.name, "enrolled");
    Ok(Json(Enrolled { node }))
}

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
    let state = match action.as_str() {
        "drain" => NodeState::Draining,
        "quarantine" => NodeState::Quarantined,
        "ban" => NodeState::Banned,
        "restore" => NodeState::Active,
        _ => {
            return Err(ApiError::not_found(
                "unknown_action",
                format!("`{action}` is none of drain, quarantine, ban, restore"),
            ));
        }
    };
    let store = coordinator.store();
    if !store
        .set_node_state(node, state)
        .await
        .map_err(anyhow::Error::from)?
    {
        return Err(unknown(node));
    }
    store
        .audit("operator", &format!("node.{action}"), &node.to_string())
        .await
        .map_err(anyhow::Error::from)?;
    coordinator.signatures().set_state(node, state);
    if let Some(known) = coordinator.fleet().lock().nodes.get_mut(&node) {
        known.state = state;
    }
    coordinator.reallocate();
    crate::caretaker::send_away_all(&coordinator).await;
    coordinator.plans_changed();
    node_view(&coordinator, node)
        .map(Json)
        .ok_or_else(|| unknown(node))
}

fn unknown(node: NodeId) -> ApiError {
    ApiError::not_found(
        "unknown_node",
        format!("there is no node {node}; `opengpu node list` shows those there are"),
    )
}
