//! What the coordinator reads from a run: its standing, its people, and the work that the
//! state asks for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::event::{is_whole, whole};
use crate::run::WaitingUpdate;
use crate::{
    AssignmentId, Audit, BlockRange, Checkpoint, Compared, Hash, Lease, Lineage, Member,
    MergeRecord, OpenRound, Outcome, Phase, Revision, RoundSettings, RoundSummary, Run, Totals,
    Verdict, WorkerId,
};

/// A merge that someone must compute now; answered with [`crate::Input::MergeDone`].
#[derive(Clone, Debug, PartialEq)]
pub struct PendingMerge {
    /// The round it closes.
    pub round: u64,
    /// The weights it is subtracted from.
    pub base: Revision,
    /// What goes in, in the order of aggregation.
    pub updates: Vec<PendingUpdate>,
}

/// An update that goes into a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingUpdate {
    /// Its name.
    pub assignment: AssignmentId,
    /// Who sent it.
    pub worker: WorkerId,
    /// From which machine; older states don't know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The round it was assigned in; earlier than the merge's if it is late.
    pub round: u64,
    /// The weights it started from.
    pub base: Revision,
    /// Its blob.
    pub payload: Hash,
    /// Its size.
    pub payload_bytes: u64,
    /// Tokens trained.
    pub tokens: u64,
    /// Blocks trained; in one run all blocks hold the same number of inner steps.
    pub blocks: u64,
    /// How well its worker's earlier updates agreed with those of most others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<f32>,
    /// Whether its worker was on probation when it was accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newcomer: bool,
    /// Part of its weight that its node's reputation lets it have.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub trust: f32,
}

impl Run {
    pub(crate) fn pending_update(
        &self,
        assignment: AssignmentId,
        update: &WaitingUpdate,
    ) -> PendingUpdate {
        let member = self.members.get(&update.worker);
        PendingUpdate {
            assignment,
            worker: update.worker,
            node: member.map(|member| member.node),
            round: update.round,
            base: update.base,
            payload: update.payload,
            payload_bytes: update.payload_bytes,
            tokens: update.tokens,
            blocks: update.pieces.iter().map(crate::blocks::Piece::len).sum(),
            record: member.and_then(|member| member.record),
            newcomer: update.newcomer,
            trust: update.trust,
        }
    }
}

impl Run {
    /// Where the run is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its rules.
    pub fn settings(&self) -> &RoundSettings {
        &self.settings
    }

    /// How many events were folded; the sequence number of the next one.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// When the newest event was decided: what a restarted coordinator's clock goes on from.
    pub fn last_event_ms(&self) -> u64 {
        self.last_event_ms
    }

    /// The newest weights.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Their digest; None until the first weights are checkpointed.
    pub fn digest(&self) -> Option<Hash> {
        self.digest
    }

    /// The round in progress or waiting for its merge, else the one that opens next.
    pub fn round(&self) -> u64 {
        let current = self.current.as_ref().map(|round| round.round);
        let closing = self.closing.as_ref().map(|round| round.round);
        current.or(closing).unwrap_or(self.next_round)
    }

    /// The round in Training or Collecting.
    pub fn open_round(&self) -> Option<&OpenRound> {
        self.current.as_ref()
    }

    /// When the present round's training, or in Collecting its grace, ends.
    pub fn deadline_ms(&self) -> Option<u64> {
        let round = self.current.as_ref()?;
        Some(round.grace_ends_ms.unwrap_or(round.deadline_ms))
    }

    /// What `worker` should be training now: its newest outstanding assignment.
    pub fn assignment_of(&self, worker: WorkerId) -> Option<(AssignmentId, &Lease)> {
        let mut leases = self.leases.iter().rev();
        let (id, lease) = leases.find(|(_, lease)| lease.worker == worker)?;
        Some((*id, lease))
    }

