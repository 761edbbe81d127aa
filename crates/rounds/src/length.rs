//! How long a run is: a number of outer steps, or a number of tokens, however many steps they
//! take.
//!
//! A fleet is not the same from round to round. Workers that leave, or whose updates count for
//! nothing, make rounds smaller; a run of so many rounds then learns from less than was meant,
//! and a run of so many tokens takes more rounds instead. A token counts as far as its
//! update did: one that was weighed with a quarter of its weight trained a quarter of its tokens.

use serde::{Deserialize, Serialize};

use crate::{Audit, Lease, PendingUpdate, Regard, Revision, Run};

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

/// Progress of a run at the first and after the last step of an assignment, 0 to 1.
pub type Span = (f64, f64);

impl Run {
    /// Tokens that the merges of the live lineage counted. 0 in a run of so many rounds.
    pub fn counted_tokens(&self) -> u64 {
        self.counted.back().map_or(0, |counted| counted.tokens)
    }

    /// How much of the run is done, 0 to 1.
    pub fn progress(&self) -> f64 {
        match self.settings.tokens {
            0 => self.progress_in_rounds(self.revision.number),
            tokens => part(self.counted_tokens(), tokens),
        }
    }

    /// The progress that a lease is trained with.
    pub fn span_of(&self, lease: &Lease) -> Span {
        self.span(lease.base, lease.span)
    }

    /// The same of an audited assignment.
    pub fn span_of_audited(&self, audit: &Audit) -> Span {
        self.span(audit.base, audit.span)
    }

    fn span(&self, base: Revision, stated: Option<Span>) -> Span {
        let in_rounds = |number| self.progress_in_rounds(number);
        stated.unwrap_or_else(|| (in_rounds(base.number), in_rounds(base.number + 1)))
    }

    /// Counted in merges, not in opened rounds: an abandoned round trains nothing.
    fn progress_in_rounds(&self, number: u64) -> f64 {
        part(number, self.settings.rounds)
    }

    /// The span of an assignment that is given now; None in a run of so many rounds, where it
    /// follows from the base. Where a round will end is not known before: as far on as the one
    /// before it came, and the first as far as `rounds` of them would go.
    pub(crate) fn span_now(&self) -> Option<Span> {
        let tokens = match self.settings.tokens {
            0 => return None,
            tokens => tokens as f64,
        };
        let newest = self.counted.back().map(|counted| counted.newest as f64);
        let newest = newest.unwrap_or(tokens / self.settings.rounds.max(1) as f64);
        let from = self.progress();
        Some((from, (from + newest / tokens).min(1.0)))
    }

    pub(crate) fn fold_counted(&mut self, updates: &[PendingUpdate], regards: &[Regard]) {
        if self.settings.tokens == 0 {
            return;
        }
        let counted = updates.iter().enumerate().map(|(index, update)| {
            let part = regards.get(index).map_or(1.0, |regard| regard.counted);
            // Whom the others' absence raises trained no more than it did.
            (update.tokens as f64 * f64::from(part.clamp(0.0, 1.0))) as u64
        });
        let newest: u64 = counted.sum();
        let before = self.counted.back().copied();
        if newest == 0 && before.is_none() {
            return;
        }
        self.counted.push_back(Counted {
            number: self.revision.number,
            tokens: self.counted_tokens() + newest,
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
        let (rounds, tokens) = (self.settings.rounds, self.settings.tokens);
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
