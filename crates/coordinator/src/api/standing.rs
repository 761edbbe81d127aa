//! How nodes stand, what their owners say to that, and what the operator answers.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::standing::{
    AppealOutcome, AppealRequest, LONGEST_TEXT, ReviewRequest, StandingView,
};
use opengpu_protocol::wire::NodeView;
use opengpu_rounds::NodeId;

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments, SignedNode};
use super::nodes::{settle, unknown};
use super::runs::find;
use crate::Coordinator;
use crate::clock::unix_ms;
use crate::standing::{change_view, learn_standing};
use crate::store::{AppealError, ChangeRecord, Review, ReviewError, STEPS};

/// Steps in one answer.
const SHOWN: u64 = 100;

/// `GET /v1/standing`
pub async fn own(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
) -> ApiResult<Json<StandingView>> {
    view(&coordinator, node).await
}

/// `GET /v1/nodes/{node}/standing`
pub async fn of(
    State(coordinator): State<Coordinator>,
    Segments(node): Segments<NodeId>,
) -> ApiResult<Json<StandingView>> {
    view(&coordinator, node).await
}

async fn view(coordinator: &Coordinator, node: NodeId) -> ApiResult<Json<StandingView>> {
    let standing = {
        let memory = coordinator.fleet().lock();
        let known = memory.nodes.get(&node).ok_or_else(|| unknown(node))?;
        known.standing.level_at(unix_ms())
    };
    let changes = coordinator.store().changes_of(node, SHOWN).await;
    let changes = changes.map_err(anyhow::Error::from)?;
    Ok(Json(StandingView {
        node,
        standing,
        changes: changes.into_iter().map(change_view).collect(),
    }))
}

/// `POST /v1/appeals`
pub async fn appeal(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Parsed(asked): Parsed<AppealRequest>,
) -> ApiResult<Json<StandingView>> {
    let limits = coordinator.limits();
    limits
        .appeal(node)
        .map_err(|wait| ApiError::too_often(&format!("node {node} appeals"), wait))?;
    let text = asked.text.trim();
    let length = text.chars().count();
    if !(1..=LONGEST_TEXT).contains(&length) {
        return Err(ApiError::unacceptable(
            "bad_appeal",
            format!("an appeal has 1 to {LONGEST_TEXT} characters, not {length}"),
        ));
    }
    // It is shown on the operator's terminal.
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(plain).collect();
    let taken = coordinator.store().appeal(node, asked.change, &text).await;
    let change = taken.map_err(not_taken)?;
    learn_standing(&coordinator, node).await?;
    tracing::info!(%node, change, "an appeal waits for an answer; `opengpu node review` gives it");
    view(&coordinator, node).await
}

fn not_taken(error: AppealError) -> ApiError {
    let message = error.to_string();
    match error {
        AppealError::Nothing(_) => ApiError::conflict("nothing_to_appeal", message),
        AppealError::Unknown { .. } => ApiError::not_found("unknown_change", message),
        AppealError::Again(_) => ApiError::conflict("already_appealed", message),
        AppealError::Store(error) => ApiError::fault(&error.into()),
    }
}

/// `POST /v1/nodes/{node}/review`
pub async fn review(
    State(coordinator): State<Coordinator>,
    Segments(node): Segments<NodeId>,
    Parsed(asked): Parsed<ReviewRequest>,
) -> ApiResult<Json<NodeView>> {
    let note = super::nodes::bounded(&asked.note)?.to_owned();
    if !coordinator.fleet().lock().nodes.contains_key(&node) {
        return Err(unknown(node));
    }
    let changes = coordinator.store().changes_of(node, STEPS).await;
    let changes = changes.map_err(anyhow::Error::from)?;
    let change = pick(&changes, asked.change).ok_or_else(|| {
        let what = asked.change.map_or_else(
            || format!("nothing is held against node {node}"),
            |change| format!("node {node} has no change {change}"),
        );
        ApiError::not_found(
            "unknown_change",
            format!("{what}; `opengpu node show {node}` lists what there is"),
        )
    })?;
    let review = Review {
        node,
        change: change.id,
        reverse: asked.reverse,
        note,
    };
    answer(&coordinator, change, review.clone()).await?;
    let outcome = if review.reverse { "reverse" } else { "uphold" };
    let detail = format!("{node}: change {}: {}", review.change, review.note);
    let store = coordinator.store();
    store
        .audit("operator", &format!("node.{outcome}"), &detail)
        .await
        .map_err(anyhow::Error::from)?;
    // Who was left out of a run for nothing takes part again.
    let evidence = change.evidence.as_ref();
    let back = evidence.filter(|_| review.reverse && change.code == "left_out");
    settle(&coordinator, node, back.map(|found| vec![found.run])).await
}

/// The change that is meant; None: the one whose appeal waits for longest, else the newest that
/// is held against the node. They come newest first.
fn pick(changes: &[ChangeRecord], asked: Option<u64>) -> Option<&ChangeRecord> {
    let is_open = |change: &&ChangeRecord| {
        let appeal = change.appeal.as_ref();
        appeal.is_some_and(|appeal| appeal.outcome == AppealOutcome::Open)
    };
    match asked {
        Some(asked) => changes.iter().find(|change| change.id == asked),
        None => {
            let oldest = changes.iter().rev().find(is_open);
            oldest.or_else(|| changes.iter().find(|change| change.holds()))
        }
    }
}

/// Stores the answer. Where an audit took credit, its run gives it back in the same transaction.
async fn answer(coordinator: &Coordinator, change: &ChangeRecord, review: Review) -> ApiResult<()> {
    let evidence = change.evidence.as_ref();
    let found = evidence.filter(|_| review.reverse && change.holds());
    if let Some((run, assignment)) = found.and_then(|found| Some((found.run, found.assignment?))) {
        let run = find(coordinator, run)?;
        return Ok(run.reverse(review, assignment).await?);
    }
    let stored = coordinator.store().review(&review).await;
    stored.map_err(|error| {
        let message = error.to_string();
        match error {
            ReviewError::Unknown { .. } => ApiError::not_found("unknown_change", message),
            ReviewError::NotAppealed(_) => ApiError::conflict("not_appealed", message),
            ReviewError::Reversed(_) => ApiError::conflict("already_reversed", message),
            ReviewError::Store(error) => ApiError::fault(&error.into()),
        }
    })
}
