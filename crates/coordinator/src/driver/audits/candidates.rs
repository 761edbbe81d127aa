//! Which nodes may train an assignment again: those that an operator vouches for, that are there,
//! and that take part in the run, so that they have its model and data.

use std::collections::BTreeMap;

use opengpu_rounds::{Audit, Candidate, Fleet, Involved, MOST_ASKED, Revision, WorkerId};

use crate::coordinator::WORKER_SILENCE_MS;
use crate::driver::LiveRun;
use crate::fleet::{Memory, WorkerMemory};
use crate::store::NodeState;

/// Longest time that an audit may take a node, in durations of a round.
const LONGEST_ROUNDS: f64 = 3.0;

/// Whose assignment it is.
pub(super) fn whose(run: &LiveRun, memory: &Memory, audit: &Audit) -> Option<Involved> {
    let node = run.state().member(audit.worker)?.node;
    let account = memory.nodes.get(&node)?.account.as_ref();
    Some(Involved {
        node,
        account: account.map(|account| account.id),
    })
}

/// Who may train it again, of whomever's it is.
pub(super) fn candidates(
    run: &LiveRun,
    memory: &Memory,
    audit: &Audit,
    now_ms: u64,
) -> Vec<Candidate> {
    let class = memory.workers.get(&audit.worker);
    let class = class.map(|worker| worker.offer.numerics_class.as_str());
    let asked = run.asked().counts();
    let given = memory
        .workers
        .iter()
        .filter(|entry| entry.1.run == Some(run.id));
    let candidates = given.filter_map(|(id, worker)| {
        let node = memory.nodes.get(&worker.node)?;
        let willing = node.standing.vouched && !run.asked().is_contradicted(worker.node);
        if !willing || node.state != NodeState::Active || !node.connected {
            return None;
        }
        let count = match speed(run, (*id, worker), now_ms) {
            Some(speed) if !is_in_time(run, audit, speed) => return None,
            Some(_) => asked.get(id).copied().unwrap_or(0),
            // It is getting ready: worth waiting for.
            None => MOST_ASKED,
        };
        Some(Candidate {
            worker: *id,
            node: worker.node,
            account: node.account.as_ref().map(|account| account.id),
            same_class: class == Some(worker.offer.numerics_class.as_str()),
            asked: count,
        })
    });
    candidates.collect()
}

/// Blocks a second of a worker that takes part and is heard of; None: not yet.
fn speed(run: &LiveRun, (id, worker): (WorkerId, &WorkerMemory), now_ms: u64) -> Option<f64> {
    let present = run.state().member(id).is_some_and(|member| member.present);
    let heard = worker.heard && now_ms.saturating_sub(worker.heard_ms) <= WORKER_SILENCE_MS;
    let report = worker.report.as_ref();
    let report = report.filter(|report| report.run == run.id && present && heard)?;
    (report.blocks_per_second > 0.0).then_some(report.blocks_per_second)
}

fn is_in_time(run: &LiveRun, audit: &Audit, blocks_per_second: f64) -> bool {
    let seconds = audit.blocks_completed as f64 / blocks_per_second;
    seconds <= LONGEST_ROUNDS * run.spec.round.duration_ms as f64 / 1000.0
}

/// Leaves workers that make audits out of new rounds, where as many others as a round needs are
/// trusted and ready: `asked` are those that make one. Where there are not, they get work as ever, and
/// train what is left of the round.
pub fn spare(
    fleet: &mut Fleet,
    asked: &BTreeMap<WorkerId, usize>,
    needed: usize,
    newest: Revision,
) {
    if asked.is_empty() {
        return;
    }
    let others = fleet.iter().filter(|(worker, sight)| {
        let ready = sight.trusted && !sight.draining && sight.revision == Some(newest);
        ready && !asked.contains_key(worker)
    });
    if others.count() < needed {
        return;
    }
    for worker in asked.keys() {
        if let Some(sight) = fleet.get_mut(worker) {
            sight.draining = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use opengpu_rounds::WorkerSight;

    use super::*;

    const NEWEST: Revision = Revision {
        lineage: 0,
        number: 4,
    };

    fn fleet() -> Fleet {
        let ready = WorkerSight {
            revision: Some(NEWEST),
            blocks_per_second: 1.0,
            last_heard_ms: 0,
            draining: false,
            trusted: true,
            reputation: 1.0,
        };
        let stranger = WorkerSight {
            trusted: false,
            ..ready
        };
        let sights = [ready, ready, ready, stranger];
        let numbered = (1..).map(WorkerId).zip(sights);
        numbered.collect()
    }

    fn left_out(asked: &[u64], needed: usize) -> Vec<u64> {
        let mut fleet = fleet();
        let asked = asked.iter().map(|id| (WorkerId(*id), 1)).collect();
        spare(&mut fleet, &asked, needed, NEWEST);
        let out = fleet.iter().filter(|(_, sight)| sight.draining);
        out.map(|(worker, _)| worker.0).collect()
    }

    #[test]
    fn who_makes_an_audit_is_left_out_of_rounds_that_do_without_it() {
        assert_eq!(left_out(&[1], 2), [1]);
        assert_eq!(left_out(&[1, 2], 1), [1, 2]);
        // Those on probation do not keep a round going.
        assert!(left_out(&[1, 2], 2).is_empty());
        assert!(left_out(&[], 0).is_empty());
    }
}
