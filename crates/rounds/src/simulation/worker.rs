//! A simulated worker: an agent and its trainer. It is told what to do by plans, as the real
//! agent is, and it keeps its journal over a crash.

use std::collections::BTreeMap;

use crate::{AssignmentId, FeedbackId, Hash, NodeId, Outcome, Revision, Verdict, WorkerId};

/// All that a worker should be doing, whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// Owner's epoch and events folded: an older plan that arrives later is ignored.
    pub order: (u64, u64),
    pub revision: Revision,
    pub digest: Hash,
    /// Name, base, number of blocks, time left.
    pub assignment: Option<(AssignmentId, Revision, u64, u64)>,
    pub verdicts: Vec<Verdict>,
}

impl Plan {
    /// Whether a worker that was told `other` needs to hear this one.
    pub fn says_as_much_as(&self, other: &Self) -> bool {
        let name = |plan: &Self| plan.assignment.map(|(id, ..)| id);
        self.revision == other.revision
            && name(self) == name(other)
            && self.verdicts == other.verdicts
    }
}

/// An update that was sent, kept until its verdict.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub base: Revision,
    pub completed: u64,
    pub payload: Hash,
    pub feedback: FeedbackId,
    pub answered: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Doing {
    Nothing,
    Fetching,
    Training {
        assignment: AssignmentId,
        base: Revision,
        completed: u64,
        since_ms: u64,
    },
}

pub(super) struct Worker {
    pub id: WorkerId,
    pub node: NodeId,
    /// Blocks per second, truly.
    pub speed: f64,
    /// As it measured them.
    pub measured: f64,
    /// Counts its restarts: timers of an earlier life are void.
    pub life: u64,
    pub up: bool,
    /// Wants to take part.
    pub willing: bool,
    pub reachable: bool,
    pub draining: bool,
    pub feedback: FeedbackId,
    pub holds: Option<(Revision, Hash)>,
    pub lineage: u32,
    pub doing: Doing,
    pub journal: BTreeMap<AssignmentId, Sent>,
    pub outcomes: BTreeMap<AssignmentId, Outcome>,
    pub newest: (u64, u64),
    /// The last plan, looked at again when something was finished.
    pub plan: Option<(u64, Plan)>,
    pub busy_ms: u64,
    pub up_ms: u64,
    pub up_since_ms: u64,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    Nothing,
    Fetch,
    Train {
        assignment: AssignmentId,
        base: Revision,
        blocks: u64,
        left_ms: u64,
    },
}

impl Worker {
    pub fn new(index: u64, speed: f64, feedback: FeedbackId) -> Self {
        Self {
            id: WorkerId(index + 1),
            node: NodeId(100 + index),
            speed,
            measured: speed,
            life: 0,
            up: true,
            willing: true,
            reachable: true,
            draining: false,
            feedback,
            holds: None,
            lineage: 0,
            doing: Doing::Nothing,
            journal: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            newest: (0, 0),
            plan: None,
            busy_ms: 0,
            up_ms: 0,
            up_since_ms: 0,
        }
    }

    /// Takes in a plan. An error is a promise broken by the coordinator.
    pub fn hear(&mut self, plan: Plan, now_ms: u64, fresh: FeedbackId) -> Result<(), String> {
        if plan.order < self.newest {
            return Ok(());
        }
        self.newest = plan.order;
        if plan.revision.lineage > self.lineage {
            // Rolled back: feedback and inner state start again.
            self.lineage = plan.revision.lineage;
            self.feedback = fresh;
            self.journal.clear();
            self.rest(now_ms);
        }
        for verdict in &plan.verdicts {
            self.learn(verdict)?;
        }
        if let Doing::Training { assignment, .. } = self.doing
            && plan.assignment.map(|(id, ..)| id) != Some(assignment)
        {
            // The lease is gone; what was trained goes nowhere.
            self.rest(now_ms);
        }
        self.plan = Some((now_ms, plan));
        Ok(())
    }

    /// Ends whatever it does; time spent training counts as busy, useful or not.
    pub fn rest(&mut self, now_ms: u64) {
        if let Doing::Training { since_ms, .. } = self.doing {
            self.busy_ms += now_ms - since_ms;
        }
        self.doing = Doing::Nothing;
    }

    /// Time spent training, and time up, so far.
    pub fn busy_and_up(&self, now_ms: u64) -> (u64, u64) {
        let training = match self.doing {
            Doing::Training { since_ms, .. } => now_ms - since_ms,
            _ => 0,
        };
        let up = if self.up {
            now_ms - self.up_since_ms
        } else {
            0
        };
        (self.busy_ms + training, self.up_ms + up)
    }

    fn learn(&mut self, verdict: &Verdict) -> Result<(), String> {
        if verdict.outcome == Outcome::Waiting {
            return Ok(());
        }
        let before = self
            .outcomes
            .insert(verdict.assignment, verdict.outcome.clone());
        if before.is_some_and(|before| before != verdict.outcome) {
            return Err(format!(
                "worker {} was told two outcomes of one update",
                self.id
            ));
        }
        if let Some(sent) = self.journal.get(&verdict.assignment)
            && verdict
                .payload
                .is_none_or(|payload| payload == sent.payload)
        {
            // Committed or added back.
            self.journal.remove(&verdict.assignment);
        }
        while self.outcomes.len() > 200 {
            self.outcomes.pop_first();
        }
        Ok(())
    }

    /// What to do now, from the last plan.
    pub fn next(&self, now_ms: u64) -> Next {
        let Some((heard_ms, plan)) = &self.plan else {
            return Next::Nothing;
        };
        if self.doing != Doing::Nothing {
            return Next::Nothing;
        }
        if let Some((assignment, base, blocks, left_ms)) = plan.assignment
            && self.holds.is_some_and(|(held, _)| held == base)
            && !self.journal.contains_key(&assignment)
            && !self.outcomes.contains_key(&assignment)
        {
            let left_ms = left_ms.saturating_sub(now_ms - heard_ms);
            if left_ms > 0 {
                return Next::Train {
                    assignment,
                    base,
                    blocks,
                    left_ms,
                };
            }
        }
        if self.holds.is_none_or(|(held, _)| held != plan.revision) {
            return Next::Fetch;
        }
        Next::Nothing
    }
}
