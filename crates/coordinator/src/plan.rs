//! What a node should be doing, whole, from the runs' states and the fleet's memory.

use std::sync::Arc;

use opengpu_protocol::standing::NoWork;
use opengpu_protocol::wire::{AssignmentPlan, Drawn, Outcome, Plan, RunPlan, Verdict, WorkerPlan};
use opengpu_rounds::probe::clipping;
use opengpu_rounds::{NodeId, Phase, WorkerId};

use crate::Coordinator;
use crate::clock::unix_ms;
use crate::driver::{LiveRun, drawn};
use crate::fleet::may_work;
use crate::store::NodeState;

/// Verdicts that go with a plan.
const VERDICTS: usize = 16;

/// The plan of a node; None: there is no such node, or it is banned.
pub fn plan_of(coordinator: &Coordinator, node: NodeId) -> Option<Plan> {
    let runs = coordinator.live_runs();
    let (state, standing, barred, workers) = {
        let memory = coordinator.fleet().lock();
        let known = memory.nodes.get(&node)?;
        let (state, now_unix_ms) = (known.state, unix_ms());
        let barred: Vec<_> = runs
            .iter()
            .map(|run| known.barred_from(node, run.id, &run.spec, now_unix_ms))
            .collect();
        let workers: Vec<_> = memory
            .workers_of(node)
            .into_iter()
            .filter_map(|id| {
                let worker = memory.workers.get(&id)?;
                Some((id, worker.device, worker.run))
            })
            .collect();
        (state, known.standing_plan(), barred, workers)
    };
    if state == NodeState::Banned {
        return None;
    }
    let idle = state == NodeState::Active && workers.iter().all(|(_, _, run)| run.is_none());
    let no_work = idle.then(|| taken_by_none(&runs, barred)).flatten();
    let now_ms = coordinator.clock().now_ms();
    let workers = workers
        .into_iter()
        .map(|(worker, device, run)| {
            let run = run
                .filter(|_| may_work(state))
                .and_then(|run| coordinator.run(run));
            let run = run.and_then(|run| run_plan(&run, worker, now_ms));
            WorkerPlan {
                worker,
                device,
                run,
            }
        })
        .collect();
    Some(Plan {
        node,
        draining: state == NodeState::Draining,
        pending: state == NodeState::Pending,
        standing: Some(standing),
        no_work,
        workers,
    })
}

/// Why none of the runs that go on takes a node, given why each of all runs does not.
fn taken_by_none(runs: &[Arc<LiveRun>], barred: Vec<Option<NoWork>>) -> Option<NoWork> {
    let goes_on = |run: &LiveRun| !run.is_over() && run.state().phase() != Phase::Draft;
    let reasons = runs.iter().zip(barred).filter(|(run, _)| goes_on(run));
    let mut reasons = reasons.map(|(_, why)| why);
    let first = reasons.next()??;
    reasons.all(|why| why.is_some()).then_some(first)
}

fn run_plan(run: &LiveRun, worker: WorkerId, now_ms: u64) -> Option<RunPlan> {
    let state = run.state();
    let digest = state.digest()?;
    let assignment = state.assignment_of(worker).map(|(assignment, lease)| {
        let span = state.span_of(lease);
        AssignmentPlan {
            assignment,
            round: lease.round,
            base: lease.base,
            blocks: lease.blocks(),
            remaining_ms: lease.deadline_ms.saturating_sub(now_ms),
            progress_from: span.from,
            progress_to: span.to,
        }
    });
    let mut verdicts: Vec<Verdict> = state
        .verdicts(worker)
        .rev()
        .take(VERDICTS)
        .map(verdict)
        .collect();
    verdicts.reverse();
    let asked = state
        .audits()
        .filter(|(_, audit)| audit.worker == worker && audit.openings.is_none());
    let open = asked.map(|(assignment, audit)| Drawn {
        assignment,
        chunks: drawn(run, audit)
            .into_iter()
            .map(|chunk| chunk as u32)
            .collect(),
    });
    let open = open.take(VERDICTS).collect();
    Some(RunPlan {
        run: run.id,
        revision: state.revision(),
        digest,
        assignment,
        verdicts,
        open,
        audit: run.asked().plan_of(worker),
    })
}

/// A verdict as it goes over the wire.
pub fn verdict(verdict: &opengpu_rounds::Verdict) -> Verdict {
    let outcome = match &verdict.outcome {
        opengpu_rounds::Outcome::Waiting => Outcome::Waiting,
        opengpu_rounds::Outcome::Merged {
            revision,
            factor,
            regard,
        } => Outcome::Merged {
            revision: *revision,
            factor: *factor,
            reason: {
                let counted = regard.and_then(|regard| regard.explanation());
                let clipped = clipping(*factor);
                let alone = verdict.alone.map(|trial| trial.explanation());
                let said = counted.into_iter().chain(clipped).chain(alone);
                let said: Vec<String> = said.collect();
                (!said.is_empty()).then(|| said.join("; "))
            },
        },
        opengpu_rounds::Outcome::NotMerged { reason } => Outcome::NotMerged {
            reason: reason.clone(),
        },
    };
    Verdict {
        assignment: verdict.assignment,
        accepted: verdict.payload.is_some(),
        outcome,
    }
}
