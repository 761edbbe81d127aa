//! Updates: a payload is stored and checked first, then announced for an assignment, then
//! asked after.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use opengpu_merge::audit::openings_bytes;
use opengpu_protocol::query::PayloadQuery;
use opengpu_protocol::wire::{UpdateNotice, Verdict};
use opengpu_rounds::{AssignmentId, Hash, Input, NodeId, RunId, WorkerId};

use super::error::{ApiError, ApiResult};
use super::extract::{Asked as Query, Parsed, Segments, SignedNode};
use super::gate::declared_length;
use super::intake::{drain, store};
use super::runs::find;
use super::workers::check;
use crate::Coordinator;
use crate::clock::unix_ms;
use crate::driver::{LiveRun, Rejection, drawn};
use crate::plan;

/// Of a body that nobody asked for so much is read, so that its sender gets to hear the answer.
const SMALL_BODY: u64 = 1 << 20;
/// As much of a payload that is too large is read for nothing, so that its sender hears why; who
/// sends more finds the connection closed.
const LINGER: u64 = 64 << 20;

/// `PUT /v1/runs/{run}/payloads/{hash}`
pub async fn payload(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments((run, hash)): Segments<(RunId, Hash)>,
    Query(sent_for): Query<PayloadQuery>,
    request: Request,
) -> ApiResult<StatusCode> {
    let run = find(&coordinator, run)?;
    // As it is now: while the payload comes the lease may end.
    let named = sent_for.assignment.map(AssignmentId);
    let assignment = named.or_else(|| only_assignment(&run, node));
    match take(&coordinator, &run, node, hash, request).await {
        Ok(()) => Ok(StatusCode::OK),
        Err(refusal) => match assignment {
            Some(assignment) => Err(rejected(&run, node, assignment, refusal).await),
            None => Err(refusal),
        },
    }
}

/// What a node holds in a run, if that is one assignment.
fn only_assignment(run: &LiveRun, node: NodeId) -> Option<AssignmentId> {
    let state = run.state();
    let mut held = state.leases().filter(|(_, lease)| {
        let member = state.member(lease.worker);
        member.is_some_and(|member| member.node == node)
    });
    let (assignment, _) = held.next()?;
    held.next().is_none().then_some(assignment)
}

async fn take(
    coordinator: &Coordinator,
    run: &LiveRun,
    node: NodeId,
    hash: Hash,
    request: Request,
) -> ApiResult<()> {
    if run.is_over() {
        return Err(ApiError::conflict(
            "run_over",
            format!("run {} is over and takes no more updates", run.id),
        ));
    }
    let limit = run.payload_limit() as u64;
    let (parts, body) = request.into_parts();
    if let Err(refusal) = taken(coordinator, run, node) {
        drain(body, SMALL_BODY).await;
        return Err(refusal);
    }
    if let Some(bytes) = declared_length(&parts.headers)
        && bytes > limit
    {
        drain(body, LINGER).await;
        return Err(ApiError::too_large(limit).comparing(bytes, limit));
    }
    let begun = run.quotas().begin(&run.state(), node, hash);
    let _under_way = match begun {
        Ok(under_way) => under_way,
        Err(refusal) => {
            drain(body, limit).await;
            return Err(refusal);
        }
    };
    tracing::info!(run = %run.id, %node, %hash, "payload begins");
    store(coordinator, hash, body, limit).await?;
    coordinator.checker().check(coordinator, run, hash).await?;
    Ok(())
}

/// Refuses the work of a node that the run does not take.
fn taken(coordinator: &Coordinator, run: &LiveRun, node: NodeId) -> ApiResult<()> {
    let memory = coordinator.fleet().lock();
    let known = memory.nodes.get(&node);
    let barred = known.and_then(|known| known.barred_from(node, run.id, &run.spec, unix_ms()));
    match barred {
        Some(why) => Err(ApiError::forbidden(&why.code, why.message)),
        None => Ok(()),
    }
}

/// The answer to a refused update, given once its line is in the ledger, if it is a verdict on
/// work: then the node can have the proof at once.
async fn rejected(
    run: &LiveRun,
    node: NodeId,
    assignment: AssignmentId,
    refusal: ApiError,
) -> ApiError {
    let Some(rejection) = Rejection::new(node, assignment, &refusal.code, refusal.compared) else {
        return refusal;
    };
    match run.reject(rejection).await {
        Ok(()) => refusal,
        // It is sent again then, and refused again.
        Err(error) => error.into(),
    }
}

/// What is asked of a node about an audited update.
struct Asked {
    worker: opengpu_rounds::WorkerId,
    chunks: Vec<usize>,
    has_before: bool,
    opened: bool,
}

