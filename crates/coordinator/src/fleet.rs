//! What the coordinator remembers of the machines: who is connected, what each worker said
//! last, and which run it was given to. Memory only: after a restart the next reports,
//! a second later, tell it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use opengpu_protocol::standing::Against;
use opengpu_protocol::wire::{Machine, Offer, Report};
use opengpu_rounds::{NodeId, RunId, WorkerId};

use crate::store::{AccountRecord, NodeState, Standing};

/// Whether the workers of a node in this state may be in a run at all.
pub fn may_work(state: NodeState) -> bool {
    matches!(state, NodeState::Active | NodeState::Draining)
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeMemory {
    /// What its owner calls it.
    pub name: String,
    /// What it is.
    pub machine: Machine,
    /// What an operator thinks of it.
    pub state: NodeState,
    /// How far its audits let it be trusted.
    pub standing: Standing,
    /// Whether an operator let it in.
    pub approved: bool,
    /// The newest step of its standing that was counted.
    pub newest_change: u64,
    /// What is held against it.
    pub against: Option<Against>,
    /// Whether an appeal of its owner is open.
    pub appeals: bool,
    /// Rises with each directive stream it opens; only the newest goes on.
    pub stream: u64,
    /// Whether its newest directive stream is open.
    pub connected: bool,
    /// The account that it belongs to.
    pub account: Option<AccountRecord>,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerMemory {
    /// On which node.
    pub node: NodeId,
    /// Which device of the node.
    pub device: u32,
    /// What the device is.
    pub offer: Offer,
    /// What it said last.
    pub report: Option<Report>,
    /// When it said something last, on the coordinator's clock.
    pub heard_ms: u64,
    /// Whether it said anything since this process started.
    pub heard: bool,
    /// Which run it was given to.
    pub run: Option<RunId>,
    /// Updates refused since this process started.
    pub refused: u64,
    /// Why the last one was refused.
    pub last_refusal: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Memory {
    /// By id.
    pub nodes: BTreeMap<NodeId, NodeMemory>,
    /// By id.
    pub workers: BTreeMap<WorkerId, WorkerMemory>,
}

/// The fleet behind a lock that is held for microseconds and never across an await.
#[derive(Debug, Default)]
pub struct Fleet {
    memory: Mutex<Memory>,
}

/// What a run wants of the fleet.
#[derive(Clone, Debug)]
pub struct Wants {
    /// Which run.
    pub run: RunId,
    /// Whether it is being trained; one that is paused or over only keeps what nobody else
    /// wants, so that its workers fetch the last merge.
    pub live: bool,
    /// Most workers it can use.
    pub max_workers: u32,
    /// Workers that it knows.
    pub members: BTreeSet<WorkerId>,
    /// Workers that it left out or does not take: they are given to other runs.
    pub left_out: BTreeSet<WorkerId>,
    /// Workers whose nodes are past its probation: they get as many places as if they were alone.
    pub known: BTreeSet<WorkerId>,
}

impl Fleet {
    /// The memory. A panic elsewhere can't leave it torn: every change is one assignment.
    pub fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Whether this worker belongs to this node.
    pub fn owns(&self, node: NodeId, worker: WorkerId) -> bool {
        self.workers
            .get(&worker)
            .is_some_and(|memory| memory.node == node)
    }

    /// The account that a node belongs to.
    pub fn account_of(&self, node: NodeId) -> Option<u64> {
        let account = self.nodes.get(&node)?.account.as_ref();
        account.map(|account| account.id)
    }

    /// What the operator thinks of a worker's node.
    pub fn state_of(&self, worker: &WorkerMemory) -> NodeState {
        self.nodes
            .get(&worker.node)
            .map_or(NodeState::Banned, |node| node.state)
    }

    /// The workers of a node, by device.
    pub fn workers_of(&self, node: NodeId) -> Vec<WorkerId> {
        let mut workers: Vec<_> = self
            .workers
            .iter()
            .filter(|entry| entry.1.node == node)
            .collect();
        workers.sort_by_key(|entry| entry.1.device);
        workers.into_iter().map(|entry| *entry.0).collect()
    }

    /// A worker that was offered before this process started.
    pub fn remember(&mut self, worker: WorkerId, node: NodeId, device: u32, offer: Offer) {
        self.offer(node, worker, device, offer, 0);
        if let Some(memory) = self.workers.get_mut(&worker) {
            memory.heard = false;
        }
    }

    /// All known workers count as heard of just now: a coordinator that was away takes
    /// nobody for silent because of that.
    pub fn start_silence_from(&mut self, now_ms: u64) {
        for memory in self.workers.values_mut() {
            memory.heard_ms = memory.heard_ms.max(now_ms);
        }
    }

    /// A device is ready to work.
    pub fn offer(
        &mut self,
        node: NodeId,
        worker: WorkerId,
        device: u32,
        offer: Offer,
        now_ms: u64,
    ) {
        let memory = self.workers.entry(worker).or_insert_with(|| WorkerMemory {
            node,
            device,
            offer: offer.clone(),
            report: None,
            heard_ms: now_ms,
            heard: false,
            run: None,
            refused: 0,
            last_refusal: None,
        });
        memory.offer = offer;
        memory.heard_ms = now_ms;
        memory.heard = true;
    }

    /// A worker said what it does.
    pub fn heard(&mut self, worker: WorkerId, report: Report, now_ms: u64) {
        if let Some(memory) = self.workers.get_mut(&worker) {
            memory.report = Some(report);
            memory.heard_ms = now_ms;
            memory.heard = true;
        }
    }

    /// Gives free workers to the runs that want them, oldest run first, and takes workers
    /// from runs that are over when another wants them. A worker stays where it is while
    /// its run is live. Returns whether anything changed.
    pub fn allocate(&mut self, wants: &[Wants], now_ms: u64, silence_ms: u64) -> bool {
        let mut changed = false;
        let live: BTreeSet<RunId> = wants
            .iter()
            .filter(|want| want.live)
            .map(|want| want.run)
            .collect();
        let known: BTreeSet<RunId> = wants.iter().map(|want| want.run).collect();
        let nodes = &self.nodes;
        let usable = |memory: &WorkerMemory| {
            // A worker without a run has nothing to report; its node's stream speaks for it.
            nodes.get(&memory.node).is_some_and(|node| {
                let recent = memory.heard && now_ms.saturating_sub(memory.heard_ms) <= silence_ms;
                node.state == NodeState::Active && (node.connected || recent)
            })
        };
        let may_stay = |memory: &WorkerMemory| {
            nodes
                .get(&memory.node)
                .is_some_and(|node| may_work(node.state))
        };
        let left_out_of = |run: RunId, worker: &WorkerId| {
            let mut of = wants.iter().filter(|want| want.run == run);
            of.any(|want| want.left_out.contains(worker))
        };
        for (worker, memory) in &mut self.workers {
            let connected = nodes.get(&memory.node).is_some_and(|node| node.connected);
            // One that is gone for good must not keep its place from one that is there.
            let lost = !connected && now_ms.saturating_sub(memory.heard_ms) > 4 * silence_ms;
            let unwanted = |run| !known.contains(&run) || left_out_of(run, worker);
            let gone = memory.run.is_some_and(unwanted) || lost || !may_stay(memory);
            if gone && memory.run.take().is_some() {
                changed = true;
            }
        }
        for want in wants
            .iter()
            .filter(|want| want.live)
            .chain(wants.iter().filter(|want| !want.live))
        {
            let free = |memory: &WorkerMemory| match memory.run {
                None => true,
                Some(run) => want.live && !live.contains(&run),
            };
            let welcome = |worker: &WorkerId| {
                (want.live || want.members.contains(worker)) && !want.left_out.contains(worker)
            };
            // The known come first, so that no number of fresh identities keeps them out; then a
            // run's own members, then anyone who is free.
            let coming = self
                .workers
                .iter()
                .filter(|(worker, memory)| welcome(worker) && free(memory) && usable(memory));
            let mut coming: Vec<WorkerId> = coming.map(|(worker, _)| *worker).collect();
            coming.sort_by_key(|worker| {
                let (known, member) = (&want.known, &want.members);
                (!known.contains(worker), !member.contains(worker), *worker)
            });
            // A known worker finds a place whoever has the others: those on probation only keep other
            // newcomers out. The run's rounds give their places to the known first as well.
            let held = self.workers.iter();
            let held = held.filter(|(_, memory)| memory.run == Some(want.run));
            let (mut all, mut known) = (0, 0);
            for (worker, _) in held {
                all += 1;
                known += u32::from(want.known.contains(worker));
            }
            for worker in coming {
                let is_known = want.known.contains(&worker);
                let taken = if is_known { known } else { all };
                if taken < want.max_workers
                    && let Some(memory) = self.workers.get_mut(&worker)
                {
                    memory.run = Some(want.run);
                    all += 1;
                    known += u32::from(is_known);
                    changed = true;
                }
            }
        }
        changed
    }

    /// Workers heard of within `silence_ms`.
    pub fn live_workers(&self, now_ms: u64, silence_ms: u64) -> usize {
        self.workers
            .values()
            .filter(|memory| memory.heard && now_ms.saturating_sub(memory.heard_ms) <= silence_ms)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(workers: u64) -> Memory {
        let mut memory = Memory::default();
        for id in 1..=workers {
            memory.nodes.insert(
                NodeId(id),
                NodeMemory {
                    name: format!("node {id}"),
                    machine: Machine::default(),
                    state: NodeState::Active,
                    standing: Standing::default(),
                    approved: true,
                    newest_change: 0,
                    against: None,
                    appeals: false,
                    stream: 0,
                    connected: true,
                    account: None,
                },
            );
            let offer = Offer {
                trainer: "test".into(),
                device: "CPU".into(),
                numerics_class: "test".into(),
            };
            memory.offer(NodeId(id), WorkerId(id), 0, offer, 0);
        }
        memory
    }

    fn wants(run: u64, live: bool, max_workers: u32, members: &[u64]) -> Wants {
        Wants {
            run: RunId(run),
            live,
            max_workers,
            members: members.iter().map(|id| WorkerId(*id)).collect(),
            left_out: BTreeSet::new(),
            known: BTreeSet::new(),
        }
    }

    fn knows(want: Wants, known: &[u64]) -> Wants {
        let known = known.iter().map(|id| WorkerId(*id)).collect();
        Wants { known, ..want }
    }

    fn given(memory: &Memory) -> Vec<Option<u64>> {
        memory
            .workers
            .values()
            .map(|worker| worker.run.map(|run| run.0))
            .collect()
    }

    #[test]
    fn the_oldest_run_is_served_first_and_the_next_gets_the_rest() {
        let mut memory = fleet(3);
        assert!(memory.allocate(&[wants(1, true, 2, &[]), wants(2, true, 9, &[])], 0, 1000));
        assert_eq!(given(&memory), [Some(1), Some(1), Some(2)]);
        assert!(!memory.allocate(&[wants(1, true, 2, &[]), wants(2, true, 9, &[])], 0, 1000));
    }

    #[test]
    fn a_worker_of_a_finished_run_stays_until_another_run_wants_it() {
        let mut memory = fleet(1);
        memory.allocate(&[wants(1, true, 9, &[])], 0, 1000);
        memory.allocate(&[wants(1, false, 9, &[1])], 0, 1000);
        assert_eq!(given(&memory), [Some(1)]);
        memory.allocate(&[wants(1, false, 9, &[1]), wants(2, true, 9, &[])], 0, 1000);
        assert_eq!(given(&memory), [Some(2)]);
    }

    #[test]
    fn members_come_back_to_their_run_before_strangers() {
        let mut memory = fleet(2);
        memory.allocate(&[wants(1, true, 1, &[2])], 0, 1000);
        assert_eq!(given(&memory), [None, Some(1)]);
    }

    #[test]
    fn workers_on_probation_keep_no_known_one_out_and_are_not_sent_away() {
        let mut memory = fleet(5);
        for late in [3, 4, 5] {
            if let Some(node) = memory.nodes.get_mut(&NodeId(late)) {
                node.state = NodeState::Draining;
            }
        }
        let tight = [knows(wants(1, true, 2, &[]), &[3, 4])];
        memory.allocate(&tight, 0, 1000);
        assert_eq!(given(&memory), [Some(1), Some(1), None, None, None]);
        for late in [3, 4, 5] {
            if let Some(node) = memory.nodes.get_mut(&NodeId(late)) {
                node.state = NodeState::Active;
            }
        }
        assert!(memory.allocate(&tight, 0, 1000));
        // The fifth is on probation, too, and there are more than two.
        assert_eq!(given(&memory), [Some(1), Some(1), Some(1), Some(1), None]);
        assert!(!memory.allocate(&tight, 0, 1000));
    }

    #[test]
    fn a_known_worker_takes_no_place_of_another_known_one() {
        let mut memory = fleet(3);
        let want = knows(wants(1, true, 2, &[3]), &[1, 2, 3]);
        memory.allocate(std::slice::from_ref(&want), 0, 1000);
        assert_eq!(given(&memory), [Some(1), None, Some(1)]);
        assert!(!memory.allocate(&[want], 0, 1000));
    }

    #[test]
    fn a_worker_that_a_run_left_out_is_given_to_another() {
        let mut memory = fleet(1);
        memory.allocate(&[wants(1, true, 9, &[])], 0, 1000);
        let mut without = wants(1, true, 9, &[1]);
        without.left_out = [WorkerId(1)].into();
        memory.allocate(&[without.clone()], 0, 1000);
        assert_eq!(given(&memory), [None]);
        memory.allocate(&[without, wants(2, true, 9, &[])], 0, 1000);
        assert_eq!(given(&memory), [Some(2)]);
    }

    #[test]
    fn a_draining_node_keeps_its_run_and_gets_no_other_and_a_banned_one_loses_it() {
        let mut memory = fleet(2);
        memory.allocate(&[wants(1, true, 1, &[])], 0, 1000);
        for node in memory.nodes.values_mut() {
            node.state = NodeState::Draining;
        }
        memory.allocate(&[wants(1, true, 9, &[1])], 0, 1000);
        assert_eq!(given(&memory), [Some(1), None]);
        for node in memory.nodes.values_mut() {
            node.state = NodeState::Banned;
        }
        memory.allocate(&[wants(1, true, 9, &[1])], 0, 1000);
        assert_eq!(given(&memory), [None, None]);
    }

    #[test]
    fn a_worker_is_given_to_no_run_when_it_is_silent_and_its_node_is_not_connected() {
        let mut memory = fleet(1);
        if let Some(node) = memory.nodes.get_mut(&NodeId(1)) {
            node.connected = false;
        }
        memory.allocate(&[wants(1, true, 9, &[])], 5_000, 1000);
        assert_eq!(given(&memory), [None]);
    }

    #[test]
    fn a_lost_worker_makes_room_for_one_that_is_there() {
        let mut memory = fleet(2);
        memory.allocate(&[wants(1, true, 1, &[])], 0, 1000);
        assert_eq!(given(&memory), [Some(1), None]);
        if let Some(node) = memory.nodes.get_mut(&NodeId(1)) {
            node.connected = false;
        }
        memory.allocate(&[wants(1, true, 1, &[1])], 5_000, 1000);
        assert_eq!(given(&memory), [None, Some(1)]);
    }
}
