//! What a run's decisions know of its workers, put together from the fleet's memory.

use opengpu_rounds::{Fleet, WorkerSight};

use super::LiveRun;
use super::audits::spare;
use crate::clock::unix_ms;
use crate::fleet::{Memory, may_work};
use crate::store::NodeState;

/// The workers that are in this run or were given to it.
pub fn sight(run: &LiveRun, memory: &Memory) -> Fleet {
    let members: Vec<_> = {
        let state = run.state();
        let present = state.members().filter(|(_, member)| member.present);
        present.map(|(worker, _)| worker).collect()
    };
    let given = memory
        .workers
        .iter()
        .filter(|(_, worker)| worker.run == Some(run.id))
        .map(|(id, _)| *id);
    let now_unix_ms = unix_ms();
    let mut fleet = Fleet::new();
    for id in members.into_iter().chain(given) {
        let Some(worker) = memory.workers.get(&id) else {
            continue;
        };
        let state = memory.state_of(worker);
        if !may_work(state) {
            continue;
        }
        let standing = memory.nodes.get(&worker.node).map(|node| node.standing);
        let probation = run.spec.trust.probation_audits;
        let standing = standing.unwrap_or_default();
        let report = worker.report.as_ref().filter(|report| report.run == run.id);
        let holds = report.filter(|report| run.digest_of(report.revision) == Some(report.digest));
        fleet.insert(
            id,
            WorkerSight {
                revision: holds.map(|report| report.revision),
                blocks_per_second: report.map_or(0.0, |report| report.blocks_per_second),
                last_heard_ms: worker.heard_ms,
                // One that was given away finishes what it holds and gets nothing new here.
                draining: state == NodeState::Draining || worker.run != Some(run.id),
                trusted: standing.is_trusted(probation, now_unix_ms),
                reputation: standing.beyond_probation(probation, now_unix_ms),
            },
        );
    }
    let state = run.state();
    let needed = state.settings().min_workers.max(state.settings().quorum);
    let needed = needed.max(1) as usize;
    spare(&mut fleet, &run.asked().counts(), needed, state.revision());
    fleet
}
