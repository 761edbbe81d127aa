//! A fleet that trains nothing: the decisions of `rounds` alone, with a clock of its own, for
//! experiments about who gets work, who is audited and what counts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use opengpu_rounds::{
    AssignmentId, AuditOutcome, Commitment, FeedbackId, Finding, Fleet, Hash, Input, NodeId,
    Outcome, PendingMerge, RoundSettings, Run, WorkerId, WorkerSight,
};

use crate::decide::decide;
use crate::random::mix;

/// A run and its workers, each on a machine of its own.
pub struct Untrained {
    /// The run.
    pub run: Run,
    /// Milliseconds.
    pub clock: u64,
    fleet: Fleet,
    seed: u64,
    /// Of each worker that takes part: its last accepted update.
    workers: BTreeMap<WorkerId, Option<AssignmentId>>,
}

impl Untrained {
    /// A run that waits for workers. `seed` decides which updates are audited.
    pub fn start(settings: RoundSettings, seed: u64) -> Result<Self> {
        let mut fleet = Self {
            run: Run::from_events(&[Run::create(settings, 0)]),
            clock: 0,
            fleet: Fleet::new(),
            seed,
            workers: BTreeMap::new(),
        };
        fleet.decide(&Input::Start)?;
        fleet.decide(&Input::CheckpointDone {
            revision: fleet.run.revision(),
            weights: Hash([0; 32]),
            outer_state: Hash([0; 32]),
        })?;
        Ok(fleet)
    }

    /// A worker joins.
    pub fn join(&mut self, worker: WorkerId) -> Result<()> {
        self.workers.insert(worker, None);
        self.decide(&Input::Join {
            worker,
            node: NodeId(worker.0),
            feedback: FeedbackId(worker.0),
        })
    }

    /// A worker is sent away.
    pub fn leave(&mut self, worker: WorkerId) -> Result<()> {
        self.workers.remove(&worker);
        self.fleet.remove(&worker);
        self.decide(&Input::Leave {
            worker,
            reason: "it failed an audit".into(),
        })
    }

    /// All workers that take part are heard of and hold the newest weights; then what time and
    /// that allow is decided.
    pub fn see(&mut self, trusted: impl Fn(WorkerId) -> bool) -> Result<()> {
        for worker in self.workers.keys() {
            let sight = WorkerSight {
                revision: Some(self.run.revision()),
                blocks_per_second: 1.0,
                last_heard_ms: self.clock,
                draining: false,
                trusted: trusted(*worker),
                reputation: 1.0,
            };
            self.fleet.insert(*worker, sight);
        }
        self.decide(&Input::Tick)
    }

    /// Workers that hold an assignment.
    pub fn at_work(&self) -> BTreeSet<WorkerId> {
        self.run.leases().map(|(_, lease)| lease.worker).collect()
    }

    /// A worker with an assignment sends its update, and opens what is drawn of it. Returns the
    /// update if it is to be audited.
    pub fn send(&mut self, worker: WorkerId) -> Result<Option<AssignmentId>> {
        let lease = self.run.assignment_of(worker);
        let (assignment, lease) = lease.context("a worker without work has nothing to send")?;
        let (base, blocks_completed) = (lease.base, lease.block_count());
        let name = [worker.0.to_le_bytes(), assignment.0.to_le_bytes()].concat();
        let member = self.run.member(worker).context("unknown worker")?;
        let previous = self.workers.get(&worker).copied().flatten();
        // A joiner's first update is not merged: all of it is taken back.
        let taken_back = previous.filter(|update| {
            let verdict = member.verdict(*update).map(|verdict| &verdict.outcome);
            matches!(verdict, Some(Outcome::NotMerged { .. }))
        });
        let update = Input::Update {
            assignment,
            worker,
            base,
            blocks_completed,
            payload: Hash::of(&name),
            payload_bytes: 1,
            tokens_per_block: 1,
            feedback: FeedbackId(worker.0),
            commitment: Some(Commitment {
                root: Hash::of(&name),
                previous,
                taken_back: taken_back.into_iter().collect(),
            }),
            draw: mix(mix(self.seed) ^ assignment.0),
        };
        self.decide(&update)?;
        self.workers.insert(worker, Some(assignment));
        if self.run.audit(assignment).is_none() {
            return Ok(None);
        }
        self.decide(&Input::Opened {
            assignment,
            worker,
            openings: Hash::of(&name),
        })?;
        Ok(Some(assignment))
    }

    /// An audit ends.
    pub fn audited(&mut self, assignment: AssignmentId, outcome: AuditOutcome) -> Result<()> {
        self.decide(&Input::Audited {
            assignment,
            finding: Finding {
                reruns: Vec::new(),
                outcome,
                code: "given".into(),
                reason: "the experiment says so".into(),
                measured: None,
                allowed: None,
            },
        })
    }

    /// Merges what is to be merged, if anything is: each update whole.
    pub fn merge(&mut self) -> Result<Option<PendingMerge>> {
        let Some(pending) = self.run.pending_merge() else {
            return Ok(None);
        };
        let name = Hash::of(&pending.round.to_le_bytes());
        self.decide(&Input::MergeDone {
            round: pending.round,
            merge: name,
            merge_bytes: 1,
            digest: name,
            factors: vec![1.0; pending.updates.len()],
            regards: Vec::new(),
        })?;
        Ok(Some(pending))
    }

    fn decide(&mut self, input: &Input) -> Result<()> {
        decide(&mut self.run, self.clock, input, &self.fleet)
    }
}
