//! The HTTP API: one table of endpoints, from which the router and the OpenAPI document are
//! made; one gate that every request passes; handlers that parse, ask and answer.

mod accounts;
mod audits;
mod blobs;
mod datasets;
mod directives;
pub mod endpoint;
mod enrolment;
pub mod error;
pub mod extract;
mod gate;
pub mod intake;
mod keys;
mod ledger;
mod nodes;
mod openapi;
mod runs;
mod samples;
mod standing;
mod status;
mod sums;
mod table;
mod tokens;
mod updates;
mod workers;

pub use table::endpoints;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use error::{ApiError, Refused};

use crate::Coordinator;

/// The API's router, with `extra` routes beside it (the portal's).
pub fn router(coordinator: &Coordinator, extra: Router) -> Router {
    let mut api = Router::new();
    for endpoint in endpoints() {
        let gate = gate::Gate {
            coordinator: coordinator.clone(),
            access: endpoint.access,
            body: endpoint.body,
            within: endpoint.within,
            pending: endpoint.pending,
            banned: endpoint.banned,
            counts: endpoint.counts,
        };
        api = api.route(
            endpoint.path,
            endpoint.route.layer(from_fn_with_state(gate, gate::pass)),
        );
    }
    // Pages, and addresses below /v1 that are no endpoint, count as well.
    let counted = || from_fn_with_state(coordinator.clone(), gate::pass_anyone);
    // Unknown addresses below /v1 are refused as JSON; everything else may be a page.
    let api = api
        .route("/v1/{*rest}", axum::routing::any(unknown).layer(counted()))
        .method_not_allowed_fallback(wrong_method)
        .with_state(coordinator.clone());
    let pages = match extra.has_routes() {
        true => extra.route_layer(counted()),
        false => extra,
    };
    api.merge(pages)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(coordinator.clone(), gate::record))
        .layer(map_response(no_sniffing))
}

/// The OpenAPI document as JSON.
pub fn openapi_json() -> anyhow::Result<String> {
    Ok(openapi::document(&endpoints())?.to_pretty_json()?)
}

async fn unknown() -> Response {
    ApiError::not_found(
        "unknown_address",
        "there is nothing at this address; /openapi.json lists what there is",
    )
    .into_response()
}

async fn wrong_method() -> Response {
    let error = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        "this address does not know that method; /openapi.json lists what there is",
    );
    error.into_response()
}

async fn no_sniffing(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers
        .entry("x-content-type-options")
        .or_insert(axum::http::HeaderValue::from_static("nosniff"));
    response
}

/// Marks an answer as a refusal for the log, when it was not made from an [`ApiError`].
pub fn refused(mut response: Response, code: &str, message: &str) -> Response {
    response.extensions_mut().insert(Refused {
        code: code.into(),
        message: message.into(),
    });
    response
}
