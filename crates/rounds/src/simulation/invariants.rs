//! The promises of a run, checked against its log alone. This file shares no code with the
//! fold: it keeps its own books, so that a mistake there can't hide itself here.

mod updates;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::TOKENS_PER_BLOCK;
use crate::{
    AssignmentId, BlockRange, Event, EventKind, Hash, Revision, RoundSettings, Run, WorkerId,
};

/// An assignment as the log tells it.
struct Given {
    worker: WorkerId,
    round: u64,
    blocks: Vec<BlockRange>,
    /// Blocks and whether it may be merged, once an update was accepted.
    accepted: Option<(u64, bool, Hash)>,
    tokens: u64,
    /// Whether it waits for its audit.
    held: bool,
    /// Whether it is being audited.
    audited: bool,
    /// Whether it was kept out of all merges.
    dropped: bool,
    returned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RoundIs {
    None,
    Open,
    Closed,
}

/// The books.
pub(super) struct Invariants {
    settings: RoundSettings,
    epoch: u64,
    at_ms: u64,
    revision: Revision,
    round: Option<u64>,
    round_is: RoundIs,
    deadline_ms: u64,
    given: BTreeMap<AssignmentId, Given>,
    given_in_round: HashSet<(u64, WorkerId)>,
    closing: Vec<AssignmentId>,
    merged: HashSet<AssignmentId>,
    /// Blocks merged along the live lineage, by the number of the revision that has them.
    live: BTreeMap<u64, Vec<u64>>,
    live_blocks: HashSet<u64>,
    /// Blocks in leases and in accepted updates that wait.
    held: HashSet<u64>,
    members: BTreeSet<WorkerId>,
    /// Those that named a life of error feedback since the last rollback.
    with_feedback: BTreeSet<WorkerId>,
    /// Tokens counted along the live lineage, by number.
    counted: BTreeMap<u64, u64>,
    /// Digests along the live lineage, by number.
    digests: BTreeMap<u64, Hash>,
    /// Founders, and workers with an accepted update: theirs are merged.
    proven: BTreeSet<WorkerId>,
    credited: BTreeMap<WorkerId, u64>,
    finished: bool,
    pub violation: Option<String>,
    events: u64,
    pub late: u64,
}

impl Invariants {
    pub fn new() -> Self {
        Self {
            settings: RoundSettings::default(),
            epoch: 0,
            at_ms: 0,
            revision: Revision {
                lineage: 0,
                number: 0,
            },
            round: None,
            round_is: RoundIs::None,
            deadline_ms: 0,
            given: BTreeMap::new(),
            given_in_round: HashSet::new(),
            closing: Vec::new(),
            merged: HashSet::new(),
            live: BTreeMap::new(),
            counted: BTreeMap::new(),
            live_blocks: HashSet::new(),
            held: HashSet::new(),
            members: BTreeSet::new(),
            with_feedback: BTreeSet::new(),
            digests: BTreeMap::new(),
            proven: BTreeSet::new(),
            credited: BTreeMap::new(),
            finished: false,
            violation: None,
            events: 0,
            late: 0,
        }
    }

    /// Whether the log holds this update.
    pub fn holds(&self, assignment: AssignmentId, payload: Hash) -> bool {
        let given = self.given.get(&assignment);
        given
            .and_then(|given| given.accepted)
            .is_some_and(|(_, _, held)| held == payload)
    }

    /// Compares a folded state with the books.
    pub fn compare(&self, run: &Run) -> Result<(), String> {
        if let Some(what) = run.inconsistency() {
            return Err(what);
        }
        if run.revision() != self.revision {
            return Err(format!(
                "the state is at {}, the log at {}",
                run.revision(),
                self.revision
            ));
        }
        if run.digest() != self.digests.get(&run.revision().number).copied() {
            return Err(format!("{} has the wrong digest", run.revision()));
        }
        for kept in run.checkpoints() {
            if self.digests.get(&kept.revision.number) != Some(&kept.weights) {
                return Err(format!("checkpoint {} is of other weights", kept.revision));
            }
        }
        let returned = run.returned_blocks().map(|range| range.end - range.start);
        let returned: u64 = returned.sum();
        let (live, held) = (self.live_blocks.len() as u64, self.held.len() as u64);
        if live + held + returned != run.next_fresh_block() {
            return Err(format!(
                "of {} blocks {live} are merged, {held} held and {returned} returned: some are lost",
                run.next_fresh_block()
            ));
        }
        if self.settings.total_tokens > 0 && run.counted_tokens() != self.live_tokens() {
            let (counted, live) = (run.counted_tokens(), self.live_tokens());
            return Err(format!("{counted} tokens counted, {live} are merged"));
        }
        let credited: u64 = self.credited.values().sum();
        if run.totals().tokens != credited {
            return Err(format!(
                "{} tokens in the state, {credited} accepted",
                run.totals().tokens
            ));
        }
        for (worker, member) in run.members() {
            let tokens = self.credited.get(&worker).copied().unwrap_or(0);
            if member.credited_tokens != tokens {
                return Err(format!("worker {worker} is credited with the wrong tokens"));
            }
        }
        Ok(())
    }

