//! Datasets and the runs that use them.

use opengpu_coordinator::store::{CreateRunError, DatasetError};
use opengpu_rounds::{Event, EventKind};

use super::{
    Database, on_both_databases,
    samples::{created, manifest, new_run, spec},
};

on_both_databases!(
    a_dataset_is_added_once,
    a_dataset_in_use_stays,
    a_run_is_never_made_from_a_dataset_that_goes_meanwhile,
);

async fn a_dataset_is_added_once(db: Database) {
    let store = db.open().await;
    let tales = manifest("tales");
    store.put_dataset(&tales).await.unwrap();
    store.put_dataset(&tales).await.unwrap();
    let mut other = manifest("tales");
    other.vocab_size = 1_024;
    let taken = store.put_dataset(&other).await;
    assert!(
        matches!(taken, Err(DatasetError::NameTaken(_))),
        "{taken:?}"
    );
    assert_eq!(store.dataset("tales").await.unwrap(), Some(tales.clone()));
    store.put_dataset(&manifest("letters")).await.unwrap();
    let names: Vec<String> = store
        .datasets()
        .await
        .unwrap()
        .into_iter()
        .map(|dataset| dataset.name)
        .collect();
    assert_eq!(names, ["letters", "tales"]);
    store.delete_dataset("letters").await.unwrap();
    assert_eq!(store.dataset("letters").await.unwrap(), None);
    let gone = store.delete_dataset("letters").await;
    assert!(matches!(gone, Err(DatasetError::Unknown(_))));
}

async fn a_dataset_in_use_stays(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let refused = store.delete_dataset("tales").await.unwrap_err();
    assert!(
        matches!(&refused, DatasetError::InUse { runs, .. } if runs == &["first"]),
        "{refused}"
    );
    let epoch = store.claim(run).await.unwrap();
    let finished = Event {
        at_ms: 2,
        kind: EventKind::Finished {
            reason: "all rounds are done".into(),
        },
    };
    store.append(run, epoch, 1, &[finished], &[]).await.unwrap();
    store.delete_dataset("tales").await.unwrap();
    // The run still knows what it was trained on.
    let record = store.run(run).await.unwrap().unwrap();
    assert!(record.ended);
    assert_eq!(record.dataset, manifest("tales"));
    let orphan = store.create_run(&spec("second", "tales"), &[]).await;
    assert!(matches!(orphan, Err(CreateRunError::UnknownDataset(_))));
}

async fn a_run_is_never_made_from_a_dataset_that_goes_meanwhile(db: Database) {
    let store = db.open().await;
    let other = db.open().await;
    for attempt in 0..10 {
        let name = format!("tales {attempt}");
        store.put_dataset(&manifest(&name)).await.unwrap();
        let spec = spec(&name, &name);
        let first_event = [created(1)];
        let (made, deleted) = tokio::join!(
            store.create_run(&spec, &first_event),
            other.delete_dataset(&name)
        );
        assert_ne!(
            made.is_ok(),
            deleted.is_ok(),
            "one of the two must be refused: {made:?} {deleted:?}"
        );
    }
}
