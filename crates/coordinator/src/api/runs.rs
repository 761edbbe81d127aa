//! Runs: what they are, how nodes catch up, and what an operator tells them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use opengpu_protocol::RunSpec;
use opengpu_protocol::operator::{Exported, LogEntry, RollbackRequest, SampleRequest, Sampled};
use opengpu_protocol::query::{ExportQuery, HistoryQuery, LogQuery};
use opengpu_protocol::wire::{CheckpointRef, History, RunView};
use opengpu_rounds::{Input, Revision, RunId};

use super::error::{ApiError, ApiResult};
use super::extract::{Asked, Parsed, Segments};
use crate::Coordinator;
use crate::driver::{LiveRun, merge_ref, way_to};
use crate::view::run_view;

/// Events in one answer.
const LOG_PAGE: u64 = 1000;
/// Tokens in one sample.
const MAX_SAMPLE: usize = 10_000;

/// `GET /v1/runs`
pub async fn list(State(coordinator): State<Coordinator>) -> Json<Vec<RunView>> {
    Json(
        coordinator
            .live_runs()
            .iter()
            .map(|run| run_view(&coordinator, run))
            .collect(),
    )
}

/// `GET /v1/runs/{run}`
pub async fn view(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
) -> ApiResult<Json<RunView>> {
    let run = find(&coordinator, run)?;
    Ok(Json(run_view(&coordinator, &run)))
}

/// `POST /v1/runs`
pub async fn create(
    State(coordinator): State<Coordinator>,
    Parsed(spec): Parsed<RunSpec>,
) -> ApiResult<Json<RunView>> {
    // A client that goes away must not leave a run that is stored and not driven.
    let making = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { crate::submit::submit(&coordinator, spec).await }
    });
    let run = making
        .await
        .map_err(|error| ApiError::fault(&error.into()))??;
    Ok(Json(run_view(&coordinator, &run)))
}

/// `POST /v1/runs/{run}/{action}`
pub async fn act(
    State(coordinator): State<Coordinator>,
    Segments((run, action)): Segments<(RunId, String)>,
) -> ApiResult<Json<RunView>> {
    let by_operator = || "the operator asked".to_owned();
    let input = match action.as_str() {
        "start" => Input::Start,
        "pause" => Input::Pause {
            reason: by_operator(),
        },
        "resume" => Input::Resume,
        "stop" => Input::Stop {
            reason: by_operator(),
        },
        _ => {
            return Err(ApiError::not_found(
                "unknown_action",
                format!(
                    "`{action}` is none of start, pause, resume, stop, rollback, export, sample"
                ),
            ));
        }
    };
    tell(&coordinator, run, input, &format!("run.{action}")).await
}

/// `POST /v1/runs/{run}/rollback`
pub async fn roll_back(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Parsed(asked): Parsed<RollbackRequest>,
) -> ApiResult<Json<RunView>> {
    let input = Input::RollBack {
        to: asked.to,
        reason: "the operator asked".to_owned(),
    };
    tell(&coordinator, run, input, "run.rollback").await
}

async fn tell(
    coordinator: &Coordinator,
    run: RunId,
    input: Input,
    action: &str,
) -> ApiResult<Json<RunView>> {
    let run = find(coordinator, run)?;
    let answer = run.ask(input, None).await?;
    if let Some(refusal) = answer.refusal {
        return Err(ApiError::conflict(refusal.code, refusal.message));
    }
    let detail = format!("{} {:?}: {}", run.id, run.spec.name, answer.reason);
    coordinator
        .store()
        .audit("operator", action, &detail)
        .await
        .map_err(anyhow::Error::from)?;
    coordinator.reallocate();
    Ok(Json(run_view(coordinator, &run)))
}