/// `PUT /v1/runs/{run}/openings/{assignment}/{hash}`
pub async fn openings(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments((run, assignment, hash)): Segments<(RunId, AssignmentId, Hash)>,
    request: Request,
) -> ApiResult<StatusCode> {
    let run = find(&coordinator, run)?;
    let asked = {
        let state = run.state();
        let audit = state.audit(assignment);
        let own = audit.filter(|audit| {
            let member = state.member(audit.worker);
            member.is_some_and(|member| member.node == node)
        });
        own.map(|audit| Asked {
            worker: audit.worker,
            chunks: drawn(&run, audit),
            has_before: audit.before.is_some(),
            opened: audit.openings.is_some(),
        })
    };
    let (parts, body) = request.into_parts();
    if asked.as_ref().is_some_and(|asked| asked.opened) {
        drain(body, SMALL_BODY).await;
        return Ok(StatusCode::OK);
    }
    let Some(Asked {
        worker,
        chunks,
        has_before,
        ..
    }) = asked
    else {
        drain(body, SMALL_BODY).await;
        return Err(ApiError::conflict(
            "no_such_audit",
            format!("no openings of update {assignment} are asked of node {node}"),
        ));
    };
    let expected = openings_bytes(&run.layout, &chunks, has_before) as u64;
    if declared_length(&parts.headers).is_some_and(|bytes| bytes != expected) {
        return Err(ApiError::unacceptable(
            "bad_openings",
            format!("openings of these chunks have {expected} bytes"),
        ));
    }
    store(&coordinator, hash, body, expected).await?;
    // It may be some other blob that the sender knows the name of.
    let bytes = coordinator.blobs().size(hash).await;
    if bytes.map_err(anyhow::Error::from)? != expected {
        return Err(ApiError::unacceptable(
            "bad_openings",
            format!("openings of these chunks have {expected} bytes"),
        ));
    }
    let input = Input::Opened {
        assignment,
        worker,
        openings: hash,
    };
    let answer = run.ask(input, None).await?;
    match answer.refusal {
        Some(refusal) => Err(ApiError::conflict(refusal.code, refusal.message)),
        None => Ok(StatusCode::OK),
    }
}

/// `POST /v1/runs/{run}/updates`
pub async fn post(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments(run): Segments<RunId>,
    Parsed(notice): Parsed<UpdateNotice>,
) -> ApiResult<Json<Verdict>> {
    check(&coordinator, node, notice.worker)?;
    let run = find(&coordinator, run)?;
    if let Err(refusal) = taken(&coordinator, &run, node) {
        note_refusal(&coordinator, &run, notice.worker, &refusal.message);
        return Err(refusal);
    }
    let bytes = match payload_is_here(&coordinator, &run, notice.payload).await {
        Ok(bytes) => bytes,
        Err(refusal) => {
            note_refusal(&coordinator, &run, notice.worker, &refusal.message);
            return Err(rejected(&run, node, notice.assignment, refusal).await);
        }
    };
    let input = Input::Update {
        assignment: notice.assignment,
        worker: notice.worker,
        base: notice.base,
        blocks_completed: notice.blocks_completed,
        payload: notice.payload,
        payload_bytes: bytes,
        tokens_per_block: run.tokens_per_block(),
        feedback: notice.feedback,
        commitment: notice.commitment,
        draw: rand::random(),
    };
    let answer = run.ask(input, Some(notice.loss)).await?;
    if let Some(refusal) = answer.refusal {
        note_refusal(&coordinator, &run, notice.worker, &refusal.message);
        return Err(refusal.into());
    }
    if let Some(class) = notice.numerics_class {
        run.remember_class(notice.assignment, class);
    }
    verdict_of(&coordinator, node, &run, notice.assignment).map(Json)
}

/// For the page of the run.
fn note_refusal(coordinator: &Coordinator, run: &LiveRun, worker: WorkerId, message: &str) {
    if let Some(worker) = coordinator.fleet().lock().workers.get_mut(&worker) {
        worker.refused += 1;
        worker.last_refusal = Some(message.to_owned());
    }
    run.changed();
}

/// `GET /v1/runs/{run}/updates/{assignment}`
pub async fn verdict(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments((run, assignment)): Segments<(RunId, AssignmentId)>,
) -> ApiResult<Json<Verdict>> {
    let run = find(&coordinator, run)?;
    verdict_of(&coordinator, node, &run, assignment).map(Json)
}

fn verdict_of(
    coordinator: &Coordinator,
    node: NodeId,
    run: &LiveRun,
    assignment: AssignmentId,
) -> ApiResult<Verdict> {
    let found = {
        let state = run.state();
        state
            .verdict(assignment)
            .map(|(worker, verdict)| (worker, plan::verdict(verdict)))
    };
    let Some((worker, verdict)) = found else {
        return Err(ApiError::not_found(
            "no_verdict",
            format!("nothing is known of an update for assignment {assignment}"),
        ));
    };
    check(coordinator, node, worker)?;
    Ok(verdict)
}

/// Size of a payload that lies here, is young again and was checked.
async fn payload_is_here(
    coordinator: &Coordinator,
    run: &LiveRun,
    payload: Hash,
) -> ApiResult<u64> {
    let missing = || {
        ApiError::unacceptable(
            "payload_missing",
            format!("payload {payload} is not here; send it before its update"),
        )
    };
    if !coordinator
        .blobs()
        .touch(payload)
        .await
        .map_err(anyhow::Error::from)?
    {
        return Err(missing());
    }
    coordinator.checker().check(coordinator, run, payload).await
}
