//! What a node should be doing, whole, from the runs' states and the fleet's memory.

use opengpu_protocol::wire::{AssignmentPlan, Drawn, Outcome, Plan, RunPlan, Verdict, WorkerPlan};
use opengpu_rounds::{NodeId, WorkerId};

use crate::Coordinator;
use crate::driver::{LiveRun, drawn};
use crate::fleet::may_work;
use crate::store::NodeState;

/// Verdicts that go with a plan.
const VERDICTS: usize = 16;

/// The plan of a node; None: there is no such node, or it is banned.
pub fn plan_of(coordinator: &Coordinator, node: NodeId) -> Option<Plan> {
    let (state, workers) = {
        let memory = coordinator.fleet().lock();
        let state = memory.nodes.get(&node)?.state;
        let workers: Vec<_> = memory
            .workers_of(node)
            .into_iter()
            .filter_map(|id| {
                let worker = memory.workers.get(&id)?;
                Some((id, worker.device, worker.run))
            })
            .collect();
        (state, workers)
    };
    if state == NodeState::Banned {
        return None;
    }
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
        workers,
    })
}

fn run_plan(run: &LiveRun, worker: WorkerId, now_ms: u64) -> Option<RunPlan> {
    let state = run.state();
    let digest = state.digest()?;
    let assignment = state
        .assignment_of(worker)
        .map(|(assignment, lease)| AssignmentPlan {
            assignment,
            round: lease.round,
            base: lease.base,
            blocks: lease.blocks(),
            remaining_ms: lease.deadline_ms.saturating_sub(now_ms),
            progress_from: state.progress(lease.base.number),
            progress_to: state.progress(lease.base.number + 1),
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
            reason: regard.and_then(|regard| regard.explanation()),
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
