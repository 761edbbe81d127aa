//! The log of a run with eight workers, as long as one likes.

use opengpu_ledger::{Entry, EntryKind};
use opengpu_rounds::{
    AssignmentId, BlockRange, Event, EventKind, FeedbackId, Hash, NodeId, Revision, RoundSettings,
    WorkerId,
};

const WORKERS: u64 = 8;
const BLOCKS: u64 = 10;
/// A base checkpoint is written every so many rounds.
pub const CHECKPOINT_EVERY: u64 = 10;

fn revision(number: u64) -> Revision {
    Revision { lineage: 0, number }
}

/// The contents of the blob that an event names.
pub fn contents(kind: &str, number: u64) -> String {
    format!("{kind} {number}")
}

fn hash(kind: &str, number: u64) -> Hash {
    Hash::of(contents(kind, number).as_bytes())
}

/// What the blobs hold that round `round` leaves behind.
pub fn blobs_of(round: u64) -> Vec<String> {
    let payloads = (round * WORKERS..(round + 1) * WORKERS).map(|id| contents("payload", id));
    let mut blobs: Vec<String> = payloads.collect();
    blobs.push(contents("merge", round));
    if (round + 1).is_multiple_of(CHECKPOINT_EVERY) {
        blobs.push(contents("weights", round + 1));
        blobs.push(contents("outer", round + 1));
    }
    blobs
}

/// What comes before the first round.
pub fn first_events(rounds: u64) -> Vec<Event> {
    let settings = RoundSettings {
        rounds,
        blocks_per_epoch: 100_000,
        ..Default::default()
    };
    let mut kinds = vec![
        EventKind::Created { settings },
        EventKind::Checkpointed {
            revision: revision(0),
            weights: hash("weights", 0),
            outer_state: hash("outer", 0),
        },
        EventKind::Forming,
    ];
    kinds.extend((0..WORKERS).map(|worker| EventKind::WorkerJoined {
        worker: WorkerId(worker),
        node: NodeId(worker),
        feedback: FeedbackId(worker),
        founder: true,
    }));
    kinds
        .into_iter()
        .map(|kind| Event { at_ms: 0, kind })
        .collect()
}

/// What a round with eight workers writes: twenty events, and a checkpoint now and then.
pub fn round(round: u64) -> (Vec<Event>, Vec<Entry>) {
    let opened_ms = round * 60_000;
    let assignments: Vec<u64> = (0..WORKERS)
        .map(|worker| round * WORKERS + worker)
        .collect();
    let mut kinds = vec![EventKind::RoundOpened {
        round,
        base: revision(round),
        deadline_ms: opened_ms + 50_000,
    }];
    for (worker, assignment) in (0..).zip(&assignments) {
        kinds.push(EventKind::Assigned {
            assignment: AssignmentId(*assignment),
            worker: WorkerId(worker),
            round,
            base: revision(round),
            blocks: vec![BlockRange {
                start: assignment * BLOCKS,
                end: (assignment + 1) * BLOCKS,
            }],
            attempt: 0,
            span: None,
        });
    }
    let mut entries = Vec::new();
    for (worker, assignment) in (0..).zip(&assignments) {
        let tokens = 16_384;
        kinds.push(EventKind::UpdateAccepted {
            assignment: AssignmentId(*assignment),
            blocks_completed: BLOCKS,
            payload: hash("payload", *assignment),
            payload_bytes: 50_000,
            tokens,
            mergeable: true,
            commitment: None,
            audit: None,
            held: false,
            trust: 1.0,
        });
        entries.push(Entry {
            at_unix_ms: opened_ms + 1,
            node: NodeId(worker),
            worker: WorkerId(worker),
            assignment: AssignmentId(*assignment),
            round,
            kind: EntryKind::Accepted {
                blocks: BLOCKS,
                tokens,
                megaflops: 6 * tokens,
                payload: hash("payload", *assignment),
            },
        });
    }
    kinds.extend([
        EventKind::Collecting {
            round,
            grace_ends_ms: opened_ms + 55_000,
        },
        EventKind::RoundClosed {
            round,
            updates: assignments.iter().copied().map(AssignmentId).collect(),
            reason: "all 8 workers have reported".into(),
        },
        EventKind::Merged {
            round,
            revision: revision(round + 1),
            merge: hash("merge", round),
            merge_bytes: 150_000,
            digest: hash("weights", round + 1),
            factors: vec![1.0; WORKERS as usize],
            regards: Vec::new(),
            counted_tokens: None,
        },
    ]);
    if (round + 1).is_multiple_of(CHECKPOINT_EVERY) {
        kinds.push(EventKind::Checkpointed {
            revision: revision(round + 1),
            weights: hash("weights", round + 1),
            outer_state: hash("outer", round + 1),
        });
    }
    let events = kinds
        .into_iter()
        .map(|kind| Event {
            at_ms: opened_ms + 1,
            kind,
        })
        .collect();
    (events, entries)
}
