//! The life of a round: opening, assigning, collecting, closing, abandoning.

use super::Deciding;
use crate::explain::{count, seconds};
use crate::input::is_trusted;
use crate::{AssignmentId, BlockRange, EventKind, Phase, WorkerId};

/// A worker that becomes ready during a round gets work if at least this part of the round's
/// duration is left: a quarter still fills most of an update, less mostly costs transfers.
const WORTHWHILE_PARTS: u64 = 4;

impl Deciding<'_> {
    /// Decides all that time and state allow, until only an input or time can change more.
    pub(super) fn advance(&mut self) {
        if matches!(
            self.run().phase,
            Phase::Forming | Phase::Training | Phase::Collecting | Phase::Finished
        ) {
            self.expire_audits();
        }
        // One turn abandons or closes a round, the next opens one; an opened round always
        // has an outstanding lease, so this ends. The bound only guards against mistakes.
        for _ in 0..8 {
            let events = self.events.len();
            match self.run().phase {
                Phase::Forming => self.form(),
                Phase::Training | Phase::Collecting => self.progress_round(),
                _ => return,
            }
            if self.events.len() == events {
                return;
            }
        }
    }

    fn form(&mut self) {
        let run = self.run();
        let ready = run.ready(self.now_ms, self.fleet);
        let needed = run.settings.min_workers.max(1) as usize;
        if ready.len() < needed {
            return;
        }
        let most = run.settings.max_workers as usize;
        let awaited = run.awaited(self.now_ms, self.fleet);
        let nobody_awaited = run.next_round > 0 && awaited.is_empty();
        // Workers on probation fill no round while a known one still fetches the weights.
        let known = ready
            .iter()
            .filter(|worker| is_trusted(self.fleet, **worker));
        let full = known.count() >= most
            || (ready.len() >= most
                && !awaited.iter().any(|worker| is_trusted(self.fleet, *worker)));
        let over = run.opens_ms.is_some_and(|opens_ms| self.now_ms >= opens_ms);
        if full || nobody_awaited || over || run.settings.forming_ms == 0 {
            self.open_round(ready);
        } else if run.opens_ms.is_none() {
            let opens_ms = self.now_ms + run.settings.forming_ms;
            let reason = format!(
                "{} ready, {needed} needed; others may join for {}",
                count(ready.len(), "worker"),
                seconds(run.settings.forming_ms)
            );
            self.emit(EventKind::Gathering { opens_ms, reason });
        }
    }

    fn open_round(&mut self, mut ready: Vec<WorkerId>) {
        let run = self.run();
        let round = run.next_round;
        let base = run.revision;
        let bound = run.settings.staleness_rounds;
        let deadline_ms = self.now_ms + run.settings.duration_ms;
        let most = run.settings.max_workers.max(1) as usize;
        // Known workers go first, so that no number of fresh identities takes a place of theirs.
        // Among their like whoever waited longest does, so that with more workers than places all
        // of them get their turn.
        ready.sort_by_key(|worker| {
            let last_round = run.members[worker].last_round;
            (!is_trusted(self.fleet, *worker), last_round, *worker)
        });
        ready.truncate(most);
        let stale = run
            .leases
            .iter()
            .filter(|(_, lease)| lease.round + bound < round);
        let stale: Vec<_> = stale.map(|(id, lease)| (*id, lease.round)).collect();
        for (assignment, of) in stale {
            let reason = format!(
                "no update by the opening of round {round}; one of round {of} is accepted up to {bound} rounds late"
            );
            self.emit(EventKind::LeaseReturned { assignment, reason });
        }
        self.emit(EventKind::RoundOpened {
            round,
            base,
            deadline_ms,
        });
        for worker in ready {
            self.assign(worker);
        }
    }

    /// Leases a worker the blocks it can finish until the deadline.
    fn assign(&mut self, worker: WorkerId) {
        let run = self.run();
        let Some(open) = &run.current else {
            return;
        };
        let left_ms = open.deadline_ms.saturating_sub(self.now_ms);
        let speed = self
            .fleet
            .get(&worker)
            .map_or(0.0, |sight| sight.blocks_per_second);
        let count = self.blocks_in(speed, left_ms);
        let pieces = run.blocks.next(count, run.settings.blocks_per_epoch);
        let Some(first) = pieces.first() else {
            return;
        };
        let attempt = first.leased;
        let blocks: Vec<BlockRange> = pieces.iter().map(|piece| piece.range()).collect();
        let (round, base) = (open.round, open.base);
        let assignment = AssignmentId(run.next_assignment);
        self.emit(EventKind::Assigned {
            assignment,
            worker,
            round,
            base,
            blocks: join(blocks),
            attempt,
            span: run.span_now(),
        });
    }

    /// Blocks for `left_ms` at a measured speed: at least one, so that an unmeasured worker
    /// can show its speed.
    fn blocks_in(&self, blocks_per_second: f64, left_ms: u64) -> u64 {
        let settings = &self.run().settings;
        let predicted = blocks_per_second * left_ms as f64 / 1000.0 * f64::from(settings.stretch);
        let blocks = if predicted.is_finite() {
            predicted.ceil() as u64
        } else {
            1
        };
        blocks.clamp(1, settings.max_blocks.max(1))
    }

    fn progress_round(&mut self) {
        let run = self.run();
        let Some(open) = run.current.clone() else {
            return;
        };
        let quorum = run.quorum();
        let waiting = run.mergeable();
        let outstanding: Vec<_> = run.outstanding(open.round).collect();
        let waited_for: Vec<_> = run.waited_for(open.round, self.fleet).collect();
        let silent = waited_for.iter();
        let silent = silent.filter(|worker| run.is_silent(**worker, self.now_ms, self.fleet));
        let silent = silent.count();
        let newcomers = outstanding.len() - waited_for.len();
        let in_numbers = format!("{} in, {quorum} needed", count(waiting, "update"));
        if silent == waited_for.len() && waiting >= quorum {
            self.close_round(&match (silent, newcomers) {
                (0, 0) => format!("all assignments of the round are settled; {in_numbers}"),
                (_, 0) => format!("only workers not heard of ({silent}) are outstanding; {in_numbers}"),
                _ => format!(
                    "only workers on probation ({newcomers}) or not heard of ({silent}) are outstanding; {in_numbers}"
                ),
            });
            return;
        }
        match open.grace_ends_ms {
            None if self.now_ms < open.deadline_ms => self.assign_newly_ready(),
            None if outstanding.is_empty() => self.abandon(&format!(
                "the deadline passed and nothing is outstanding; {in_numbers}"
            )),
            None => self.emit(EventKind::Collecting {
                round: open.round,
                grace_ends_ms: open.deadline_ms + run.settings.grace_ms,
            }),
            Some(grace_ends_ms) if self.now_ms >= grace_ends_ms => {
                let outstanding = count(outstanding.len(), "update");
                let why = format!("the grace ended with {outstanding} outstanding; {in_numbers}");
                match waiting >= quorum {
                    true => self.close_round(&why),
                    false => self.abandon(&why),
                }
            }
            Some(_) => {}
        }
    }

    fn assign_newly_ready(&mut self) {
        let run = self.run();
        let Some(open) = &run.current else {
            return;
        };
        let left_ms = open.deadline_ms.saturating_sub(self.now_ms);
        if left_ms < run.settings.duration_ms / WORTHWHILE_PARTS {
            return;
        }
        let assigned = run.rounds.back().map_or(0, |summary| summary.assigned);
        let places = run.settings.max_workers.max(1).saturating_sub(assigned) as usize;
        let mut ready = run.ready(self.now_ms, self.fleet);
        ready.sort_by_key(|worker| (!is_trusted(self.fleet, *worker), *worker));
        let ready = ready.into_iter().filter(|worker| {
            let speed = self.fleet.get(worker).map_or(0.0, |s| s.blocks_per_second);
            // One assignment in a round, whatever became of it; and no round that would end
            // before the first block does.
            run.members[worker].last_round != Some(open.round)
                && speed * left_ms as f64 / 1000.0 >= 1.0
        });
        let chosen: Vec<_> = ready.take(places).collect();
        for worker in chosen {
            self.assign(worker);
        }
    }

    /// Closes the round in progress with all that wait, oldest assignment first.
    pub(super) fn close_round(&mut self, reason: &str) {
        let run = self.run();
        let Some(open) = &run.current else {
            return;
        };
        let round = open.round;
        let mergeable = run.waiting.iter().filter(|(_, update)| !update.held);
        let updates = mergeable.map(|(assignment, _)| *assignment).collect();
        self.emit(EventKind::RoundClosed {
            round,
            updates,
            reason: reason.to_owned(),
        });
    }

    fn abandon(&mut self, reason: &str) {
        let Some(open) = &self.run().current else {
            return;
        };
        let round = open.round;
        self.emit(EventKind::RoundAbandoned {
            round,
            reason: reason.to_owned(),
        });
    }
}

/// Neighbouring ranges as one: pieces with different histories are one range on the wire.
fn join(ranges: Vec<BlockRange>) -> Vec<BlockRange> {
    let mut joined: Vec<BlockRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}
