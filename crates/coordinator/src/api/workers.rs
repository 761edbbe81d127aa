//! Workers: offered devices and their reports.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::wire::{Activity, NO_WEIGHTS, Offer, Offered, Report, Reported};
use opengpu_rounds::standing::PROBATION_AUDITS;
use opengpu_rounds::{Input, NodeId, WorkerId};

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments, SignedNode};
use crate::Coordinator;
use crate::clock::unix_ms;
use crate::driver::{LiveRun, is_over};

/// Devices that one node may offer.
const MAX_DEVICES: u32 = 256;
/// The same of a node that is not trusted: each is a worker, which takes a place in a run.
const MAX_UNPROVEN_DEVICES: u32 = 16;

/// `PUT /v1/workers/{device}`
pub async fn offer(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments(device): Segments<u32>,
    Parsed(offer): Parsed<Offer>,
) -> ApiResult<Json<Offered>> {
    let words = [&offer.trainer, &offer.device, &offer.numerics_class];
    if device >= MAX_DEVICES || words.iter().any(|word| word.len() > 200) {
        return Err(ApiError::unacceptable(
            "bad_offer",
            format!(
                "device {device} must be below {MAX_DEVICES}, and each description at most 200 bytes long"
            ),
        ));
    }
    if device >= MAX_UNPROVEN_DEVICES && !may_offer_more(&coordinator, node, device) {
        return Err(ApiError::forbidden(
            "too_many_devices",
            format!(
                "device {device} is one too many: a node that is not trusted yet offers those below {MAX_UNPROVEN_DEVICES}; it may offer {MAX_DEVICES} once {PROBATION_AUDITS} of its updates passed their audits, or the operator vouches for it, with `opengpu node vouch {node}`"
            ),
        ));
    }
    let worker = coordinator
        .store()
        .worker_for(node, device, &offer)
        .await
        .map_err(anyhow::Error::from)?;
    let now_ms = coordinator.clock().now_ms();
    coordinator
        .fleet()
        .lock()
        .offer(node, worker, device, offer, now_ms);
    coordinator.reallocate();
    coordinator.plans_changed();
    Ok(Json(Offered { worker }))
}

/// Whether a node is past its probation, or offered this device when it was.
fn may_offer_more(coordinator: &Coordinator, node: NodeId, device: u32) -> bool {
    let memory = coordinator.fleet().lock();
    let mut offered = memory.workers.values();
    memory
        .nodes
        .get(&node)
        .is_some_and(|known| known.standing.is_trusted(PROBATION_AUDITS, unix_ms()))
        || offered.any(|worker| worker.node == node && worker.device == device)
}

/// `POST /v1/workers/{worker}/report`
pub async fn report(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
    Segments(worker): Segments<WorkerId>,
    Parsed(mut report): Parsed<Report>,
) -> ApiResult<Json<Reported>> {
    check(&coordinator, node, worker)?;
    let Some(run) = coordinator.run(report.run) else {
        return Err(ApiError::not_found(
            "unknown_run",
            format!("there is no run {}", report.run),
        ));
    };
    if !report.blocks_per_second.is_finite() || report.blocks_per_second < 0.0 {
        report.blocks_per_second = 0.0;
    }
    shorten(&mut report.activity);
    let expected = run.digest_of(report.revision);
    // A worker that holds no weights yet is fetching them anyway.
    let holds = report.digest != NO_WEIGHTS;
    let resync = holds && expected.is_some_and(|digest| digest != report.digest);
    if resync {
        tracing::warn!(run = %run.id, %worker, revision = %report.revision, "a worker's weights differ; it is told to fetch them again");
    }
    let now_ms = coordinator.clock().now_ms();
    let (ready, changed, free) = {
        let mut memory = coordinator.fleet().lock();
        let before = memory
            .workers
            .get(&worker)
            .and_then(|known| known.report.clone());
        // Anything but progress may change what is decided.
        let changed = before.is_none_or(|before| {
            before.run != report.run
                || before.revision != report.revision
                || before.digest != report.digest
                || (before.blocks_per_second > 0.0) != (report.blocks_per_second > 0.0)
        });
        let given = memory.workers.get(&worker).and_then(|known| known.run);
        memory.heard(worker, report.clone(), now_ms);
        (
            given == Some(run.id) && expected == Some(report.digest),
            changed,
            given.is_none(),
        )
    };
    if free {
        coordinator.reallocate();
    }
    if ready && is_taken(&coordinator, &run, node, worker) {
        take_in(&run, node, worker, &report).await?;
    }
    if changed {
        run.nudge();
    }
    run.changed();
    Ok(Json(Reported { resync }))
}

/// Whether the run takes the node. It was given no work then; its standing changed just now.
fn is_taken(coordinator: &Coordinator, run: &LiveRun, node: NodeId, worker: WorkerId) -> bool {
    let memory = coordinator.fleet().lock();
    let known = memory.nodes.get(&node);
    let barred = known.and_then(|known| known.barred_from(node, run.id, &run.spec, unix_ms()));
    if let Some(why) = &barred {
        tracing::info!(run = %run.id, %worker, code = why.code, message = why.message, "not taken in");
    }
    barred.is_none()
}

/// A worker that holds the weights takes part, and says when its error feedback was lost.
async fn take_in(run: &LiveRun, node: NodeId, worker: WorkerId, report: &Report) -> ApiResult<()> {
    let feedback = report.feedback;
    let input = {
        let state = run.state();
        match state.member(worker) {
            Some(member) if member.present && member.feedback == Some(feedback) => return Ok(()),
            Some(member) if member.present => Input::FeedbackReset { worker, feedback },
            _ if is_over(&state) => return Ok(()),
            _ => Input::Join {
                worker,
                node,
                feedback,
            },
        }
    };
    let answer = run.ask(input, None).await?;
    if let Some(refusal) = answer.refusal {
        // The report itself was heard; the worker learns from its plan.
        tracing::info!(run = %run.id, %worker, code = refusal.code, message = refusal.message, "not taken in");
    }
    Ok(())
}

/// Refuses a worker that is not this node's.
pub fn check(coordinator: &Coordinator, node: NodeId, worker: WorkerId) -> ApiResult<()> {
    let owner = coordinator
        .fleet()
        .lock()
        .workers
        .get(&worker)
        .map(|known| known.node);
    match owner {
        Some(owner) if owner == node => Ok(()),
        Some(_) => Err(ApiError::forbidden(
            "not_your_worker",
            format!("worker {worker} belongs to another node"),
        )),
        None => Err(ApiError::not_found(
            "unknown_worker",
            format!("there is no worker {worker}; offer its device first"),
        )),
    }
}

/// What comes from a node and is shown to people has a bounded length.
fn shorten(activity: &mut Activity) {
    match activity {
        Activity::Preparing { what } if what.len() > 300 => {
            let cut = (0..=300)
                .rev()
                .find(|at| what.is_char_boundary(*at))
                .unwrap_or(0);
            what.truncate(cut);
        }
        Activity::Training {
            loss,
            tokens_per_second,
            ..
        } => {
            // JSON has no word for these, so the view could not be written.
            for value in [loss, tokens_per_second] {
                if !value.is_finite() {
                    *value = 0.0;
                }
            }
        }
        _ => {}
    }
}
