//! Addresses of the portal.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::RunId;
use tokio::sync::Semaphore;

use crate::error::PortalError;
use crate::events::{self, MAX_STREAMS};
use crate::pages::{Live, LivePage, PartPage, RunList, RunListPage, Show};
use crate::{Source, assets, headers};

/// What handlers share.
#[derive(Clone)]
struct Portal {
    source: Arc<dyn Source>,
    streams: Arc<Semaphore>,
}

/// The portal's routes: `/`, `/runs` and `/assets`. It sets no fallback, so that it can be
/// merged into a server that has one.
pub fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/runs", get(run_list))
        .route("/runs/{run}", get(live))
        .route("/runs/{run}/summary", get(summary))
        .route("/runs/{run}/rounds", get(rounds))
        .route("/runs/{run}/workers", get(workers))
        .route("/runs/{run}/events", get(run_events))
        .route("/assets/{file}", get(asset))
        .layer(middleware::from_fn(headers::protect))
        .with_state(Portal {
            source,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        })
}

/// Whether htmx asks, which wants a part and not the page around it.
fn wants_part(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request")
}

fn html(template: &impl Template) -> Result<Response, PortalError> {
    Ok(Html(template.render()?).into_response())
}

/// Where there is one run only, there is nothing to choose.
async fn home(State(portal): State<Portal>) -> Result<Response, PortalError> {
    let runs = portal.source.runs().await;
    match runs.as_slice() {
        [only] => Ok(Redirect::to(&format!("/runs/{}", only.run)).into_response()),
        _ => html(&RunListPage::new(&runs)),
    }
}

async fn run_list(
    State(portal): State<Portal>,
    headers: HeaderMap,
) -> Result<Response, PortalError> {
    let runs = portal.source.runs().await;
    if wants_part(&headers) {
        html(&RunList::new(&runs))
    } else {
        html(&RunListPage::new(&runs))
    }
}

async fn find(portal: &Portal, run: &str) -> Result<RunView, PortalError> {
    let unknown = || PortalError::UnknownRun(run.chars().take(40).collect());
    let number: u64 = run.parse().map_err(|_| unknown())?;
    portal.source.run(RunId(number)).await.ok_or_else(unknown)
}

async fn live(
    State(portal): State<Portal>,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PortalError> {
    let view = find(&portal, &run).await?;
    if wants_part(&headers) {
        html(&Live::new(&view))
    } else {
        html(&LivePage::new(&view))
    }
}

async fn part(
    portal: Portal,
    run: String,
    headers: HeaderMap,
    show: Show,
) -> Result<Response, PortalError> {
    let view = find(&portal, &run).await?;
    let part: String = show
        .parts(&view)?
        .into_iter()
        .map(|part| part.html)
        .collect();
    if wants_part(&headers) {
        return Ok(Html(part).into_response());
    }
    html(&PartPage::new(&view, show, part))
}

async fn summary(
    State(portal): State<Portal>,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PortalError> {
    part(portal, run, headers, Show::Summary).await
}

async fn rounds(
    State(portal): State<Portal>,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PortalError> {
    part(portal, run, headers, Show::Rounds).await
}

async fn workers(
    State(portal): State<Portal>,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PortalError> {
    part(portal, run, headers, Show::Workers).await
}

/// Which page's parts a stream sends.
#[derive(serde::Deserialize)]
struct EventsQuery {
    #[serde(default)]
    show: Show,
}

async fn run_events(
    State(portal): State<Portal>,
    Path(run): Path<String>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, PortalError> {
    let view = find(&portal, &run).await?;
    let place = Arc::clone(&portal.streams)
        .try_acquire_owned()
        .map_err(|_| PortalError::TooManyStreams(MAX_STREAMS))?;
    Ok(events::stream(portal.source, view.run, query.show, place).into_response())
}

async fn asset(Path(file): Path<String>) -> Result<Response, PortalError> {
    let asset = assets::by_path(&file)
        .ok_or_else(|| PortalError::UnknownAsset(file.chars().take(80).collect()))?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(asset.content_type),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        ),
    ];
    Ok((headers, asset.bytes).into_response())
}
