//! A simulated coordinator process: the folded state, a clock of its own, and what it keeps
//! in memory only.

use std::collections::BTreeSet;

use super::worker::Plan;
use crate::{EventKind, Fleet, Hash, PendingMerge, Revision, Run, WorkerId, fleet_after_restart};

/// The two clocks that a process can read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// Only measures how long something takes.
    pub monotonic_ms: u64,
    /// Tells the time of day, and steps when somebody sets it.
    pub system_ms: i64,
}

/// One life of a coordinator.
pub(super) struct Owner {
    pub epoch: u64,
    pub run: Run,
    pub fleet: Fleet,
    /// Its clock is the log's newest time plus what its monotonic clock measured since. The
    /// system's clock, which steps, plays no part.
    base_ms: u64,
    started_ms: u64,
    /// The weights it holds, as a chain of hashes.
    pub weights: Hash,
    pub merging: Option<u64>,
    pub writing: Option<Revision>,
    pub wakes_ms: Option<u64>,
    /// What each worker was told last.
    pub told: std::collections::BTreeMap<WorkerId, Plan>,
    /// Merges that fail, once each.
    pub fails: BTreeSet<u64>,
}

impl Owner {
    /// Starts from the log: the weights come from the newest checkpoint and the merges since,
    /// each computed again from its payloads and compared with what the log says.
    pub fn start(
        epoch: u64,
        run: Run,
        clocks: Clocks,
        initial: Hash,
        holds_blob: impl Fn(Hash) -> bool,
    ) -> Result<Self, String> {
        let base_ms = run.last_event_ms();
        let mut weights = run
            .checkpoint()
            .map_or(initial, |checkpoint| checkpoint.weights);
        for merge in run.merges_since_checkpoint() {
            let payloads: Vec<Hash> = merge.updates.iter().map(|update| update.payload).collect();
            if let Some(lost) = payloads.iter().find(|payload| !holds_blob(**payload)) {
                return Err(format!(
                    "payload {lost} is gone; revision {} needs it",
                    merge.revision
                ));
            }
            if merge_of(weights, &payloads) != merge.merge {
                return Err(format!(
                    "revision {} recomputes to another merge",
                    merge.revision
                ));
            }
            weights = step(weights, merge.merge);
            if weights != merge.digest {
                return Err(format!(
                    "revision {} recomputes to another digest",
                    merge.revision
                ));
            }
        }
        let fleet = fleet_after_restart(&run, base_ms);
        Ok(Self {
            epoch,
            run,
            fleet,
            base_ms,
            started_ms: clocks.monotonic_ms,
            weights,
            merging: None,
            writing: None,
            wakes_ms: None,
            told: Default::default(),
            fails: BTreeSet::new(),
        })
    }

    /// Keeps the weights in memory in step with a folded event.
    pub fn follow(&mut self, event: &EventKind, initial: Hash) -> Result<(), String> {
        match event {
            EventKind::Merged { merge, digest, .. } => {
                self.weights = step(self.weights, *merge);
                if self.weights != *digest {
                    return Err("the coordinator's weights differ from its log".into());
                }
            }
            EventKind::RolledBack { .. } => {
                self.merging = None;
                self.weights = self.run.digest().unwrap_or(initial);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether `worker` was heard of lately, holding `base`, and is not drained.
    pub fn saw_ready(&self, worker: WorkerId, base: Revision, clock_ms: u64) -> bool {
        let silence_ms = self.run.settings().silence_ms;
        self.fleet.get(&worker).is_some_and(|sight| {
            sight.revision == Some(base)
                && !sight.draining
                && clock_ms <= sight.last_heard_ms + silence_ms
        })
    }

    /// The coordinator's clock.
    pub fn clock(&self, clocks: Clocks) -> u64 {
        self.base_ms + (clocks.monotonic_ms - self.started_ms)
    }

    /// The world's time at the coordinator's.
    pub fn world_time(&self, clock_ms: u64) -> u64 {
        self.started_ms + clock_ms.saturating_sub(self.base_ms)
    }

    /// What `worker` should be doing.
    pub fn plan(&self, worker: WorkerId, clocks: Clocks) -> Option<Plan> {
        let digest = self.run.digest()?;
        let assignment = self.run.assignment_of(worker).map(|(id, lease)| {
            let left = lease.deadline_ms.saturating_sub(self.clock(clocks));
            (id, lease.base, lease.block_count(), left)
        });
        let verdicts = self.run.verdicts(worker).rev().take(16).cloned().collect();
        Some(Plan {
            order: (self.epoch, self.run.events()),
            revision: self.run.revision(),
            digest,
            assignment,
            verdicts,
        })
    }
}

/// The pretended merge of payloads into weights: depends on all of them and their order.
pub(super) fn merge_of(weights: Hash, payloads: &[Hash]) -> Hash {
    let mut bytes = b"merge".to_vec();
    bytes.extend(weights.0);
    for payload in payloads {
        bytes.extend(payload.0);
    }
    Hash::of(&bytes)
}

/// The pretended weights after a merge.
pub(super) fn step(weights: Hash, merge: Hash) -> Hash {
    Hash::of(&[weights.0, merge.0].concat())
}

/// The payloads of a merge in their order.
pub(super) fn payloads(pending: &PendingMerge) -> Vec<Hash> {
    pending
        .updates
        .iter()
        .map(|update| update.payload)
        .collect()
}
