//! Appending to and reading the log.

use opengpu_coordinator::store::{AppendError, OwnerEpoch, StoreError};
use opengpu_ledger::{Entry, EntryKind as LedgerKind};
use opengpu_rounds::{Event, EventKind, Hash, NodeId, Revision, RunId, WorkerId};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    Database, on_both_databases,
    samples::{accepted, marked, new_run},
};

on_both_databases!(
    an_append_is_read_back_as_it_was,
    a_stale_owner_or_position_appends_nothing,
    credit_that_does_not_match_is_refused,
    an_event_that_would_read_back_differently_is_refused,
    appends_that_race_leave_a_log_without_gaps,
    a_large_append_is_one_append,
);

async fn an_append_is_read_back_as_it_was(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let epoch = store.claim(run).await.unwrap();
    let (update, credit) = accepted(2, 7, 3, 4_096);
    let merged = Event {
        at_ms: 3,
        kind: EventKind::Merged {
            round: 0,
            revision: Revision {
                lineage: 0,
                number: 1,
            },
            merge: Hash::of(b"merge"),
            merge_bytes: 10,
            digest: Hash::of(b"weights"),
            // Numbers whose decimal form is long, tiny, or huge.
            factors: vec![0.1, 1.0 / 3.0, f32::MIN_POSITIVE, f32::MAX, 1e-45],
            regards: Vec::new(),
            counted_tokens: None,
        },
    };
    let seq = store
        .append(run, epoch, 1, &[update.clone(), merged.clone()], &[credit])
        .await
        .unwrap();
    assert_eq!(seq, 3);
    let seq = store
        .append(run, epoch, 3, &[marked(4, u64::MAX)], &[])
        .await;
    assert_eq!(seq.unwrap(), 4);
    let events: Vec<Event> = store
        .events(run, 1, 100)
        .await
        .unwrap()
        .into_iter()
        .map(|stored| stored.event)
        .collect();
    assert_eq!(events, [update, merged, marked(4, u64::MAX)]);
    assert_eq!(store.events(run, 1, 2).await.unwrap().len(), 2);
    assert_eq!(store.run(run).await.unwrap().unwrap().head, 4);
    assert_eq!(
        store.credited_by_worker(run).await.unwrap(),
        [(WorkerId(3), 4_096)]
    );
    assert_eq!(
        store.credited_by_node().await.unwrap(),
        [(NodeId(3), 4_096)]
    );
}

async fn a_stale_owner_or_position_appends_nothing(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let old = store.claim(run).await.unwrap();
    let new = store.claim(run).await.unwrap();
    let fenced = store.append(run, old, 1, &[marked(2, 2)], &[]).await;
    assert!(
        matches!(fenced, Err(AppendError::Fenced { by, epoch, .. }) if by == new && epoch == old),
        "{fenced:?}"
    );
    let conflict = store.append(run, new, 0, &[marked(2, 2)], &[]).await;
    assert!(
        matches!(
            conflict,
            Err(AppendError::Conflict {
                expected: 0,
                found: 1,
                ..
            })
        ),
        "{conflict:?}"
    );
    let future = store
        .append(run, OwnerEpoch(9), 1, &[marked(2, 2)], &[])
        .await;
    assert!(matches!(future, Err(AppendError::Fenced { .. })));
    let missing = store.append(RunId(77), new, 1, &[marked(2, 2)], &[]).await;
    assert!(matches!(
        missing,
        Err(AppendError::Store(StoreError::Missing(_)))
    ));
    assert_eq!(store.events(run, 0, 10).await.unwrap().len(), 1);
}

async fn credit_that_does_not_match_is_refused(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let epoch = store.claim(run).await.unwrap();
    let (update, entry) = accepted(2, 7, 3, 4_096);
    let (_, more) = accepted(2, 7, 3, 4_097);
    let (_, other) = accepted(2, 8, 3, 4_096);
    let twice = vec![entry.clone(), entry.clone()];
    for entries in [vec![], vec![more], vec![other], twice] {
        let refused = store
            .append(run, epoch, 1, std::slice::from_ref(&update), &entries)
            .await;
        assert!(
            matches!(refused, Err(AppendError::Credit { .. })),
            "{entries:?} gave {refused:?}"
        );
    }
    let refused = store
        .append(run, epoch, 1, &[], std::slice::from_ref(&entry))
        .await;
    assert!(matches!(refused, Err(AppendError::Credit { .. })));
    store
        .append(
            run,
            epoch,
            1,
            std::slice::from_ref(&update),
            std::slice::from_ref(&entry),
        )
        .await
        .unwrap();
    // The same update can't be credited again, whatever the log says.
    let again = store.append(run, epoch, 2, &[update], &[entry]).await;
    assert!(matches!(again, Err(AppendError::Store(_))), "{again:?}");
    assert_eq!(store.run(run).await.unwrap().unwrap().head, 2);
    assert_eq!(
        store.credited_by_node().await.unwrap(),
        [(NodeId(3), 4_096)]
    );
}

