//! Blobs: verified, resumable downloads, and the operator's uploads.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
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
    let range = match headers.get(header::RANGE).map(|range| {
        range
            .to_str()
            .ok()
            .and_then(|text| parse_range(text, bytes))
    }) {
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

/// `bytes=FIRST-` or `bytes=FIRST-LAST` or `bytes=-COUNT` (RFC 9110, section 14.1.2), one
/// range only, as a half-open range inside a blob of `bytes` bytes.
fn parse_range(text: &str, bytes: u64) -> Option<std::ops::Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", count) => bytes.saturating_sub(count.parse().ok()?)..bytes,
        (first, "") => first.parse().ok()?..bytes,
        (first, last) => {
            first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(bytes)
        }
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn a_range_lies_inside_the_blob_or_is_refused() {
        assert_eq!(parse_range("bytes=0-", 10), Some(0..10));
        assert_eq!(parse_range("bytes=4-5", 10), Some(4..6));
        assert_eq!(parse_range("bytes=4-99", 10), Some(4..10));
        assert_eq!(parse_range("bytes=-3", 10), Some(7..10));
        for wrong in [
            "bytes=10-",
            "bytes=5-4",
            "bytes=-",
            "bytes=-0",
            "bytes=a-b",
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=0-18446744073709551616",
        ] {
            assert_eq!(parse_range(wrong, 10), None, "{wrong}");
        }
    }
}
