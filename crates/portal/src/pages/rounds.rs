//! The table of rounds.

use askama::Template;
use opengpu_protocol::wire::{RoundView, RunView};

use crate::humanize;

/// Rounds, newest first.
#[derive(Template)]
#[template(path = "run/rounds.html")]
pub struct Rounds {
    /// The run's number.
    pub run: u64,
    /// The rows.
    pub rows: Vec<RoundRow>,
    /// How many rounds there are to show.
    pub total: usize,
    /// Whether merges are measured on held-out sequences, each.
    pub probed: bool,
}

/// A round.
pub struct RoundRow {
    /// Its number.
    pub round: u64,
    /// Whether it is the one in progress.
    pub open: bool,
    /// Assignments given.
    pub assigned: u32,
    /// Updates merged.
    pub merged: u32,
    /// Tokens of the merged updates.
    pub tokens: String,
    /// Their loss.
    pub loss: String,
    /// Loss of what it made on a few held-out sequences.
    pub probe: String,
    /// Bytes of the payloads.
    pub upload: String,
    /// Bytes of the merge.
    pub merge: String,
    /// How long it took.
    pub duration: String,
    /// Why it closed.
    pub reason: String,
}

impl Rounds {
    /// The newest `limit` rounds of this run.
    pub fn new(view: &RunView, limit: usize) -> Self {
        let newest_first = view.rounds.iter().rev().take(limit);
        Self {
            run: view.run.0,
            rows: newest_first.map(RoundRow::new).collect(),
            total: view.rounds.len(),
            probed: view.rounds.iter().any(|round| round.probe_loss.is_some()),
        }
    }
}

impl RoundRow {
    fn new(round: &RoundView) -> Self {
        let open = round.revision.is_none() && round.reason.is_empty();
        // What a round in progress has not measured yet is not zero.
        let known = |text: String, known: bool| if known { text } else { "–".into() };
        Self {
            round: round.round,
            open,
            assigned: round.assigned,
            merged: round.merged,
            tokens: known(humanize::count(round.tokens), round.tokens > 0),
            loss: round.loss.map_or("–".into(), humanize::loss),
            probe: round.probe_loss.map_or("–".into(), humanize::loss),
            upload: known(humanize::bytes(round.upload_bytes), round.upload_bytes > 0),
            merge: known(humanize::bytes(round.merge_bytes), round.merge_bytes > 0),
            duration: humanize::duration(round.duration_ms),
            reason: if open {
                "in progress".into()
            } else {
                round.reason.clone()
            },
        }
    }
}

#[cfg(test)]
impl super::Sample for Rounds {
    fn samples() -> Vec<Self> {
        crate::sample::runs()
            .iter()
            .map(|view| Self::new(view, 12))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_round_comes_first_and_the_rest_is_counted() {
        let view = crate::sample::training_run(40);
        let rounds = Rounds::new(&view, 5);
        assert_eq!(rounds.rows.len(), 5);
        assert_eq!(rounds.total, view.rounds.len());
        assert!(rounds.rows[0].open && rounds.rows[0].round > rounds.rows[1].round);
        assert_eq!(rounds.rows[0].reason, "in progress");
    }

    #[test]
    fn the_probe_has_a_column_where_merges_are_measured() {
        let mut view = crate::sample::training_run(40);
        let shown = |view: &RunView| Rounds::new(view, 5).render().expect("it renders");
        assert!(shown(&view).contains(">Probe</abbr>"));
        for round in &mut view.rounds {
            round.probe_loss = None;
        }
        assert!(!shown(&view).contains(">Probe</abbr>"));
    }
}
