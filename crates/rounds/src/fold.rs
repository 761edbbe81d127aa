//! Folding: each event changes the state in one stated way. Nothing is decided, nothing is
//! refused; an event that does not fit (from a newer program, or a damaged log) changes as
//! little as it can.

mod audits;
use std::collections::BTreeMap;

use crate::blocks::split;
use crate::run::{
    ClosedRound, KEPT_CHECKPOINTS, KEPT_RETIRED, KEPT_ROUNDS, KEPT_VERDICTS, WaitingUpdate,
};
use crate::{
    AssignmentId, Checkpoint, Event, EventKind, Hash, Lease, Lineage, Member, MergeRecord,
    OpenRound, Outcome, Phase, Revision, RoundSummary, Run, Verdict, WorkerId,
};

impl Run {
    /// Applies one event.
    pub fn fold(&mut self, event: &Event) {
        let at_ms = event.at_ms;
        self.events += 1;
        self.last_event_ms = self.last_event_ms.max(at_ms);
        match &event.kind {
            EventKind::Created { settings } => {
                self.settings = settings.clone();
                self.lineages[0].at_ms = at_ms;
                self.enter(Phase::Draft, at_ms, "it was not started yet");
            }
            EventKind::Forming => {
                self.opens_ms = None;
                self.enter(Phase::Forming, at_ms, "it was started");
            }
            EventKind::Gathering { opens_ms, reason } => {
                self.opens_ms = Some(*opens_ms);
                self.phase_reason.clone_from(reason);
            }
            EventKind::WorkerJoined {
                worker,
                node,
                feedback,
                founder,
            } => {
                let member = self
                    .members
                    .entry(*worker)
                    .or_insert_with(|| Member::new(*node).into());
                member.node = *node;
                member.present = true;
                member.proven |= founder;
                member.start_feedback(*feedback);
            }
            EventKind::FeedbackReset { worker, feedback } => {
                if let Some(member) = self.members.get_mut(worker) {
                    member.feedback_reset_ms = Some(at_ms);
                    member.start_feedback(*feedback);
                }
            }
            EventKind::WorkerLeft { worker, .. } => {
                if let Some(member) = self.members.get_mut(worker) {
                    member.present = false;
                }
            }
            EventKind::RoundOpened {
                round,
                base,
                deadline_ms,
            } => self.fold_opened(at_ms, *round, *base, *deadline_ms),
            EventKind::Assigned {
                assignment,
                worker,
                round,
                base,
                blocks,
                attempt,
                span,
            } => {
                let lease = Lease {
                    worker: *worker,
                    round: *round,
                    base: *base,
                    attempt: *attempt,
                    deadline_ms: self.current.as_ref().map_or(at_ms, |r| r.deadline_ms),
                    span: *span,
                    pieces: self.blocks.take(blocks),
                };
                self.leases.insert(*assignment, lease.into());
                self.next_assignment = self.next_assignment.max(assignment.0 + 1);
                if let Some(member) = self.members.get_mut(worker) {
                    member.last_round = Some(*round);
                }
                if let Some(summary) = self.rounds.back_mut() {
                    summary.assigned += 1;
                }
            }
            EventKind::UpdateAccepted {
                assignment,
                blocks_completed,
                payload,
                payload_bytes,
                tokens,
                mergeable,
                commitment,
                audit,
                held,
                trust,
            } => {
                if let (Some(commitment), Some(lease)) =
                    (commitment, self.leases.get(assignment).cloned())
                {
                    let lease = (&*lease, *payload);
                    let done = (*blocks_completed, *tokens);
                    let drawn = audit.map(|draw| (at_ms, draw, *held));
                    self.fold_committed(*assignment, lease, done, commitment, drawn);
                }
                let accepted = (*payload, *payload_bytes, *tokens);
                let merging = (*mergeable, *held, *trust);
                self.fold_accepted(*assignment, *blocks_completed, accepted, merging);
            }
            EventKind::AuditOpened {
                assignment,
                openings,
            } => {
                if let Some(audit) = self.audits.get_mut(assignment) {
                    audit.openings = Some(*openings);
                }
            }
            EventKind::Audited {
                assignment,
                finding,
                merge,
            } => self.fold_audited(*assignment, finding, *merge),
            EventKind::UpdateDropped { assignment, reason } => {
                if !self.is_closing(*assignment) {
                    self.drop_update(*assignment, reason);
                }
            }
            EventKind::LeaseReturned { assignment, reason } => {
                self.fold_returned(*assignment, reason);
            }
            EventKind::Collecting { grace_ends_ms, .. } => {
                if let Some(current) = &mut self.current {
                    current.grace_ends_ms = Some(*grace_ends_ms);
                }
                self.enter(Phase::Collecting, at_ms, "the deadline passed");
            }
            EventKind::RoundClosed {
                round,
                updates,
                reason,
            } => {
                let base = self.current.take().map_or(self.revision, |open| open.base);
                self.closing = Some(ClosedRound {
                    round: *round,
                    base,
                    updates: updates.clone(),
                });
                self.close_summary(at_ms, reason);
                self.enter(Phase::Merging, at_ms, reason);
            }
            EventKind::RoundAbandoned { reason, .. } => {
                self.current = None;
                self.closing = None;
                self.totals.abandoned_rounds += 1;
                self.close_summary(at_ms, reason);
                self.opens_ms = Some(at_ms + self.settings.forming_ms);
                self.enter(Phase::Forming, at_ms, reason);
            }
            EventKind::Merged { .. } => self.fold_merged(at_ms, &event.kind),
            EventKind::Checkpointed {
                revision,
                weights,
                outer_state,
            } => self.fold_checkpointed(Checkpoint {
                revision: *revision,
                weights: *weights,
                outer_state: *outer_state,
            }),
            EventKind::Paused { reason } => {
                self.current = None;
                self.enter(Phase::Paused, at_ms, reason);
            }
            EventKind::Resumed => {
                // Nobody was asked for anything meanwhile.
                for audit in self.audits.values_mut() {
                    audit.accepted_ms = audit.accepted_ms.max(at_ms);
                }
                self.opens_ms = None;
                let phase = match self.closing {
                    Some(_) => Phase::Merging,
                    None => Phase::Forming,
                };
                self.enter(phase, at_ms, "it was resumed");
            }
            EventKind::RolledBack {
                to,
                revision,
                reason,
                by_itself,
                left_out,
            } => {
                self.fold_rolled_back(at_ms, *to, *revision, (reason, *by_itself));
                self.leave_out(left_out, reason);
            }
            EventKind::Probed { hurt, .. } => self.fold_probed(hurt),
            EventKind::Readmitted { worker } => {
                if let Some(member) = self.members.get_mut(worker) {
                    member.left_out = None;
                }
            }
            EventKind::CreditReturned { worker, tokens, .. } => {
                if let Some(member) = self.members.get_mut(worker) {
                    member.credited_tokens = member.credited_tokens.saturating_add(*tokens);
                    self.totals.tokens = self.totals.tokens.saturating_add(*tokens);
                }
            }
            EventKind::Stopping { reason } => self.stopping = Some(reason.clone()),
            EventKind::Finished { reason } => {
                self.drop_waiting(&format!("the run finished: {reason}"));
                self.current = None;
                self.closing = None;
                self.enter(Phase::Finished, at_ms, reason);
            }
            EventKind::Failed { reason } => self.enter(Phase::Failed, at_ms, reason),
        }
    }