    /// Enters an event into the books, appended by the owner of `epoch`.
    pub fn observe(&mut self, event: &Event, epoch: u64) {
        self.events += 1;
        if let Err(what) = self.check(event, epoch)
            && self.violation.is_none()
        {
            self.violation = Some(format!("{what}: {event:?}"));
        }
    }

    fn check(&mut self, event: &Event, epoch: u64) -> Result<(), String> {
        ensure(epoch >= self.epoch, || {
            format!("an owner with epoch {epoch} appended after {}", self.epoch)
        })?;
        ensure(event.at_ms >= self.at_ms, || {
            format!("time went back from {}", self.at_ms)
        })?;
        (self.epoch, self.at_ms) = (epoch, event.at_ms);
        ensure(
            !self.finished
                || matches!(
                    event.kind,
                    EventKind::Checkpointed { .. }
                        | EventKind::Audited { .. }
                        | EventKind::AuditOpened { .. }
                        | EventKind::CreditReturned { .. }
                        // A person takes back who was left out, late.
                        | EventKind::Readmitted { .. }
                ),
            || "something was decided after the end".into(),
        )?;
        match &event.kind {
            EventKind::Created { settings } => self.settings = settings.clone(),
            EventKind::WorkerJoined {
                worker, founder, ..
            } => {
                ensure(*founder == self.round.is_none(), || {
                    "founders are those that join before the first round".into()
                })?;
                self.members.insert(*worker);
                self.with_feedback.insert(*worker);
                if *founder {
                    self.proven.insert(*worker);
                }
            }
            EventKind::FeedbackReset { worker, .. } => drop(self.with_feedback.insert(*worker)),
            EventKind::Checkpointed {
                revision, weights, ..
            } => {
                let digest = *self.digests.entry(revision.number).or_insert(*weights);
                ensure(digest == *weights, || {
                    "a checkpoint has another digest than its revision".into()
                })?;
            }
            EventKind::WorkerLeft { worker, .. } => {
                let mut owed = self.given.values().filter(|given| given.worker == *worker);
                ensure(
                    owed.all(|given| given.accepted.is_some() || given.returned),
                    || "a lease outlived its worker's leaving".into(),
                )?;
                self.members.remove(worker);
            }
            EventKind::RoundOpened {
                round,
                base,
                deadline_ms,
            } => {
                ensure(self.round_is == RoundIs::None, || {
                    "a round opened inside another".into()
                })?;
                let expected = self.round.map_or(0, |round| round + 1);
                ensure(*round == expected, || {
                    format!("round {expected} comes next")
                })?;
                ensure(*base == self.revision, || {
                    format!("the newest is {}", self.revision)
                })?;
                self.round = Some(*round);
                self.round_is = RoundIs::Open;
                let deadline = event.at_ms + self.settings.duration_ms;
                ensure(*deadline_ms == deadline, || {
                    "not the agreed duration".into()
                })?;
                self.deadline_ms = *deadline_ms;
            }
            EventKind::Assigned { .. } => self.check_assigned(&event.kind)?,
            EventKind::UpdateAccepted { .. } => self.check_accepted(&event.kind)?,
            EventKind::Audited { .. } => self.check_audited(&event.kind)?,
            EventKind::UpdateDropped { assignment, reason } => {
                self.check_dropped(*assignment, reason)?;
            }
            EventKind::LeaseReturned { assignment, reason } => {
                ensure(!reason.is_empty(), || {
                    "a lease returned without a reason".into()
                })?;
                let given = self
                    .given
                    .get_mut(assignment)
                    .ok_or("an unknown lease returned")?;
                ensure(given.accepted.is_none() && !given.returned, || {
                    "a lease ended twice".into()
                })?;
                given.returned = true;
                for block in numbers(&given.blocks, u64::MAX) {
                    self.held.remove(&block);
                }
            }
            EventKind::Collecting { grace_ends_ms, .. } => {
                ensure(event.at_ms >= self.deadline_ms, || {
                    "collected before the deadline".into()
                })?;
                let grace_ends = self.deadline_ms + self.settings.grace_ms;
                ensure(*grace_ends_ms == grace_ends, || {
                    "not the agreed grace".into()
                })?;
                self.deadline_ms = *grace_ends_ms;
            }
            EventKind::RoundClosed {
                round,
                updates,
                reason,
            } => {
                self.end_round(*round, reason, event.at_ms)?;
                let quorum = self.settings.quorum as usize;
                ensure(updates.len() >= quorum, || {
                    "a round closed without its quorum".into()
                })?;
                self.closing = updates.clone();
                self.round_is = RoundIs::Closed;
            }
            EventKind::RoundAbandoned { round, reason } => {
                self.end_round(*round, reason, event.at_ms)?;
                self.round_is = RoundIs::None;
            }
            EventKind::Merged {
                round,
                revision,
                factors,
                digest,
                counted_tokens,
                ..
            } => {
                ensure(
                    self.round_is == RoundIs::Closed && Some(*round) == self.round,
                    || "a merge of no closed round".into(),
                )?;
                ensure(factors.len() == self.closing.len(), || {
                    "factors do not fit".into()
                })?;
                self.check_merged(*revision)?;
                self.check_counted(revision.number, *counted_tokens)?;
                self.digests.insert(revision.number, *digest);
                self.round_is = RoundIs::None;
            }
            EventKind::RolledBack {
                to,
                revision,
                by_itself,
                left_out,
                ..
            } => {
                ensure(*by_itself || left_out.is_empty(), || {
                    "a person's rollback left workers out".into()
                })?;
                self.check_rolled_back(*to, *revision)?;
                for worker in left_out {
                    self.members.remove(worker);
                }
            }
            EventKind::Finished { reason } => {
                ensure(!reason.is_empty(), || "finished without a reason".into())?;
                // What still waited is dropped; all leases came back before.
                self.held.clear();
                self.finished = true;
            }
            EventKind::CreditReturned { worker, tokens, .. } => {
                *self.credited.entry(*worker).or_default() += tokens;
            }
            EventKind::Forming
            | EventKind::Readmitted { .. }
            | EventKind::Probed { .. }
            | EventKind::AuditOpened { .. }
            | EventKind::Gathering { .. }
            | EventKind::Paused { .. }
            | EventKind::Resumed
            | EventKind::Stopping { .. }
            | EventKind::Failed { .. } => {}
        }
        Ok(())
    }