/// `GET /v1/runs/{run}/history`
pub async fn history(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Asked(from): Asked<HistoryQuery>,
) -> ApiResult<Json<History>> {
    let run = find(&coordinator, run)?;
    if let Some(number) = from.to {
        let lineage = from.lineage;
        let revision = Revision { lineage, number };
        let way = way_to(&run.state(), revision);
        return way.map(Json).ok_or_else(|| {
            ApiError::not_found(
                "no_such_revision",
                format!(
                    "revision {revision} can't be made from what is kept of run {}",
                    run.id
                ),
            )
        });
    }
    let state = run.state();
    let checkpoint = state.checkpoint().ok_or_else(|| {
        ApiError::unavailable("no_weights", "the run's first weights are still being made")
    })?;
    let after = Revision {
        lineage: from.lineage,
        number: from.after,
    };
    let merges = state
        .merges_after(after)
        .unwrap_or_else(|| state.merges_since_checkpoint().collect());
    Ok(Json(History {
        checkpoint: CheckpointRef {
            revision: checkpoint.revision,
            weights: checkpoint.weights,
        },
        merges: merges.into_iter().map(merge_ref).collect(),
    }))
}

/// `POST /v1/runs/{run}/export`
pub async fn export(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Asked(wish): Asked<ExportQuery>,
) -> ApiResult<Json<Exported>> {
    let run = find(&coordinator, run)?;
    let (path, files) = crate::export::export(&coordinator, &run)
        .await
        .map_err(|error| failed("export", &error))?;
    if wish.download {
        for file in &files {
            // Young blobs that nothing needs are kept for half an hour.
            let stored = coordinator.blobs().put_file(&path.join(&file.name)).await;
            stored.map_err(anyhow::Error::from)?;
        }
    }
    let detail = format!("{} to {}", run.id, path.display());
    coordinator
        .store()
        .audit("operator", "run.export", &detail)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(Json(Exported {
        path: path.display().to_string(),
        files,
    }))
}

/// `POST /v1/runs/{run}/sample`
pub async fn sample(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Parsed(asked): Parsed<SampleRequest>,
) -> ApiResult<Json<Sampled>> {
    let fine = asked.temperature.is_finite() && (0.0..=100.0).contains(&asked.temperature);
    if asked.max_tokens > MAX_SAMPLE || !fine {
        return Err(ApiError::unacceptable(
            "bad_sample",
            format!(
                "max_tokens is {} (at most {MAX_SAMPLE}) and temperature {} (0 to 100)",
                asked.max_tokens, asked.temperature
            ),
        ));
    }
    let run = find(&coordinator, run)?;
    let text = crate::export::sample(&coordinator, &run, &asked)
        .await
        .map_err(|error| failed("sample", &error))?;
    Ok(Json(Sampled { text }))
}

/// `GET /v1/runs/{run}/log`
pub async fn log(
    State(coordinator): State<Coordinator>,
    Segments(run): Segments<RunId>,
    Asked(from): Asked<LogQuery>,
) -> ApiResult<Json<Vec<LogEntry>>> {
    let run = find(&coordinator, run)?;
    let events = coordinator
        .store()
        .events(run.id, from.after, LOG_PAGE)
        .await
        .map_err(anyhow::Error::from)?;
    let entries = events.into_iter().map(|stored| LogEntry {
        sequence: stored.seq,
        event: stored.event,
    });
    Ok(Json(entries.collect()))
}

/// The run of that id.
pub fn find(coordinator: &Coordinator, run: RunId) -> ApiResult<Arc<LiveRun>> {
    coordinator.run(run).ok_or_else(|| {
        ApiError::not_found(
            "unknown_run",
            format!("there is no run {run}; `opengpu run list` shows those there are"),
        )
    })
}

/// What the operator asked for needs weights and the trainer; the operator may know why it
/// did not work.
fn failed(what: &str, error: &anyhow::Error) -> ApiError {
    tracing::error!(
        what,
        error = format!("{error:#}"),
        "the operator's request failed"
    );
    ApiError::unavailable(&format!("{what}_failed"), format!("{error:#}"))
}