    fn enter(&mut self, phase: Phase, at_ms: u64, reason: &str) {
        self.phase = phase;
        self.phase_since_ms = at_ms;
        self.phase_reason = reason.to_owned();
    }

    fn fold_opened(&mut self, at_ms: u64, round: u64, base: Revision, deadline_ms: u64) {
        self.next_round = round + 1;
        self.opens_ms = None;
        self.current = Some(OpenRound {
            round,
            base,
            opened_ms: at_ms,
            deadline_ms,
            grace_ends_ms: None,
        });
        if self.rounds.len() >= KEPT_ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(
            RoundSummary {
                round,
                base,
                opened_ms: at_ms,
                closed_ms: None,
                merged_ms: None,
                assigned: 0,
                accepted: 0,
                late: 0,
                merged: 0,
                tokens: 0,
                upload_bytes: 0,
                merge_bytes: 0,
                revision: None,
                reason: String::new(),
            }
            .into(),
        );
        self.enter(Phase::Training, at_ms, "the round opened");
    }

    fn close_summary(&mut self, at_ms: u64, reason: &str) {
        if let Some(summary) = self.rounds.back_mut() {
            summary.closed_ms = Some(at_ms);
            summary.reason = reason.to_owned();
        }
    }

    fn fold_accepted(
        &mut self,
        assignment: AssignmentId,
        blocks_completed: u64,
        (payload, payload_bytes, tokens): (Hash, u64, u64),
        (mergeable, held, trust): (bool, bool, f32),
    ) {
        let Some(lease) = self.leases.remove(&assignment) else {
            return;
        };
        let lease = lease.into_inner();
        let (done, rest) = split(lease.pieces, blocks_completed);
        self.blocks.give_back(&rest);
        self.totals.tokens += tokens;
        self.totals.updates += 1;
        self.totals.upload_bytes += payload_bytes;
        if let Some(summary) = self.rounds.back_mut() {
            summary.accepted += 1;
            summary.late += u32::from(summary.round != lease.round);
        }
        let outcome = if mergeable {
            let update = WaitingUpdate {
                worker: lease.worker,
                round: lease.round,
                base: lease.base,
                payload,
                payload_bytes,
                tokens,
                pieces: done,
                held,
                newcomer: held,
                trust,
            };
            self.waiting.insert(assignment, update.into());
            Outcome::Waiting
        } else {
            // Credited, but trained into nothing: another worker trains these blocks.
            self.blocks.give_back(&done);
            Outcome::NotMerged {
                reason: "a joiner's first update is checked and credited, not merged".into(),
            }
        };
        if let Some(member) = self.members.get_mut(&lease.worker) {
            member.credited_tokens += tokens;
            member.accepted += 1;
            member.proven = true;
            member.remember((assignment, lease.round), Some(payload), outcome);
        }
    }

