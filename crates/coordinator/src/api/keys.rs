//! Keys of nodes: a node changes its own, the operator takes them from it.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::identity::{AddKey, KeyView};
use opengpu_protocol::possession::is_proven;
use opengpu_rounds::{Hash, NodeId};

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments, SignedNode};
use crate::Coordinator;
use crate::clock::unix_ms;
use crate::store::{KeyError, StoreError};

/// `GET /v1/keys`
pub async fn list(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
) -> ApiResult<Json<Vec<KeyView>>> {
    views(&coordinator, node).await
}

/// `POST /v1/keys`
pub async fn add(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Parsed(asked): Parsed<AddKey>,
) -> ApiResult<Json<Vec<KeyView>>> {
    if !is_proven(&asked.public_key, node, &asked.proof) {
        return Err(ApiError::unacceptable(
            "bad_proof",
            format!("the proof was not made with this key for node {node}"),
        ));
    }
    let added = coordinator.store().add_key(node, asked.public_key).await;
    let key = added.map_err(refused)?;
    coordinator.signatures().add_key(node, key);
    tracing::info!(%node, key = %asked.public_key, "a node has a further key");
    views(&coordinator, node).await
}

/// `DELETE /v1/keys/{key}`
pub async fn revoke(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments(key): Segments<Hash>,
) -> ApiResult<Json<Vec<KeyView>>> {
    take(&coordinator, node, key, false).await?;
    views(&coordinator, node).await
}

/// `GET /v1/nodes/{node}/keys`
pub async fn list_of(
    State(coordinator): State<Coordinator>,
    Segments(node): Segments<NodeId>,
) -> ApiResult<Json<Vec<KeyView>>> {
    views(&coordinator, node).await
}

/// `DELETE /v1/nodes/{node}/keys/{key}`
pub async fn revoke_of(
    State(coordinator): State<Coordinator>,
    Segments((node, key)): Segments<(NodeId, Hash)>,
) -> ApiResult<Json<Vec<KeyView>>> {
    take(&coordinator, node, key, true).await?;
    coordinator
        .store()
        .audit("operator", "node.revoke_key", &format!("{node} {key}"))
        .await
        .map_err(anyhow::Error::from)?;
    views(&coordinator, node).await
}

/// Revokes a key: in the database first, then at the gate, then on the open stream.
async fn take(
    coordinator: &Coordinator,
    node: NodeId,
    key: Hash,
    even_the_last: bool,
) -> ApiResult<()> {
    let revoked = coordinator.store().revoke_key(node, key, even_the_last);
    revoked.await.map_err(refused)?;
    coordinator.signatures().revoke_key(node, key);
    coordinator.plans_changed();
    tracing::info!(%node, %key, "a node's key was revoked");
    Ok(())
}

async fn views(coordinator: &Coordinator, node: NodeId) -> ApiResult<Json<Vec<KeyView>>> {
    let keys = coordinator.store().keys_of(node).await;
    let keys = keys.map_err(anyhow::Error::from)?;
    // Each node has had a key, though it may be revoked.
    if keys.is_empty() {
        return Err(super::nodes::unknown(node));
    }
    let now_ms = unix_ms();
    let view = |key: crate::store::KeyRecord| KeyView {
        public_key: key.public_key,
        age_seconds: now_ms.saturating_sub(key.created_ms) / 1000,
        revoked: key.revoked_ms.is_some(),
    };
    Ok(Json(keys.into_iter().map(view).collect()))
}

fn refused(error: KeyError) -> ApiError {
    let message = error.to_string();
    match error {
        KeyError::TooMany { .. } => ApiError::conflict("too_many_keys", message),
        KeyError::TooManyEver { .. } => ApiError::conflict("too_many_keys_ever", message),
        KeyError::Taken => ApiError::conflict("key_taken", message),
        KeyError::Unknown { .. } => ApiError::not_found("unknown_key", message),
        KeyError::Last { .. } => ApiError::conflict("last_key", message),
        KeyError::Store(StoreError::Missing(what)) => {
            ApiError::not_found("unknown_node", format!("there is no {what}"))
        }
        KeyError::Store(error) => ApiError::fault(&error.into()),
    }
}
