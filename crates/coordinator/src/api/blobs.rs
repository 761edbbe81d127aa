//! Blobs: verified, resumable downloads, and the operator's uploads.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use opengpu_protocol::byte_range;
use opengpu_protocol::wire::BlobManifest;
use opengpu_rounds::Hash;

use super::error::{ApiError, ApiResult};
use super::extract::{Called, Caller, Segments};
use super::intake::store;
use crate::Coordinator;
use crate::blobs::BlobError;

/// Largest blob that an operator may upload: 64 GiB.
const MAX_UPLOAD_BYTES: u64 = 64 << 30;

/// `GET /v1/blobs/{hash}`
pub async fn get(
    State(coordinator): State<Coordinator>,
    Segments(hash): Segments<Hash>,
    Called(caller): Called,
    headers: HeaderMap,
) -> ApiResult<Response> {
    may_read(&coordinator, caller, hash)?;
    let blobs = coordinator.blobs();
    let bytes = blobs.size(hash).await.map_err(refusal)?;
    let range = match headers
        .get(header::RANGE)
        .map(|range| range.to_str().ok().and_then(|text| byte_range(text, bytes)))
    {
        None => None,
        Some(Some(range)) => Some(range),
        Some(None) => {
            let error = ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "bad_range",
                format!(
                    "the blob has {bytes} bytes; ask for `bytes=FIRST-` or `bytes=FIRST-LAST` within them"
                ),
            );
            let mut response = error.into_response();
            if let Ok(value) = format!("bytes */{bytes}").parse() {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            return Ok(response);
        }
    };
    let reader = blobs.open(hash, range.clone()).await.map_err(refusal)?;
    let length = reader.range.end - reader.range.start;
    let sent = coordinator.clone();
    let body = Body::from_stream(reader.stream.map(move |piece| {
        if let Ok(piece) = &piece {
            sent.metrics().sent_bytes.inc_by(piece.len() as u64);
        }
        piece
    }));
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{hash}\""))
        .header(
            header::CACHE_CONTROL,
            "private, immutable, max-age=31536000",
        )
        .header(header::CONTENT_LENGTH, length);
    if let Some(range) = range {
        response = response.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {}-{}/{bytes}", range.start, range.end - 1),
        );
    }
    response
        .body(body)
        .map_err(|error| ApiError::fault(&error.into()))
}

/// `GET /v1/blobs/{hash}/manifest`
pub async fn manifest(
    State(coordinator): State<Coordinator>,
    Segments(hash): Segments<Hash>,
    Called(caller): Called,
) -> ApiResult<Json<BlobManifest>> {
    may_read(&coordinator, caller, hash)?;
    let manifest = coordinator.blobs().manifest(hash).await.map_err(refusal)?;
    Ok(Json(BlobManifest::clone(&manifest)))
}

/// `PUT /v1/blobs/{hash}`
pub async fn put(
    State(coordinator): State<Coordinator>,
    Segments(hash): Segments<Hash>,
    request: Request,
) -> ApiResult<StatusCode> {
    store(&coordinator, hash, request.into_body(), MAX_UPLOAD_BYTES).await?;
    Ok(StatusCode::OK)
}

/// Only the coordinator reads workers' payloads: a node gets what its runs publish.
fn may_read(coordinator: &Coordinator, caller: Caller, hash: Hash) -> ApiResult<()> {
    let open = caller == Caller::Operator || coordinator.is_published(hash);
    if open {
        return Ok(());
    }
    Err(ApiError::not_found(
        "unknown_blob",
        format!("there is no blob {hash} for nodes to read"),
    ))
}

fn refusal(error: BlobError) -> ApiError {
    match error {
        BlobError::Missing(hash) => {
            ApiError::not_found("unknown_blob", format!("there is no blob {hash}"))
        }
        error => ApiError::fault(&error.into()),
    }
}