    fn fold_returned(&mut self, assignment: AssignmentId, reason: &str) {
        let Some(lease) = self.leases.remove(&assignment) else {
            return;
        };
        self.blocks.give_back(&lease.pieces);
        if let Some(member) = self.members.get_mut(&lease.worker) {
            member.returned += 1;
            let reason = reason.to_owned();
            let of = (assignment, lease.round);
            member.remember(of, None, Outcome::NotMerged { reason });
        }
    }

    fn fold_merged(&mut self, at_ms: u64, merged: &EventKind) {
        let EventKind::Merged {
            round,
            revision,
            merge,
            merge_bytes,
            digest,
            factors,
            regards,
            counted_tokens,
        } = merged
        else {
            return;
        };
        let Some(closing) = self.closing.take() else {
            return;
        };
        let (mut updates, mut pieces) = (Vec::new(), Vec::new());
        for (index, assignment) in closing.updates.iter().enumerate() {
            let Some(update) = self.waiting.remove(assignment) else {
                continue;
            };
            updates.push(self.pending_update(*assignment, &update));
            let outcome = Outcome::Merged {
                revision: *revision,
                factor: factors.get(index).copied().unwrap_or(1.0),
                regard: regards.get(index).copied(),
            };
            self.settle(update.worker, *assignment, outcome);
            pieces.extend(update.into_inner().pieces);
        }
        // Only now: an update is weighed with what was known before its round. Each record
        // starts from there, so that of two updates of one worker neither follows the other;
        // the lower is kept, or a good one would wash the bad one away.
        let mut records: BTreeMap<WorkerId, f32> = BTreeMap::new();
        for (update, regard) in updates.iter().zip(regards) {
            if let Some(found) = regard.record {
                let lowest = records.entry(update.worker).or_insert(found);
                *lowest = lowest.min(found);
            }
        }
        for (worker, record) in records {
            if let Some(member) = self.members.get_mut(&worker) {
                member.record = Some(record);
            }
        }
        let mut summaries = self.rounds.iter_mut().rev();
        if let Some(summary) = summaries.find(|summary| summary.round == *round) {
            summary.merged_ms = Some(at_ms);
            summary.merged = updates.len() as u32;
            summary.tokens = updates.iter().map(|update| update.tokens).sum();
            summary.upload_bytes = updates.iter().map(|update| update.payload_bytes).sum();
            summary.merge_bytes = *merge_bytes;
            summary.revision = Some(*revision);
            self.totals.download_bytes += merge_bytes * u64::from(summary.assigned);
        }
        self.totals.merged_updates += updates.len() as u64;
        self.totals.merged_rounds += 1;
        self.revision = *revision;
        self.digest = Some(*digest);
        if let Some(tokens) = counted_tokens {
            self.fold_counted(*tokens);
        }
        self.merges.push_back(
            MergeRecord {
                round: *round,
                revision: *revision,
                merge: *merge,
                merge_bytes: *merge_bytes,
                digest: *digest,
                updates,
                factors: factors.clone(),
                pieces,
            }
            .into(),
        );
        if self.phase == Phase::Merging {
            self.opens_ms = Some(at_ms + self.settings.forming_ms);
            let reason = format!("round {round} was merged into revision {revision}");
            self.enter(Phase::Forming, at_ms, &reason);
        }
    }

    fn fold_checkpointed(&mut self, checkpoint: Checkpoint) {
        if checkpoint.revision == self.revision {
            self.digest = Some(checkpoint.weights);
        }
        self.checkpoints.push(checkpoint);
        let surplus = self.checkpoints.len().saturating_sub(KEPT_CHECKPOINTS);
        self.checkpoints.drain(..surplus);
        let oldest = self.checkpoints[0].revision.number;
        self.forget_counted_before(oldest);
        while let Some(merge) = self.merges.front()
            && merge.revision.number <= oldest
        {
            self.merges.pop_front();
        }
        for merge in &mut self.merges {
            if merge.revision.number <= checkpoint.revision.number && !merge.updates.is_empty() {
                merge.updates = Vec::new();
                merge.factors = Vec::new();
            }
        }
    }

