//! Opening a long run: what a coordinator that starts again waits for.

use std::time::{Duration, Instant};

use opengpu_coordinator::store::Store;
use opengpu_rounds::{Run, RunId};

use super::{
    Database, long_run, on_both_databases,
    samples::{manifest, spec},
};

on_both_databases!(a_run_of_a_thousand_rounds_opens_at_once);

const ROUNDS: u64 = 1_000;
/// The driver's form of a snapshot.
const FORMAT: u32 = 1;
/// How many events a snapshot may be behind.
const SNAPSHOT_EVERY: u64 = 1_000;

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
    let first = long_run::first_events(ROUNDS + 1);
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
        let (events, entries) = long_run::round(number);
        for event in &events {
            state.fold(event);
        }
        head = store
            .append(run, epoch, head, &events, &entries)
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
