//! What must be true of a run's log, whatever happened to the processes that wrote it.

use std::collections::{BTreeMap, BTreeSet};

use opengpu_protocol::{Client, wire::RunView};
use opengpu_rounds::{AssignmentId, BlockRange, Event, EventKind, RunId};

/// Figures of a log that passed.
#[derive(Debug)]
pub struct Figures {
    /// Updates accepted.
    pub accepted: usize,
    /// Updates merged.
    pub merged: usize,
}

/// Reads the whole log of a run; panics if it has a gap.
pub async fn whole_log(client: &Client, run: RunId) -> Vec<Event> {
    let log = client.whole_log(run).await.unwrap();
    for (entry, sequence) in log.iter().zip(1..) {
        assert_eq!(entry.sequence, sequence, "the log has a gap");
    }
    log.into_iter().map(|entry| entry.event).collect()
}

/// Panics if an update was merged twice, a block was merged twice, a revision number was
/// skipped, or credit differs from what was accepted.
pub fn check(events: &[Event], view: &RunView) -> Figures {
    let mut blocks: BTreeMap<AssignmentId, Vec<BlockRange>> = BTreeMap::new();
    let mut completed: BTreeMap<AssignmentId, u64> = BTreeMap::new();
    let mut merged = BTreeSet::new();
    let mut merged_blocks = BTreeSet::new();
    let mut accepted_tokens = 0;
    let mut number = 0;
    for event in events {
        match &event.kind {
            EventKind::Assigned {
                assignment,
                blocks: ranges,
                ..
            } => {
                let before = blocks.insert(*assignment, ranges.clone());
                assert!(before.is_none(), "assignment {assignment} was given twice");
            }
            EventKind::UpdateAccepted {
                assignment,
                blocks_completed,
                tokens,
                ..
            } => {
                let before = completed.insert(*assignment, *blocks_completed);
                assert!(
                    before.is_none(),
                    "the update of {assignment} was accepted twice"
                );
                accepted_tokens += tokens;
            }
            EventKind::RoundClosed { updates, .. } => {
                for update in updates {
                    assert!(
                        merged.insert(*update),
                        "the update of {update} was merged twice"
                    );
                    for block in prefix(&blocks[update], completed[update]) {
                        assert!(
                            merged_blocks.insert(block),
                            "block {block} was merged twice"
                        );
                    }
                }
            }
            EventKind::Merged { revision, .. } => {
                assert_eq!(revision.number, number + 1, "a revision number was skipped");
                number = revision.number;
            }
            _ => {}
        }
    }
    let credited: u64 = view
        .workers
        .iter()
        .map(|worker| worker.credited_tokens)
        .sum();
    assert_eq!(
        credited, accepted_tokens,
        "credit differs from what was accepted"
    );
    assert_eq!(view.tokens, accepted_tokens);
    Figures {
        accepted: completed.len(),
        merged: merged.len(),
    }
}

fn prefix(ranges: &[BlockRange], blocks: u64) -> impl Iterator<Item = u64> + '_ {
    ranges
        .iter()
        .flat_map(|range| range.start..range.end)
        .take(usize::try_from(blocks).unwrap())
}