async fn an_event_that_would_read_back_differently_is_refused(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let epoch = store.claim(run).await.unwrap();
    let merged = Event {
        at_ms: 2,
        kind: EventKind::Merged {
            round: 0,
            revision: Revision {
                lineage: 0,
                number: 1,
            },
            merge: Hash::of(b"merge"),
            merge_bytes: 10,
            digest: Hash::of(b"weights"),
            factors: vec![f32::NAN],
            regards: Vec::new(),
            counted_tokens: None,
        },
    };
    let refused = store
        .append(run, epoch, 1, &[marked(2, 2), merged], &[])
        .await;
    assert!(
        matches!(refused, Err(AppendError::Unfaithful { index: 1 })),
        "{refused:?}"
    );
    assert_eq!(store.run(run).await.unwrap().unwrap().head, 1);
}

/// Many tasks of one epoch append at once, each from the position that it saw last.
async fn appends_that_race_leave_a_log_without_gaps(db: Database) {
    let seed: u64 = 0x5eed;
    let stores = [db.open().await, db.open().await];
    for round in 0..4 {
        println!("seed {}", seed + round);
        let mut seeds = StdRng::seed_from_u64(seed + round);
        let run = new_run(&stores[0], &format!("run {round}")).await;
        let epoch = stores[0].claim(run).await.unwrap();
        let mut tasks = Vec::new();
        for task in 0..4_u64 {
            let store = stores.choose(&mut seeds).unwrap().clone();
            let mut random = StdRng::seed_from_u64(seeds.random());
            tasks.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                let mut head = 1;
                let mut batch = 0;
                while batch < 8 {
                    let count = random.random_range(1..6_u64);
                    let first = task * 1_000 + batch * 10;
                    let (mut events, mut entries) = (Vec::new(), Vec::new());
                    for number in first..first + count {
                        if random.random_bool(0.5) {
                            let (event, entry) = accepted(number, number, task, number + 1);
                            events.push(event);
                            entries.push(entry);
                        } else {
                            events.push(marked(number, number));
                        }
                    }
                    match store.append(run, epoch, head, &events, &entries).await {
                        Ok(seq) => {
                            assert_eq!(seq, head + count);
                            acknowledged.push((head, events, entries));
                            head = seq;
                            batch += 1;
                        }
                        Err(AppendError::Conflict { found, .. }) => head = found,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                acknowledged
            }));
        }
        let mut acknowledged = Vec::new();
        for task in tasks {
            acknowledged.extend(task.await.unwrap());
        }
        acknowledged.sort_by_key(|(head, ..)| *head);
        let mut log = Vec::new();
        let last = stores[1]
            .fold_events(run, 0, |stored| log.push(stored.event))
            .await
            .unwrap();
        assert_eq!(last, log.len() as u64);
        let mut expected = vec![super::samples::created(1)];
        let mut tokens = 0;
        for (head, events, entries) in acknowledged {
            assert_eq!(head, expected.len() as u64);
            expected.extend(events);
            tokens += entries.iter().map(tokens_of).sum::<u64>();
        }
        assert_eq!(log, expected);
        let credited = stores[0].credited_by_worker(run).await.unwrap();
        assert_eq!(credited.iter().map(|row| row.1).sum::<u64>(), tokens);
    }
}

fn tokens_of(entry: &Entry) -> u64 {
    match entry.kind {
        LedgerKind::Accepted { tokens, .. } => tokens,
        _ => 0,
    }
}

async fn a_large_append_is_one_append(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let epoch = store.claim(run).await.unwrap();
    let events: Vec<Event> = (0..5_000).map(|mark| marked(2, mark)).collect();
    store.append(run, epoch, 1, &events, &[]).await.unwrap();
    let mut marks = Vec::new();
    let last = store
        .fold_events(run, 1, |stored| marks.push(stored.event))
        .await
        .unwrap();
    assert_eq!(last, 5_001);
    assert_eq!(marks, events);
}
