//! The directive stream: a node's plan, whole, at once, on every change and as a sign of life.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use opengpu_protocol::wire::Plan;
use opengpu_rounds::NodeId;

use super::error::{ApiError, ApiResult};
use super::extract::SignedNode;
use crate::Coordinator;
use crate::plan::plan_of;

/// A line comes at least this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Changes within this time share a line.
const GATHER: Duration = Duration::from_millis(20);

/// `GET /v1/directives`
pub async fn stream(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
) -> ApiResult<Response> {
    let Some(stream) = open(&coordinator, node) else {
        return Err(ApiError::unauthorised(
            "unknown_node",
            format!("there is no node {node} here"),
        ));
    };
    coordinator.reallocate();
    let (lines, body) = tokio::sync::mpsc::channel::<Bytes>(4);
    coordinator
        .tasks()
        .spawn(send_plans(coordinator.clone(), node, stream, lines));
    let body = tokio_stream::wrappers::ReceiverStream::new(body);
    let body = Body::from_stream(futures::StreamExt::map(body, Ok::<_, Infallible>));
    Ok((
        [
            (header::CONTENT_TYPE, "application/x-ndjson"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        body,
    )
        .into_response())
}

/// The number of a new stream; older ones of the node end.
fn open(coordinator: &Coordinator, node: NodeId) -> Option<u64> {
    let mut memory = coordinator.fleet().lock();
    let known = memory.nodes.get_mut(&node)?;
    known.stream += 1;
    known.connected = true;
    Some(known.stream)
}

async fn send_plans(
    coordinator: Coordinator,
    node: NodeId,
    stream: u64,
    lines: tokio::sync::mpsc::Sender<Bytes>,
) {
    let shutdown = coordinator.shutdown_token();
    let mut changes = coordinator.plan_changes();
    let mut last: Option<Plan> = None;
    let mut due = tokio::time::Instant::now();
    loop {
        let newest = {
            let memory = coordinator.fleet().lock();
            memory
                .nodes
                .get(&node)
                .is_some_and(|known| known.stream == stream)
        };
        // Replaced by a newer stream, or banned.
        let Some(plan) = newest.then(|| plan_of(&coordinator, node)).flatten() else {
            break;
        };
        let now = tokio::time::Instant::now();
        if now >= due || !last.as_ref().is_some_and(|last| same(last, &plan)) {
            let Ok(mut line) = serde_json::to_vec(&plan) else {
                break;
            };
            line.push(b'\n');
            // A node that reads nothing for long is gone, or will come back.
            match tokio::time::timeout(Duration::from_secs(30), lines.send(line.into())).await {
                Ok(Ok(())) => {}
                _ => break,
            }
            last = Some(plan);
            due = now + SIGN_OF_LIFE;
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = lines.closed() => break,
            () = tokio::time::sleep_until(due) => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    break;
                }
                tokio::time::sleep(GATHER).await;
                changes.mark_unchanged();
            }
        }
    }
    let mut memory = coordinator.fleet().lock();
    if let Some(known) = memory.nodes.get_mut(&node)
        && known.stream == stream
    {
        known.connected = false;
    }
}

/// Whether two plans differ in nothing but the time left.
fn same(one: &Plan, other: &Plan) -> bool {
    let timeless = |plan: &Plan| {
        let mut plan = plan.clone();
        for worker in &mut plan.workers {
            if let Some(assignment) = worker.run.as_mut().and_then(|run| run.assignment.as_mut()) {
                assignment.remaining_ms = 0;
            }
        }
        plan
    };
    timeless(one) == timeless(other)
}
