//! Two coordinators that both believe they own a run.

use opengpu_coordinator::store::{AppendError, OwnerEpoch, Store};
use opengpu_rounds::{EventKind, RunId};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Database, on_both_databases,
    samples::{marked, new_run},
};

on_both_databases!(owners_that_race_never_mix_their_events);

/// The log with, for each event, the epoch that it says it was appended in.
async fn drive(store: Store, run: RunId, seed: u64) -> Vec<(u64, u64)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acknowledged = Vec::new();
    let mut fenced = 0;
    while fenced < 15 {
        let epoch = store.claim(run).await.unwrap();
        let mut head = store.run(run).await.unwrap().unwrap().head;
        for _ in 0..random.random_range(1..20) {
            let count = random.random_range(1..4_u64);
            let events: Vec<_> = (0..count)
                .map(|_| marked(epoch.0, random.random()))
                .collect();
            match store.append(run, epoch, head, &events, &[]).await {
                Ok(seq) => {
                    acknowledged.extend((head + 1..=seq).map(|seq| (seq, epoch.0)));
                    head = seq;
                }
                Err(AppendError::Fenced { by, .. }) => {
                    assert!(by > epoch);
                    fenced += 1;
                    break;
                }
                // Whoever claims and then reads knows the whole log until it is fenced.
                Err(error) => panic!("{error:?}"),
            }
            if random.random_bool(0.3) {
                tokio::task::yield_now().await;
            }
        }
        if random.random_bool(0.5) {
            let pause = random.random_range(0..3);
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        }
    }
    acknowledged
}

async fn owners_that_race_never_mix_their_events(db: Database) {
    let seed = 20_261_121;
    println!("seed {seed}");
    let one = db.open().await;
    let two = db.open().await;
    let run = new_run(&one, "first").await;
    let first = tokio::spawn(drive(one.clone(), run, seed));
    let second = tokio::spawn(drive(two, run, seed + 1));
    // The one that is left alone is never fenced again, so somebody disturbs them to the end.
    let disturber = tokio::spawn({
        let store = one.clone();
        async move {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                store.claim(run).await.unwrap();
            }
        }
    });
    let mut acknowledged = first.await.unwrap();
    acknowledged.extend(second.await.unwrap());
    disturber.abort();
    acknowledged.sort_unstable();

    let mut log = Vec::new();
    one.fold_events(run, 1, |stored| {
        assert!(matches!(stored.event.kind, EventKind::FeedbackReset { .. }));
        log.push((stored.seq, stored.event.at_ms));
    })
    .await
    .unwrap();
    assert_eq!(
        log, acknowledged,
        "each acknowledged event once, and no other"
    );
    assert!(
        log.is_sorted_by_key(|(_, epoch)| *epoch),
        "no owner appends after a newer one"
    );
    assert!(log.len() > 20, "the race was no race: {} events", log.len());
    let head = log.len() as u64 + 1;
    let stale = one
        .append(run, OwnerEpoch(1), head, &[marked(1, 1)], &[])
        .await;
    assert!(matches!(stale, Err(AppendError::Fenced { .. })));
}
