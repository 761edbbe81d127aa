//! The ledger of a run, for whoever takes part: its signed head, its lines, receipts.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use opengpu_protocol::ledger::{LedgerHead, LedgerProof};
use opengpu_protocol::query::{ConsistencyQuery, LinesQuery, ReceiptQuery};
use opengpu_rounds::{AssignmentId, RunId};

use super::error::{ApiError, ApiResult};
use super::extract::{Asked, Segments};
use super::runs::find;
use crate::Coordinator;

/// Lines in one answer.
const PAGE: u64 = 1000;

/// `GET /v1/runs/{run}/ledger`
pub async fn head(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
) -> ApiResult<Json<LedgerHead>> {
    let run = find(&coordinator, run)?;
    let signer = coordinator.ledger();
    let signed = signer.head(coordinator.store(), run.id).await?;
    Ok(Json(LedgerHead {
        entries: signed.head.size,
        head: signed.note,
        key: signer.verifier(run.id)?.to_string(),
    }))
}

/// `GET /v1/runs/{run}/ledger/lines`
pub async fn lines(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Asked(from): Asked<LinesQuery>,
) -> ApiResult<impl IntoResponse> {
    let run = find(&coordinator, run)?;
    let lines = coordinator
        .store()
        .ledger_lines(run.id, from.first, PAGE)
        .await
        .map_err(anyhow::Error::from)?;
    let text: String = lines.into_iter().map(|entry| entry.line + "\n").collect();
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text))
}

/// `GET /v1/runs/{run}/ledger/receipts/{assignment}`
pub async fn receipt(
    State(coordinator): State<Coordinator>,
    Segments((run, assignment)): Segments<(RunId, AssignmentId)>,
    Asked(wanted): Asked<ReceiptQuery>,
) -> ApiResult<impl IntoResponse> {
    let run = find(&coordinator, run)?;
    let receipt = coordinator
        .ledger()
        .receipt(
            coordinator.store(),
            run.id,
            assignment,
            wanted.code.as_deref(),
        )
        .await?;
    let receipt = receipt.ok_or_else(|| {
        let what = match wanted.code {
            // Not the code that was asked for: it may be anything.
            Some(_) => "rejection with that code",
            None => "accepted update",
        };
        ApiError::not_found(
            "no_receipt",
            format!("the ledger has no {what} of assignment {assignment}"),
        )
    })?;
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((kind, receipt.to_string()))
}

/// `GET /v1/runs/{run}/ledger/consistency`
pub async fn consistency(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Asked(from): Asked<ConsistencyQuery>,
) -> ApiResult<Json<LedgerProof>> {
    let run = find(&coordinator, run)?;
    let found = coordinator
        .ledger()
        .consistency(coordinator.store(), run.id, from.older)
        .await?;
    let (signed, proof) = found.ok_or_else(|| {
        ApiError::unacceptable(
            "no_such_ledger",
            format!("the ledger never had {} entries", from.older),
        )
    })?;
    Ok(Json(LedgerProof {
        head: signed.note,
        proof: proof.iter().map(ToString::to_string).collect(),
    }))
}
