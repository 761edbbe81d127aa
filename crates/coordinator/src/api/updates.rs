//! Updates: a payload is stored and checked first, then announced for an assignment, then
//! asked after.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use opengpu_protocol::wire::{UpdateNotice, Verdict};
use opengpu_rounds::{AssignmentId, Hash, Input, NodeId, RunId};

use super::error::{ApiError, ApiResult};
use super::extract::{Content, Parsed, Segments, SignedNode};
use super::runs::find;
use super::workers::check;
use crate::Coordinator;
use crate::driver::LiveRun;
use crate::metrics::CodeLabel;
use crate::plan;

/// `PUT /v1/runs/{run}/payloads/{hash}`
pub async fn payload(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments((run, hash)): Segments<(RunId, Hash)>,
    Content(body): Content,
) -> ApiResult<StatusCode> {
    let run = find(&coordinator, run)?;
    may_send(&coordinator, node, &run)?;
    let bytes = body.len() as u64;
    tracing::info!(run = %run.id, %node, bytes, "payload begins");
    let to_check = (
        body.clone(),
        run.spec.sync.up,
        std::sync::Arc::clone(&run.layout),
    );
    let checked = tokio::task::spawn_blocking(move || {
        let (body, codec, layout) = to_check;
        let found = Hash::of(&body);
        if found != hash {
            return Err(ApiError::unacceptable(
                "wrong_hash",
                format!("the body has hash {found}, not {hash}; send it again"),
            ));
        }
        opengpu_merge::check(codec.into(), &layout, &body)
            .map_err(|error| ApiError::unacceptable("bad_payload", error.to_string()))
    });
    checked
        .await
        .map_err(|error| ApiError::fault(&error.into()))??;
    coordinator
        .blobs()
        .put(body)
        .await
        .map_err(anyhow::Error::from)?;
    run.remember_checked(hash, bytes);
    Ok(StatusCode::OK)
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
    let bytes = payload_is_here(&coordinator, &run, notice.payload).await?;
    let input = Input::Update {
        assignment: notice.assignment,
        worker: notice.worker,
        base: notice.base,
        blocks_completed: notice.blocks_completed,
        payload: notice.payload,
        payload_bytes: bytes,
        tokens_per_block: run.tokens_per_block(),
        feedback: notice.feedback,
    };
    let answer = run.ask(input, Some(notice.loss)).await?;
    if let Some(refusal) = answer.refusal {
        coordinator
            .metrics()
            .updates_refused
            .get_or_create(&CodeLabel {
                code: refusal.code.to_owned(),
            })
            .inc();
        if let Some(worker) = coordinator.fleet().lock().workers.get_mut(&notice.worker) {
            worker.refused += 1;
            worker.last_refusal = Some(refusal.message.clone());
        }
        run.changed();
        return Err(ApiError::conflict(refusal.code, refusal.message));
    }
    verdict_of(&coordinator, node, &run, notice.assignment).map(Json)
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
    if let Some(bytes) = run.checked(payload) {
        return Ok(bytes);
    }
    // Stored before a restart, or some other blob that somebody knows the name of.
    let limit = run.payload_limit() as u64;
    let bytes = coordinator
        .blobs()
        .size(payload)
        .await
        .map_err(|_| missing())?;
    if bytes > limit {
        return Err(ApiError::unacceptable(
            "bad_payload",
            format!("the payload has {bytes} bytes, at most {limit} are allowed"),
        ));
    }
    let body = coordinator
        .blobs()
        .read(payload)
        .await
        .map_err(anyhow::Error::from)?;
    let (codec, layout) = (run.spec.sync.up, std::sync::Arc::clone(&run.layout));
    let checked = tokio::task::spawn_blocking(move || {
        opengpu_merge::check(codec.into(), &layout, &body)
            .map_err(|error| ApiError::unacceptable("bad_payload", error.to_string()))
    });
    checked
        .await
        .map_err(|error| ApiError::fault(&error.into()))??;
    run.remember_checked(payload, bytes);
    Ok(bytes)
}

fn may_send(coordinator: &Coordinator, node: NodeId, run: &LiveRun) -> ApiResult<()> {
    if run.is_over() {
        return Err(ApiError::conflict(
            "run_over",
            format!("run {} is over and takes no more updates", run.id),
        ));
    }
    if coordinator.works_for(node, run) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "not_in_run",
        format!("no worker of node {node} takes part in run {}", run.id),
    ))
}
