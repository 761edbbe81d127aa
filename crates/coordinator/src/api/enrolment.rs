//! How a machine comes in: greeting and enrolment, the two requests that nobody signs.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::signing::is_public_key;
use opengpu_protocol::wire::{Enrol, Enrolled, Hello, VERSION, Welcome};
use opengpu_rounds::NodeId;

use super::error::{ApiError, ApiResult};
use super::extract::Parsed;
use crate::Coordinator;
use crate::fleet::NodeMemory;
use crate::standing::learn_standing;
use crate::store::{Admission, EnrolError, NodeState};

/// Nodes that may wait for approval at a time: what strangers can make the database keep.
const MOST_PENDING: usize = 1000;

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
    check(&enrol)?;
    let admission = admission(&coordinator, &enrol)?;
    let enrolled = coordinator
        .store()
        .enrol(admission, enrol.public_key, &enrol.name, &enrol.machine)
        .await;
    let node = enrolled.map_err(refused)?;
    let state = take_in(&coordinator, node).await?;
    tracing::info!(%node, name = enrol.name, %state, "enrolled");
    Ok(Json(Enrolled {
        node,
        pending: state == NodeState::Pending,
    }))
}

fn check(enrol: &Enrol) -> ApiResult<()> {
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
    Ok(())
}

fn admission(coordinator: &Coordinator, enrol: &Enrol) -> ApiResult<Admission> {
    let policy = coordinator.enrolment();
    let Some(admission) = policy.admission(enrol.token.as_deref()) else {
        return Err(ApiError::forbidden(
            "token_needed",
            "this coordinator admits machines by token; ask its operator for one, who makes it \
             with `opengpu node token`",
        ));
    };
    if admission == Admission::Without(NodeState::Pending) {
        let memory = coordinator.fleet().lock();
        let pending = memory.nodes.values();
        let pending = pending.filter(|node| node.state == NodeState::Pending);
        if pending.count() >= MOST_PENDING {
            return Err(ApiError::unavailable(
                "too_many_pending",
                format!(
                    "{MOST_PENDING} machines wait for this operator's approval already; come \
                     back later, or ask the operator for a token"
                ),
            ));
        }
    }
    Ok(admission)
}

fn refused(error: EnrolError) -> ApiError {
    let code = match &error {
        EnrolError::UnknownToken => "unknown_token",
        EnrolError::UsedUp { .. } => "token_used_up",
        EnrolError::Expired { .. } => "token_expired",
        EnrolError::Revoked => "token_revoked",
        EnrolError::KeyRevoked => "key_revoked",
        EnrolError::Banned(_) => "banned",
        EnrolError::Store(_) => return ApiError::fault(&error.into()),
    };
    ApiError::forbidden(code, error.to_string())
}

/// Remembers a node that is in the database; what it may do.
async fn take_in(coordinator: &Coordinator, node: NodeId) -> ApiResult<NodeState> {
    let record = coordinator.store().node(node).await;
    let record = record
        .map_err(anyhow::Error::from)?
        .ok_or_else(|| anyhow::anyhow!("node {node} was just stored"))?;
    let standing = coordinator.store().standing(node).await;
    let standing = standing.map_err(anyhow::Error::from)?;
    coordinator.signatures().learn(&record);
    let approved = coordinator.enrolment().has_approved(record.admitted);
    let (state, is_new) = {
        let mut memory = coordinator.fleet().lock();
        let is_new = !memory.nodes.contains_key(&node);
        let known = memory.nodes.entry(node).or_insert(NodeMemory {
            name: record.name,
            machine: record.machine,
            state: record.state,
            standing,
            approved,
            newest_change: 0,
            against: None,
            appeals: false,
            stream: 0,
            connected: false,
            // A node that is new here was claimed by nobody.
            account: None,
        });
        (known.state, is_new)
    };
    if is_new {
        learn_standing(coordinator, node).await?;
    }
    Ok(state)
}
