//! Opening a long run: what a coordinator that starts again waits for.

use std::time::{Duration, Instant};

use opengpu_coordinator::store::{Credit, Store};
use opengpu_rounds::{
    AssignmentId, BlockRange, Event, EventKind, FeedbackId, Hash, NodeId, Revision, RoundSettings,
    Run, RunId, WorkerId,
};

use super::{
    Database, on_both_databases,
    samples::{manifest, spec},
};

on_both_databases!(a_run_of_a_thousand_rounds_opens_at_once);

const ROUNDS: u64 = 1_000;
const WORKERS: u64 = 8;
const BLOCKS: u64 = 10;
/// The driver's form of a snapshot.
const FORMAT: u32 = 1;
/// How many events a snapshot may be behind.
const SNAPSHOT_EVERY: u64 = 1_000;

fn revision(number: u64) -> Revision {
    Revision { lineage: 0, number }
}

fn hash(kind: &str, number: u64) -> Hash {
    Hash::of(format!("{kind} {number}").as_bytes())
}

fn first_events() -> Vec<Event> {
    let settings = RoundSettings {
        rounds: ROUNDS + 1,
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
fn round(round: u64) -> (Vec<Event>, Vec<Credit>) {
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
        });
    }
    let mut credits = Vec::new();
    for (worker, assignment) in (0..).zip(&assignments) {
        let tokens = 16_384;
        kinds.push(EventKind::UpdateAccepted {
            assignment: AssignmentId(*assignment),
            blocks_completed: BLOCKS,
            payload: hash("payload", *assignment),
            payload_bytes: 50_000,
            tokens,
            mergeable: true,
        });
        credits.push(Credit {
            assignment: AssignmentId(*assignment),
            node: NodeId(worker),
            worker: WorkerId(worker),
            tokens,
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
        },
    ]);
    if (round + 1) % 10 == 0 {
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
    (events, credits)
}

/// As a coordinator does it: the newest snapshot, then what came after.
async fn open(store: &Store, run: RunId) -> (Run, u64) {
    let (mut state, after) = match store.latest_snapshot(run, FORMAT).await.unwrap() {
        Some(snapshot) => (serde_json::from_str(&snapshot.body).unwrap(), snapshot.seq),
        None => (Run::default(), 0),
    };
    let head = store
        .fold_events(run, after, |stored| state.fold(&stored.event))
        .await
        .unwrap();
    (state, head)
}

async fn a_run_of_a_thousand_rounds_opens_at_once(db: Database) {
    let store = db.open().await;
    store.put_dataset(&manifest("tales")).await.unwrap();
    let first = first_events();
    let run = store
        .create_run(&spec("long", "tales"), &first)
        .await
        .unwrap();
    let epoch = store.claim(run).await.unwrap();
    let mut state = Run::from_events(&first);
    let mut head = first.len() as u64;
    let mut snapshot_at = 0;
    let started = Instant::now();
    for number in 0..ROUNDS {
        let (events, credits) = round(number);
        for event in &events {
            state.fold(event);
        }
        head = store
            .append(run, epoch, head, &events, &credits)
            .await
            .unwrap();
        // The last snapshot is as far behind as one can be.
        if head - snapshot_at >= SNAPSHOT_EVERY && number < ROUNDS - 2 {
            let body = serde_json::to_string(&state).unwrap();
            store.put_snapshot(run, head, FORMAT, &body).await.unwrap();
            snapshot_at = head;
        }
    }
    let writing = started.elapsed();
    store.close().await.unwrap();

    let started = Instant::now();
    let store = db.open().await;
    let record = store.run(run).await.unwrap().unwrap();
    let (opened, opened_head) = open(&store, run).await;
    let opening = started.elapsed();
    assert_eq!((opened_head, record.head), (head, head));
    assert_eq!(opened, state);
    assert_eq!(opened.inconsistency(), None);
    assert_eq!(opened.totals().merged_rounds, ROUNDS);

    let started = Instant::now();
    let mut whole = Run::default();
    store
        .fold_events(run, 0, |stored| whole.fold(&stored.event))
        .await
        .unwrap();
    let folding = started.elapsed();
    assert_eq!(whole, state);

    let snapshot = store.latest_snapshot(run, FORMAT).await.unwrap().unwrap();
    println!(
        "{ROUNDS} rounds, {head} events: appended in {writing:.0?}, opened in {opening:.1?} from a \
         snapshot of {} bytes {} events back; without it folded in {folding:.1?}",
        snapshot.body.len(),
        head - snapshot.seq,
    );
    assert!(
        opening < Duration::from_secs(1),
        "opening took {opening:?}, not under a second"
    );
}
