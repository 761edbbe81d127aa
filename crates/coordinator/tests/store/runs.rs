//! Runs and snapshots.

use opengpu_coordinator::store::{CreateRunError, OwnerEpoch, StoreError};
use opengpu_rounds::RunId;

use super::{
    Database, on_both_databases,
    samples::{created, manifest, marked, new_run, spec},
};

on_both_databases!(
    a_run_starts_with_its_first_events,
    a_name_is_given_once,
    claiming_counts_owners,
    the_newest_snapshot_of_a_format_is_found_and_older_ones_go,
    a_snapshot_of_events_that_are_not_there_is_refused,
);

async fn a_run_starts_with_its_first_events(db: Database) {
    let store = db.open().await;
    store.put_dataset(&manifest("tales")).await.unwrap();
    let first = [created(5), marked(6, 60)];
    let run = store
        .create_run(&spec("first", "tales"), &first)
        .await
        .unwrap();
    let record = store.run(run).await.unwrap().unwrap();
    assert_eq!(record.name, "first");
    assert_eq!(record.spec, spec("first", "tales"));
    assert_eq!(record.head, 2);
    assert_eq!(record.epoch, OwnerEpoch(0));
    assert!(!record.ended);
    let events = store.events(run, 0, 10).await.unwrap();
    assert_eq!(events[0].event, first[0]);
    assert_eq!((events[1].seq, &events[1].event), (2, &first[1]));
    assert_eq!(
        store.run_named("first").await.unwrap(),
        Some(record.clone())
    );
    assert_eq!(store.runs().await.unwrap(), [record]);
    assert_eq!(store.run(RunId(77)).await.unwrap(), None);
}

async fn a_name_is_given_once(db: Database) {
    let store = db.open().await;
    new_run(&store, "first").await;
    let taken = store
        .create_run(&spec("first", "tales"), &[created(1)])
        .await;
    assert!(
        matches!(taken, Err(CreateRunError::NameTaken(_))),
        "{taken:?}"
    );
    // Nothing of the refused run is left.
    assert_eq!(store.runs().await.unwrap().len(), 1);
    let second = store
        .create_run(&spec("second", "tales"), &[created(1)])
        .await
        .unwrap();
    assert_eq!(store.events(second, 0, 10).await.unwrap().len(), 1);
}

async fn claiming_counts_owners(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    assert_eq!(store.claim(run).await.unwrap(), OwnerEpoch(1));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(run).await.unwrap() })
        })
        .collect();
    let mut epochs = Vec::new();
    for task in tasks {
        epochs.push(task.await.unwrap().0);
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (2..=9).collect::<Vec<_>>());
    let missing = store.claim(RunId(77)).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
}

async fn the_newest_snapshot_of_a_format_is_found_and_older_ones_go(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let epoch = store.claim(run).await.unwrap();
    let events: Vec<_> = (2..=10).map(|seq| marked(seq, seq)).collect();
    store.append(run, epoch, 1, &events, &[]).await.unwrap();
    assert_eq!(store.latest_snapshot(run, 1).await.unwrap(), None);
    for seq in [3, 5, 9] {
        store
            .put_snapshot(run, seq, 1, &format!("state {seq}"))
            .await
            .unwrap();
    }
    let newest = store.latest_snapshot(run, 1).await.unwrap().unwrap();
    assert_eq!((newest.seq, newest.body.as_str()), (9, "state 9"));
    // A program with another form of state writes over it, and goes back.
    store.put_snapshot(run, 9, 2, "new form").await.unwrap();
    let older = store.latest_snapshot(run, 1).await.unwrap().unwrap();
    assert_eq!(older.seq, 5);
    // Three were kept for a moment, two stay.
    store.put_snapshot(run, 10, 2, "newer").await.unwrap();
    assert_eq!(store.latest_snapshot(run, 1).await.unwrap(), None);
    let newest = store.latest_snapshot(run, 2).await.unwrap().unwrap();
    assert_eq!(newest.seq, 10);
}

async fn a_snapshot_of_events_that_are_not_there_is_refused(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let refused = store.put_snapshot(run, 2, 1, "from the future").await;
    assert!(
        matches!(refused, Err(StoreError::Missing(_))),
        "{refused:?}"
    );
    assert_eq!(store.latest_snapshot(run, 1).await.unwrap(), None);
}