    /// A round may end late only if nobody was there to end it: one second of slack, for time
    /// stands still in the log while no coordinator runs.
    fn end_round(&self, round: u64, reason: &str, at_ms: u64) -> Result<(), String> {
        ensure(
            self.round_is == RoundIs::Open && Some(round) == self.round,
            || "a round ended that was not open".into(),
        )?;
        ensure(!reason.is_empty(), || {
            "a round ended without a reason".into()
        })?;
        let latest = self.deadline_ms + 1000;
        ensure(at_ms <= latest, || {
            format!("a round ended {} ms late", at_ms - latest)
        })
    }

    fn check_assigned(&mut self, kind: &EventKind) -> Result<(), String> {
        let EventKind::Assigned {
            assignment,
            worker,
            round,
            base,
            blocks,
            ..
        } = kind
        else {
            return Ok(());
        };
        ensure(
            self.round_is == RoundIs::Open && Some(*round) == self.round,
            || "not the open round".into(),
        )?;
        ensure(*base == self.revision, || {
            "not from the newest revision".into()
        })?;
        ensure(self.members.contains(worker), || "not a member".into())?;
        ensure(self.with_feedback.contains(worker), || {
            "its error feedback ended with the rollback".into()
        })?;
        ensure(self.given_in_round.insert((*round, *worker)), || {
            "a second assignment in one round".into()
        })?;
        let all: Vec<u64> = numbers(blocks, u64::MAX).collect();
        ensure(
            !all.is_empty() && all.len() as u64 <= self.settings.max_blocks,
            || "too few or too many blocks".into(),
        )?;
        let epochs = all
            .iter()
            .map(|block| block / self.settings.blocks_per_epoch);
        let epochs: BTreeSet<u64> = epochs.collect();
        ensure(epochs.len() <= 2, || "crosses two epoch boundaries".into())?;
        for block in all {
            ensure(!self.live_blocks.contains(&block), || {
                format!("block {block} is merged already")
            })?;
            ensure(self.held.insert(block), || {
                format!("block {block} is held by another")
            })?;
        }
        let given = Given {
            worker: *worker,
            round: *round,
            blocks: blocks.clone(),
            accepted: None,
            tokens: 0,
            held: false,
            audited: false,
            dropped: false,
            returned: false,
        };
        let before = self.given.insert(*assignment, given);
        ensure(before.is_none(), || {
            "an assignment's name was used twice".into()
        })
    }

