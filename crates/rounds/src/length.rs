//! How long a run is: a number of outer steps, or a number of tokens, however many steps they
//! take.
//!
//! A fleet is not the same from round to round. Workers that leave, or whose updates count for
//! nothing, make rounds smaller; a run of so many rounds then learns from less than was meant,
//! and a run of so many tokens takes more rounds instead. A token counts as far as its update
//! did: by how far its weight was limited ([`crate::weights`]), and by what its merge found.
//! Reputation is left out: it says how updates weigh against each other, and where all nodes
//! are new it would only make the run longer.

use serde::{Deserialize, Serialize};

use crate::{Audit, Lease, PendingUpdate, Regard, Revision, Run, weight, weights};

/// Parts of an update that are told apart when its tokens are counted: enough that nothing is
/// lost, and so few that what float32 shares lack of the whole is none.
const PARTS: f64 = 10_000.0;

/// The part of a run's schedule that an assignment is trained with: progress of the run at its
/// first step and after its last, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpan {
    /// At the first step.
    pub from: f64,
    /// After the last.
    pub to: f64,
}

/// What the merges of the live lineage counted, up to and with one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// The number of the revision that it made.
    number: u64,
    /// Tokens of all merges so far.
    tokens: u64,
    /// Tokens of the newest merge that counted any.
    newest: u64,
}

impl Run {
    /// Tokens that the merges of the live lineage counted. 0 in a run of so many rounds.
    pub fn counted_tokens(&self) -> u64 {
        self.counted.back().map_or(0, |counted| counted.tokens)
    }

    /// How much of the run is done, 0 to 1.
    pub fn progress(&self) -> f64 {
        match self.settings.total_tokens {
            0 => self.progress_in_rounds(self.revision.number),
            tokens => part(self.counted_tokens(), tokens),
        }
    }

    /// What a lease is trained with.
    pub fn span_of(&self, lease: &Lease) -> ScheduleSpan {
        self.span(lease.base, lease.span)
    }

    /// The same of an audited assignment.
    pub fn span_of_audited(&self, audit: &Audit) -> ScheduleSpan {
        self.span(audit.base, audit.span)
    }

    fn span(&self, base: Revision, stated: Option<ScheduleSpan>) -> ScheduleSpan {
        stated.unwrap_or_else(|| ScheduleSpan {
            from: self.progress_in_rounds(base.number),
            to: self.progress_in_rounds(base.number + 1),
        })
    }

    /// Counted in merges, not in opened rounds: an abandoned round trains nothing.
    fn progress_in_rounds(&self, number: u64) -> f64 {
        part(number, self.settings.rounds)
    }

    /// The span of an assignment that is given now; None in a run of so many rounds, where it
    /// follows from the base. Where a round will end is not known before: as far on as the one
    /// before it came, and the first as far as `rounds` of them would go.
    pub(crate) fn span_now(&self) -> Option<ScheduleSpan> {
        let tokens = match self.settings.total_tokens {
            0 => return None,
            tokens => tokens as f64,
        };
        let newest = self.counted.back().map(|counted| counted.newest as f64);
        let newest = newest.unwrap_or(tokens / self.settings.rounds.max(1) as f64);
        let from = self.progress();
        let to = (from + newest / tokens).min(1.0);
        Some(ScheduleSpan { from, to })
    }

    /// The tokens that a merge counts; None in a run of so many rounds. An update counts none
    /// twice: who is raised for others' absence trained no more than it did.
    pub(crate) fn tokens_counted(
        &self,
        updates: &[PendingUpdate],
        regards: &[Regard],
    ) -> Option<u64> {
        if self.settings.total_tokens == 0 {
            return None;
        }
        let limited = weights(self.settings.weighing, updates);
        let of = |(index, update): (usize, &PendingUpdate)| {
            let counted = regards.get(index).map_or(1.0, |regard| regard.counted);
            let weight = f64::from(weight(update)).max(f64::MIN_POSITIVE);
            let part = f64::from(limited[index]) / weight * f64::from(counted);
            let part = part.clamp(0.0, 1.0);
            let parts = (part * PARTS).round() as u128;
            (u128::from(update.tokens) * parts / PARTS as u128) as u64
        };
        Some(updates.iter().enumerate().map(of).sum())
    }

    pub(crate) fn fold_counted(&mut self, newest: u64) {
        let before = self.counted.back().copied();
        if newest == 0 && before.is_none() {
            return;
        }
        self.counted.push_back(Counted {
            number: self.revision.number,
            tokens: self.counted_tokens().saturating_add(newest),
            newest: match (newest, before) {
                (0, Some(before)) => before.newest,
                _ => newest,
            },
        });
    }

    /// Forgets what no rollback can need.
    pub(crate) fn forget_counted_before(&mut self, oldest: u64) {
        // The newest at or before it says how much was counted there.
        while self
            .counted
            .get(1)
            .is_some_and(|next| next.number <= oldest)
        {
            self.counted.pop_front();
        }
    }

    pub(crate) fn uncount_after(&mut self, number: u64) {
        while self.counted.back().is_some_and(|last| last.number > number) {
            self.counted.pop_back();
        }
    }

    /// Why the run is as long as it should be; None while it is not.
    pub(crate) fn is_long_enough(&self) -> Option<String> {
        let (rounds, tokens) = (self.settings.rounds, self.settings.total_tokens);
        if tokens == 0 {
            let done = self.revision.number >= rounds;
            return done.then(|| format!("all {rounds} rounds are merged"));
        }
        let counted = self.counted_tokens();
        let merges = self.revision.number;
        (counted >= tokens)
            .then(|| format!("{counted} tokens are merged, of {tokens}, in {merges} rounds"))
    }
}

fn part(done: u64, of: u64) -> f64 {
    (done as f64 / of.max(1) as f64).min(1.0)
}
