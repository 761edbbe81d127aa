//! Audits by nodes: what training an assignment again gave, or that a node can't. Asked in the
//! node's plan, and taken from the node that was asked alone.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bytes::BytesMut;
use futures::StreamExt;
use opengpu_merge::audit::Again;
use opengpu_protocol::audits::AuditDeclined;
use opengpu_rounds::{Hash, NodeId, RunId};

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments, SignedNode};
use super::gate::{STALL, declared_length};
use super::intake::drain;
use super::runs::find;
use crate::Coordinator;
use crate::driver::{Answer, LiveRun};
use crate::store::NodeState;

/// Of a body that nobody asked for so much is read, so that its sender gets to hear the answer.
const SMALL_BODY: u64 = 1 << 20;
/// Longest reason that is kept.
const REASON_BYTES: usize = 300;

/// `PUT /v1/runs/{run}/audits/{number}/{hash}`
pub async fn answer(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments((run, number, hash)): Segments<(RunId, u64, Hash)>,
    request: Request,
) -> ApiResult<StatusCode> {
    let run = find(&coordinator, run)?;
    let (parts, body) = request.into_parts();
    let chunks = match asked_of(&coordinator, &run, node, number) {
        Ok(chunks) => chunks,
        Err(refusal) => {
            drain(body, SMALL_BODY).await;
            return Err(refusal);
        }
    };
    let expected = Again::bytes_of(&run.layout, &chunks);
    if let Some(bytes) = declared_length(&parts.headers)
        && bytes != expected as u64
    {
        drain(body, expected as u64).await;
        return Err(wrong_size(bytes, expected));
    }
    let bytes = read(&coordinator, body, expected).await?;
    if Hash::of(&bytes) != hash {
        return Err(ApiError::unacceptable(
            "wrong_hash",
            format!("the bytes have the hash {}, not {hash}", Hash::of(&bytes)),
        ));
    }
    let again = Again::read(&run.layout, &chunks, &bytes);
    let again = again.map_err(|wrong| ApiError::unacceptable("bad_audit", wrong.to_string()))?;
    hand_over(&run, number, Answer::Again(again))
}

/// `POST /v1/runs/{run}/audits/{number}`
pub async fn decline(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments((run, number)): Segments<(RunId, u64)>,
    Parsed(declined): Parsed<AuditDeclined>,
) -> ApiResult<StatusCode> {
    let run = find(&coordinator, run)?;
    asked_of(&coordinator, &run, node, number)?;
    let mut reason = declined.reason;
    reason.truncate(reason.floor_char_boundary(REASON_BYTES));
    hand_over(&run, number, Answer::Declined(reason))
}

/// The chunks of which this node is asked for the progress.
fn asked_of(
    coordinator: &Coordinator,
    run: &LiveRun,
    node: NodeId,
    number: u64,
) -> ApiResult<Vec<usize>> {
    let found = run.asked().find(number).filter(|(worker, _)| {
        let memory = coordinator.fleet().lock();
        let known = memory.nodes.get(&node);
        // The operator may have thought better of it meanwhile.
        let vouched =
            known.is_some_and(|known| known.standing.vouched && known.state == NodeState::Active);
        vouched && memory.owns(node, *worker)
    });
    match found {
        Some((_, chunks)) => Ok(chunks),
        None => Err(not_asked(node, number)),
    }
}

fn not_asked(node: NodeId, number: u64) -> ApiError {
    ApiError::conflict(
        "not_asked",
        format!("audit {number} is not, or no longer, asked of node {node}"),
    )
}

fn wrong_size(bytes: u64, expected: usize) -> ApiError {
    let message = format!("the progress in the drawn chunks has {expected} bytes, not {bytes}");
    ApiError::unacceptable("bad_audit", message).comparing(bytes, expected as u64)
}

fn hand_over(run: &LiveRun, number: u64, answer: Answer) -> ApiResult<StatusCode> {
    match run.asked().answer(number, answer) {
        true => Ok(StatusCode::OK),
        false => Err(ApiError::conflict(
            "not_asked",
            format!("audit {number} was answered meanwhile, or given to somebody else"),
        )),
    }
}

/// A body of so many bytes, or fewer.
async fn read(coordinator: &Coordinator, body: Body, most: usize) -> ApiResult<BytesMut> {
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let piece = tokio::time::timeout(STALL, stream.next()).await;
        match piece {
            Err(_) => {
                let seconds = STALL.as_secs();
                let message = format!("nothing of the request's body arrived for {seconds} s");
                return Err(ApiError::bad_request("stalled", message));
            }
            Ok(None) => return Ok(whole),
            Ok(Some(Err(error))) => {
                let message = format!("the body broke off: {error}");
                return Err(ApiError::bad_request("broken_body", message));
            }
            Ok(Some(Ok(piece))) => {
                coordinator
                    .metrics()
                    .received_bytes
                    .inc_by(piece.len() as u64);
                if whole.len() + piece.len() > most {
                    return Err(wrong_size((whole.len() + piece.len()) as u64, most));
                }
                whole.extend_from_slice(&piece);
            }
        }
    }
}