    fn leave_out(&mut self, workers: &[WorkerId], reason: &str) {
        for worker in workers {
            if let Some(member) = self.members.get_mut(worker) {
                member.present = false;
                member.left_out = Some(reason.to_owned());
            }
        }
    }

    fn fold_rolled_back(
        &mut self,
        at_ms: u64,
        to: Revision,
        revision: Revision,
        (reason, by_itself): (&str, bool),
    ) {
        self.drop_waiting(&format!("the run was rolled back to {to}: {reason}"));
        self.audits.clear();
        while let Some(merge) = self.merges.back()
            && merge.revision.number > to.number
        {
            self.blocks.give_back(&merge.pieces);
            self.merges.pop_back();
        }
        self.uncount_after(to.number);
        self.checkpoints
            .retain(|kept| kept.revision.number <= to.number);
        if let Some(kept) = self.checkpoints.last_mut() {
            kept.revision = revision;
            self.digest = Some(kept.weights);
        }
        self.lineages.push(Lineage {
            start: revision,
            parent: Some(to),
            at_ms,
            reason: reason.to_owned(),
            by_itself,
        });
        self.revision = revision;
        self.current = None;
        self.closing = None;
        self.opens_ms = None;
        self.stopping = None;
        for member in self.members.values_mut() {
            member.retire_feedback();
        }
        if self.phase != Phase::Paused {
            let reason = format!("it was rolled back to {to}: {reason}");
            self.enter(Phase::Forming, at_ms, &reason);
        }
    }

    /// Waiting updates will be in no merge; their blocks go back.
    fn drop_waiting(&mut self, reason: &str) {
        for (assignment, update) in std::mem::take(&mut self.waiting) {
            self.blocks.give_back(&update.pieces);
            let reason = reason.to_owned();
            self.settle(update.worker, assignment, Outcome::NotMerged { reason });
        }
    }

    /// A waiting update will be in no merge; its blocks go back.
    fn drop_update(&mut self, assignment: AssignmentId, reason: &str) {
        let Some(update) = self.waiting.remove(&assignment) else {
            return;
        };
        self.blocks.give_back(&update.pieces);
        let reason = reason.to_owned();
        self.settle(update.worker, assignment, Outcome::NotMerged { reason });
    }

    /// A worker's verdict on an update of its own, if that is remembered.
    pub(crate) fn verdict_mut(
        &mut self,
        worker: WorkerId,
        assignment: AssignmentId,
    ) -> Option<&mut Verdict> {
        let mut newest_first = self.members.get_mut(&worker)?.verdicts.iter_mut().rev();
        newest_first.find(|verdict| verdict.assignment == assignment)
    }

    fn settle(&mut self, worker: WorkerId, assignment: AssignmentId, outcome: Outcome) {
        let whole = matches!(outcome, Outcome::Merged { factor, .. } if factor >= 1.0);
        if let Some(verdict) = self.verdict_mut(worker, assignment) {
            verdict.outcome = outcome;
        }
        if whole && let Some(member) = self.members.get_mut(&worker) {
            member.untaken.remove(&assignment);
        }
    }
}

impl Member {
    fn new(node: crate::NodeId) -> Self {
        Self {
            node,
            feedback: None,
            retired_feedback: Default::default(),
            feedback_reset_ms: None,
            present: true,
            proven: false,
            last_round: None,
            credited_tokens: 0,
            accepted: 0,
            returned: 0,
            record: None,
            committed: None,
            untaken: Default::default(),
            left_out: None,
            verdicts: std::collections::VecDeque::new(),
        }
    }

    fn start_feedback(&mut self, feedback: crate::FeedbackId) {
        if self.feedback != Some(feedback) {
            self.retire_feedback();
            self.feedback = Some(feedback);
        }
    }

    fn retire_feedback(&mut self) {
        self.committed = None;
        self.untaken.clear();
        self.retired_feedback.extend(self.feedback.take());
        while self.retired_feedback.len() > KEPT_RETIRED {
            self.retired_feedback.pop_front();
        }
    }

    fn remember(
        &mut self,
        (assignment, round): (AssignmentId, u64),
        payload: Option<Hash>,
        outcome: Outcome,
    ) {
        self.verdicts.push_back(Verdict {
            assignment,
            round: Some(round),
            payload,
            outcome,
            alone: None,
        });
        while self.verdicts.len() > KEPT_VERDICTS {
            let settled = |verdict: &Verdict| verdict.outcome != Outcome::Waiting;
            match self.verdicts.iter().position(settled) {
                Some(index) => drop(self.verdicts.remove(index)),
                None => break,
            }
        }
    }
}