    /// All leases without an accepted update.
    pub fn leases(&self) -> impl Iterator<Item = (AssignmentId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, &**lease))
    }

    /// The lease of `assignment`, if no update was accepted for it and it was not returned.
    pub fn lease(&self, assignment: AssignmentId) -> Option<&Lease> {
        self.leases.get(&assignment).map(|lease| &**lease)
    }

    /// Every worker that ever took part.
    pub fn members(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, &**member))
    }

    /// One worker.
    pub fn member(&self, worker: WorkerId) -> Option<&Member> {
        self.members.get(&worker).map(|member| &**member)
    }

    /// What became of a worker's latest assignments, oldest first.
    pub fn verdicts(&self, worker: WorkerId) -> impl DoubleEndedIterator<Item = &Verdict> {
        self.members
            .get(&worker)
            .into_iter()
            .flat_map(|member| &member.verdicts)
    }

    /// What became of an assignment; None while its update is still outstanding, and once it
    /// is too old to be remembered.
    pub fn verdict(&self, assignment: AssignmentId) -> Option<(WorkerId, &Verdict)> {
        self.members.iter().find_map(|(worker, member)| {
            let verdict = member.verdict(assignment)?;
            Some((*worker, verdict))
        })
    }

    /// By how many rounds an assignment that was given back is behind, and how many would have
    /// done; None if it was not given back for being late.
    pub fn lateness(&self, verdict: &Verdict) -> Option<Compared> {
        let measured = self.round().saturating_sub(verdict.round?);
        let allowed = self.settings.staleness_rounds;
        let late = verdict.payload.is_none() && measured > allowed;
        late.then_some(Compared { measured, allowed })
    }

    /// The assignment whose accepted update is this payload, as far back as verdicts are kept.
    /// Payloads are named by their hash, and the names are known to others than their senders:
    /// who names another's has not trained.
    pub fn assignment_of_payload(&self, payload: Hash) -> Option<AssignmentId> {
        let verdicts = self.members.values().flat_map(|member| &member.verdicts);
        let same = |verdict: &&Verdict| verdict.payload == Some(payload);
        verdicts.rev().find(same).map(|verdict| verdict.assignment)
    }

    /// Rounds, oldest first: the last 200, the open one included.
    pub fn rounds(&self) -> impl DoubleEndedIterator<Item = &RoundSummary> {
        self.rounds.iter().map(|round| &**round)
    }

    /// Sums over the whole run.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The lines of descent, oldest first.
    pub fn lineages(&self) -> &[Lineage] {
        &self.lineages
    }

    /// Checkpoints that are kept and can be rolled back to, oldest first.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// The newest checkpoint, from which nodes and the coordinator itself start.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoints.last()
    }

    /// The newest kept checkpoint that is not after revision `number`.
    pub fn checkpoint_up_to(&self, number: u64) -> Option<&Checkpoint> {
        let kept = self.checkpoints.iter().rev();
        kept.into_iter().find(|kept| kept.revision.number <= number)
    }

    /// Merges that are kept, oldest first: those since the oldest kept checkpoint.
    pub fn merges(&self) -> impl DoubleEndedIterator<Item = &MergeRecord> {
        self.merges.iter().map(|merge| &**merge)
    }

    /// The merges since the newest checkpoint, with their updates: what a restarted
    /// coordinator recomputes to recover weights, momentum and feedback.
    pub fn merges_since_checkpoint(&self) -> impl Iterator<Item = &MergeRecord> {
        let number = self
            .checkpoint()
            .map_or(0, |checkpoint| checkpoint.revision.number);
        self.merges()
            .filter(move |merge| merge.revision.number > number)
    }

    /// Whether `revision` names weights on the way to the newest ones.
    pub fn is_live(&self, revision: Revision) -> bool {
        let Some(own) = self
            .lineages
            .iter()
            .find(|l| l.start.lineage == revision.lineage)
        else {
            return false;
        };
        // Each later lineage left this one's line at its start, or even before.
        let later = self
            .lineages
            .iter()
            .filter(|l| l.start.lineage > revision.lineage);
        let left = later
            .map(|l| l.start.number)
            .fold(self.revision.number, u64::min);
        (own.start.number..=left).contains(&revision.number)
    }

    /// The merges that lead from `after` to the newest revision, if all are still kept.
    pub fn merges_after(&self, after: Revision) -> Option<Vec<&MergeRecord>> {
        if !self.is_live(after) {
            return None;
        }
        let merges = self
            .merges()
            .filter(|merge| merge.revision.number > after.number);
        let merges: Vec<_> = merges.collect();
        (merges.len() as u64 == self.revision.number - after.number).then_some(merges)
    }

    /// The merge that the phase waits for.
    pub fn pending_merge(&self) -> Option<PendingMerge> {
        if matches!(self.phase, Phase::Failed | Phase::Finished) {
            return None;
        }
        let closing = self.closing.as_ref()?;
        let updates = closing.updates.iter().filter_map(|id| {
            let update = self.waiting.get(id)?;
            Some(self.pending_update(*id, update))
        });
        Some(PendingMerge {
            round: closing.round,
            base: closing.base,
            updates: updates.collect(),
        })
    }

    /// The revision that should be written as a base checkpoint now: the first weights, one
    /// at least `every` merges after the newest checkpoint (0: none), and the last. Always
    /// the newest revision, for only its weights are at hand.
    pub fn pending_checkpoint(&self, every: u64) -> Option<Revision> {
        let Some(newest) = self.checkpoint() else {
            return Some(self.revision);
        };
        let behind = self.revision.number - newest.revision.number;
        let due = every > 0 && behind >= every;
        let last = self.phase == Phase::Finished && behind > 0;
        (due || last).then_some(self.revision)
    }

    /// Payload blobs that are still needed: of updates that wait, and of merges that a
    /// restarted coordinator would recompute. Payloads of outstanding assignments that are
    /// on their way are not known here; give an upload its own minimum age.
    pub fn payloads_needed(&self) -> BTreeSet<Hash> {
        let waiting = self.waiting.values().map(|update| update.payload);
        let merged = self.merges.iter().flat_map(|merge| &merge.updates);
        let mut needed: BTreeSet<Hash> =
            waiting.chain(merged.map(|update| update.payload)).collect();
        for audit in self.audits.values() {
            needed.insert(audit.payload);
            needed.extend(audit.openings);
            if let Some(before) = &audit.before {
                needed.insert(before.payload);
                needed.extend(before.taken_back.iter().map(|(payload, _)| *payload));
            }
        }
        // Of these the next audit may be made.
        let over = self.phase == Phase::Finished;
        for member in self.members.values().filter(|_| !over) {
            needed.extend(member.committed.iter().map(|last| last.payload));
            needed.extend(member.untaken.values());
        }
        needed
    }

    /// All blobs that the run still needs: payloads, merges and checkpoints.
    pub fn blobs_needed(&self) -> BTreeSet<Hash> {
        let mut needed = self.payloads_needed();
        needed.extend(self.merges.iter().map(|merge| merge.merge));
        for checkpoint in &self.checkpoints {
            needed.extend([checkpoint.weights, checkpoint.outer_state]);
        }
        needed
    }

    /// A worker's accepted updates that wait, and that no merge under way takes.
    pub fn waiting_of(&self, worker: WorkerId) -> impl Iterator<Item = AssignmentId> + '_ {
        let waiting = self.waiting.iter();
        let waiting =
            waiting.filter(move |(id, update)| update.worker == worker && !self.is_closing(**id));
        waiting.map(|(id, _)| *id)
    }

    /// Updates that are being audited: a worker opens drawn chunks, someone trains again.
    pub fn audits(&self) -> impl Iterator<Item = (AssignmentId, &Audit)> {
        self.audits.iter().map(|(id, audit)| (*id, &**audit))
    }

    /// One of them.
    pub fn audit(&self, assignment: AssignmentId) -> Option<&Audit> {
        self.audits.get(&assignment).map(|audit| &**audit)
    }

    /// Audits that someone must make now, by turns one whose update waits for it and one whose
    /// does not, oldest first; answered with [`crate::Input::Audited`]. Newcomers, however many
    /// they are, can't keep the updates of those who are known from being audited.
    pub fn pending_audits(&self) -> Vec<(AssignmentId, Audit)> {
        // What follows from an update is audited after it: the first of each worker.
        let mut workers = BTreeSet::new();
        let first = self
            .audits()
            .filter(|(_, audit)| workers.insert(audit.worker));
        let opened = first.filter(|(_, audit)| audit.openings.is_some());
        let mut taken = [0; 2];
        let mut pending: Vec<_> = opened
            .map(|(id, audit)| {
                let turn = &mut taken[usize::from(audit.held)];
                *turn += 1;
                ((*turn, !audit.held), id, audit.clone())
            })
            .collect();
        pending.sort_by_key(|(turn, ..)| *turn);
        let pending = pending.into_iter();
        pending.map(|(_, id, audit)| (id, audit)).collect()
    }

    /// Accepted updates that wait for a merge.
    pub fn waiting_updates(&self) -> impl Iterator<Item = PendingUpdate> + '_ {
        self.waiting
            .iter()
            .map(|(id, update)| self.pending_update(*id, update))
    }

    /// Blocks that came back and will be given out before fresh ones.
    pub fn returned_blocks(&self) -> impl Iterator<Item = BlockRange> + '_ {
        self.blocks.returned().map(|piece| piece.range())
    }

    /// The first block that was never leased; the epoch in progress is this over the blocks
    /// per epoch.
    pub fn next_fresh_block(&self) -> u64 {
        self.blocks.frontier()
    }

    /// What contradicts itself in this state, if anything; a check for tests and for a
    /// coordinator that read a snapshot.
    pub fn inconsistency(&self) -> Option<String> {
        let mut held: Vec<(u64, u64, &str)> = Vec::new();
        for piece in self.blocks.returned() {
            held.push((piece.start, piece.end, "returned"));
        }
        for lease in self.leases.values() {
            held.extend(lease.pieces.iter().map(|p| (p.start, p.end, "leased")));
        }
        for update in self.waiting.values() {
            held.extend(update.pieces.iter().map(|p| (p.start, p.end, "waiting")));
        }
        for merge in &self.merges {
            held.extend(merge.pieces.iter().map(|p| (p.start, p.end, "merged")));
        }
        held.sort_unstable();
        for pair in held.windows(2) {
            if pair[0].1 > pair[1].0 {
                return Some(format!(
                    "blocks are held twice: {:?} and {:?}",
                    pair[0], pair[1]
                ));
            }
        }
        if let Some(&(_, end, what)) = held.last()
            && end > self.blocks.frontier()
        {
            return Some(format!("{what} blocks end at {end}, past the frontier"));
        }
        let credited: u64 = self
            .members
            .values()
            .map(|member| member.credited_tokens)
            .sum();
        if credited != self.totals.tokens {
            return Some(format!(
                "{credited} tokens credited, {} accepted",
                self.totals.tokens
            ));
        }
        for (id, update) in &self.waiting {
            let member = self.members.get(&update.worker);
            let verdict = member.and_then(|member| member.verdict(*id));
            if !verdict.is_some_and(|verdict| verdict.outcome == Outcome::Waiting) {
                return Some(format!(
                    "update {id} waits but its worker is told otherwise"
                ));
            }
        }
        None
    }
}

impl Member {
    /// What became of this worker's assignment.
    pub fn verdict(&self, assignment: AssignmentId) -> Option<&Verdict> {
        self.verdicts
            .iter()
            .rev()
            .find(|v| v.assignment == assignment)
    }
}