    fn check_merged(&mut self, revision: Revision) -> Result<(), String> {
        let expected = Revision {
            number: self.revision.number + 1,
            ..self.revision
        };
        ensure(revision == expected, || {
            format!("revision {expected} comes next")
        })?;
        let mut blocks = Vec::new();
        for assignment in std::mem::take(&mut self.closing) {
            ensure(self.merged.insert(assignment), || {
                format!("update {assignment} was merged twice")
            })?;
            let given = self
                .given
                .get(&assignment)
                .ok_or("a merged update of no assignment")?;
            let (completed, mergeable, _) =
                given.accepted.ok_or("a merged update was never accepted")?;
            ensure(mergeable && !given.held && !given.dropped, || {
                format!("update {assignment} may not be merged")
            })?;
            for block in numbers(&given.blocks, completed) {
                ensure(self.live_blocks.insert(block), || {
                    format!("block {block} was trained twice in its epoch")
                })?;
                self.held.remove(&block);
                blocks.push(block);
            }
        }
        self.live.insert(revision.number, blocks);
        self.revision = revision;
        Ok(())
    }

    /// In a run of so many tokens a merge counts some of those that its updates have, and no more.
    fn check_counted(&mut self, number: u64, counted: Option<u64>) -> Result<(), String> {
        let of_tokens = self.settings.total_tokens > 0;
        ensure(of_tokens == counted.is_some(), || {
            format!("revision {number} counts {counted:?}")
        })?;
        let merged = self.live.get(&number).map_or(0, Vec::len) as u64 * TOKENS_PER_BLOCK;
        if let Some(counted) = counted {
            ensure((1..=merged).contains(&counted), || {
                format!("revision {number} counts {counted} of {merged} tokens")
            })?;
            self.counted.insert(number, counted);
        }
        Ok(())
    }

    fn check_rolled_back(&mut self, to: Revision, revision: Revision) -> Result<(), String> {
        ensure(self.round_is != RoundIs::Open, || {
            "rolled back inside a round".into()
        })?;
        ensure(
            revision.number == to.number && revision.lineage == self.revision.lineage + 1,
            || "not the next lineage".into(),
        )?;
        ensure(to.number <= self.revision.number, || {
            "rolled forward".into()
        })?;
        for (_, blocks) in self.live.split_off(&(to.number + 1)) {
            for block in blocks {
                self.live_blocks.remove(&block);
            }
        }
        self.digests.split_off(&(to.number + 1));
        self.counted.split_off(&(to.number + 1));
        self.with_feedback.clear();
        // What waited is dropped, and no lease outlives a rollback.
        self.held.clear();
        for given in self.given.values() {
            ensure(given.accepted.is_some() || given.returned, || {
                "a lease outlived a rollback".into()
            })?;
        }
        self.closing.clear();
        self.round_is = RoundIs::None;
        self.revision = revision;
        Ok(())
    }

    /// Tokens that the merges of the live lineage counted.
    fn live_tokens(&self) -> u64 {
        self.counted.values().sum()
    }

    /// What was promised for the end: all that was leased is done or came back.
    pub fn check_end(&self) -> Result<(), String> {
        ensure(self.finished, || "the run did not finish".into())?;
        match self.settings.total_tokens {
            0 => ensure(self.revision.number == self.settings.rounds, || {
                "rounds are missing".into()
            })?,
            tokens => ensure(self.live_tokens() >= tokens, || "tokens are missing".into())?,
        }
        for (id, given) in &self.given {
            ensure(given.accepted.is_some() || given.returned, || {
                format!("lease {id} is still out")
            })?;
        }
        Ok(())
    }
}

fn numbers(blocks: &[BlockRange], count: u64) -> impl Iterator<Item = u64> + '_ {
    let all = blocks.iter().flat_map(|range| range.start..range.end);
    all.take(usize::try_from(count).unwrap_or(usize::MAX))
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
