//! Health, readiness, metrics and the description of the API itself.

use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::error::{ApiError, ApiResult};
use crate::Coordinator;

/// `GET /healthz`
pub async fn healthy() -> &'static str {
    "ok\n"
}

/// `GET /readyz`
pub async fn ready(State(coordinator): State<Coordinator>) -> ApiResult<&'static str> {
    if !coordinator.is_ready() {
        return Err(ApiError::unavailable(
            "starting",
            "runs are still being opened; ask again in a second",
        ));
    }
    match tokio::time::timeout(Duration::from_secs(2), coordinator.store().ping()).await {
        Ok(Ok(())) => Ok("ready\n"),
        Ok(Err(error)) => {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the database does not answer"
            );
            Err(ApiError::unavailable(
                "no_database",
                "the database does not answer",
            ))
        }
        Err(_) => Err(ApiError::unavailable(
            "no_database",
            "the database did not answer within 2 s",
        )),
    }
}

/// `GET /metrics`
pub async fn metrics(State(coordinator): State<Coordinator>) -> Response {
    coordinator.refresh_gauges();
    let content = (
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    );
    ([content], coordinator.metrics().encode()).into_response()
}

/// `GET /openapi.json`
pub async fn openapi() -> ApiResult<Response> {
    // Made once: it is long, always the same, and for anyone who asks.
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let document = match DOCUMENT.get() {
        Some(document) => document,
        None => {
            let made = super::openapi_json()?;
            DOCUMENT.get_or_init(|| made.into())
        }
    };
    let content = (header::CONTENT_TYPE, "application/json");
    Ok(([content], document.clone()).into_response())
}
