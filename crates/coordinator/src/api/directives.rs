//! The directive stream: a node's plan, whole, at once, on every change and as a sign of life.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use opengpu_protocol::wire::Plan;
use opengpu_rounds::{Hash, NodeId};
use tokio::sync::watch;

use super::error::{ApiError, ApiResult};
use super::extract::{SignedNode, SignedWith};
use crate::Coordinator;
use crate::plan::plan_of;

/// A line comes at least this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Longest wait for a node to read a line.
const UNREAD: Duration = Duration::from_secs(30);
/// Changes within this time share a line.
const GATHER: Duration = Duration::from_millis(20);

/// `GET /v1/directives`
pub async fn stream(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    SignedWith(key): SignedWith,
) -> ApiResult<Response> {
    let Some(number) = open(&coordinator, node) else {
        return Err(ApiError::unauthorised(
            "unknown_node",
            format!("there is no node {node} here"),
        ));
    };
    let stream = Stream { node, number, key };
    coordinator.reallocate();
    let (lines, body) = tokio::sync::mpsc::channel::<Bytes>(4);
    coordinator
        .tasks()
        .spawn(send_plans(coordinator.clone(), stream, lines));
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

/// An open stream.
#[derive(Clone, Copy)]
struct Stream {
    node: NodeId,
    /// The node's newest has the highest.
    number: u64,
    /// What it was asked for with.
    key: Hash,
}

impl Stream {
    /// The plan to send; None: the stream ends, for it was replaced by a newer one, its key was
    /// revoked, or the node was banned.
    fn plan(&self, coordinator: &Coordinator) -> Option<Plan> {
        let newest = {
            let memory = coordinator.fleet().lock();
            memory.nodes.get(&self.node)?.stream == self.number
        };
        let live = newest && coordinator.signatures().is_live(self.node, &self.key);
        live.then(|| plan_of(coordinator, self.node)).flatten()
    }

    /// Returns once the stream has to end.
    async fn ended(&self, coordinator: &Coordinator, mut changes: watch::Receiver<u64>) {
        while self.plan(coordinator).is_some() && changes.changed().await.is_ok() {}
    }
}

async fn send_plans(
    coordinator: Coordinator,
    stream: Stream,
    lines: tokio::sync::mpsc::Sender<Bytes>,
) {
    let shutdown = coordinator.shutdown_token();
    let mut changes = coordinator.plan_changes();
    let mut last: Option<Plan> = None;
    let mut due = tokio::time::Instant::now();
    while let Some(plan) = stream.plan(&coordinator) {
        let now = tokio::time::Instant::now();
        if now >= due || !last.as_ref().is_some_and(|last| same(last, &plan)) {
            let Ok(mut line) = serde_json::to_vec(&plan) else {
                break;
            };
            line.push(b'\n');
            // A node that reads nothing for long is gone, or will come back. One that was shut
            // out does not keep its stream open by reading nothing.
            let sending = tokio::time::timeout(UNREAD, lines.send(line.into()));
            let sent = tokio::select! {
                sent = sending => matches!(sent, Ok(Ok(()))),
                () = stream.ended(&coordinator, changes.clone()) => false,
            };
            if !sent {
                break;
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
    if let Some(known) = memory.nodes.get_mut(&stream.node)
        && known.stream == stream.number
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
