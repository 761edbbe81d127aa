//! The keys of nodes, and how those came here that nodes had before.

use opengpu_coordinator::store::{EnrolError, KeyError, MOST_KEYS, MOST_KEYS_EVER, Store};
use opengpu_rounds::{Hash, NodeId};
use sea_orm::{ConnectionTrait, Database as SeaDatabase};

use super::{Database, on_both_databases, samples::machine};

on_both_databases!(
    a_node_changes_its_key,
    a_key_has_one_node_for_ever,
    the_last_key_goes_by_the_operator_alone,
    a_node_has_a_bounded_number_of_keys,
    keys_added_and_revoked_at_once_leave_one_at_least,
    the_key_that_a_node_had_before_is_kept,
);

fn key(number: u64) -> Hash {
    Hash::of(&number.to_le_bytes())
}

async fn enrol(store: &Store, number: u64) -> NodeId {
    let token = Hash::of(&number.to_be_bytes());
    store.create_token(token, "lab", None, None).await.unwrap();
    let node = store.enrol(token, key(number), "a", &machine()).await;
    node.unwrap()
}

async fn live(store: &Store, node: NodeId) -> Vec<Hash> {
    let keys = store.node(node).await.unwrap().unwrap().keys;
    let live = keys.iter().filter(|key| key.revoked_ms.is_none());
    live.map(|key| key.public_key).collect()
}

async fn a_node_changes_its_key(db: Database) {
    let store = db.open().await;
    let node = enrol(&store, 1).await;
    store.add_key(node, key(2)).await.unwrap();
    let again = store.add_key(node, key(2)).await.unwrap();
    assert_eq!((again.public_key, again.revoked_ms), (key(2), None));
    store.revoke_key(node, key(1), false).await.unwrap();
    store.revoke_key(node, key(1), false).await.unwrap();
    assert_eq!(live(&store, node).await, [key(2)]);
    // Both are there after a restart, and the list of all nodes says the same.
    store.close().await.unwrap();
    let store = db.open().await;
    let record = store.node(node).await.unwrap().unwrap();
    assert_eq!(record.keys.len(), 2);
    assert_eq!(store.nodes().await.unwrap(), [record]);
}

async fn a_key_has_one_node_for_ever(db: Database) {
    let store = db.open().await;
    let (mine, theirs) = (enrol(&store, 1).await, enrol(&store, 2).await);
    let taken = store.add_key(mine, key(2)).await;
    assert!(matches!(taken, Err(KeyError::Taken)), "{taken:?}");
    store.add_key(theirs, key(3)).await.unwrap();
    store.revoke_key(theirs, key(2), false).await.unwrap();
    for node in [mine, theirs] {
        let taken = store.add_key(node, key(2)).await;
        assert!(matches!(taken, Err(KeyError::Taken)), "{taken:?}");
    }
    // Nor does it enrol again, neither as its old node nor as a new one.
    let token = Hash::of(b"another");
    store.create_token(token, "lab", None, None).await.unwrap();
    let again = store.enrol(token, key(2), "a", &machine()).await;
    assert!(matches!(again, Err(EnrolError::KeyRevoked)), "{again:?}");
    let foreign = store.revoke_key(mine, key(3), true).await;
    assert!(
        matches!(foreign, Err(KeyError::Unknown { .. })),
        "{foreign:?}"
    );
    let nobody = store.add_key(NodeId(99), key(9)).await;
    assert!(matches!(nobody, Err(KeyError::Store(_))), "{nobody:?}");
}

async fn the_last_key_goes_by_the_operator_alone(db: Database) {
    let store = db.open().await;
    let node = enrol(&store, 1).await;
    let last = store.revoke_key(node, key(1), false).await;
    assert!(matches!(last, Err(KeyError::Last { .. })), "{last:?}");
    assert_eq!(live(&store, node).await, [key(1)]);
    store.revoke_key(node, key(1), true).await.unwrap();
    assert!(live(&store, node).await.is_empty());
}

async fn a_node_has_a_bounded_number_of_keys(db: Database) {
    let store = db.open().await;
    let node = enrol(&store, 1).await;
    for number in 2..=MOST_KEYS as u64 {
        store.add_key(node, key(number)).await.unwrap();
    }
    let more = store.add_key(node, key(1000)).await;
    assert!(matches!(more, Err(KeyError::TooMany { .. })), "{more:?}");
    for number in MOST_KEYS as u64..MOST_KEYS_EVER as u64 {
        store.revoke_key(node, key(number), false).await.unwrap();
        store.add_key(node, key(number + 1)).await.unwrap();
    }
    store
        .revoke_key(node, key(MOST_KEYS_EVER as u64), false)
        .await
        .unwrap();
    let more = store.add_key(node, key(1000)).await;
    assert!(
        matches!(more, Err(KeyError::TooManyEver { .. })),
        "{more:?}"
    );
}

async fn keys_added_and_revoked_at_once_leave_one_at_least(db: Database) {
    let store = db.open().await;
    let node = enrol(&store, 1).await;
    for number in 2..=4 {
        store.add_key(node, key(number)).await.unwrap();
    }
    let tasks: Vec<_> = (1..=4)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.revoke_key(node, key(number), false).await })
        })
        .collect();
    let mut refused = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => {}
            Err(KeyError::Last { .. }) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(refused, 1);
    assert_eq!(live(&store, node).await.len(), 1);
}

/// Takes the schema back to what it was before nodes had keys, by hand, with the rows in it.
async fn as_before(db: &Database) {
    let url = match db.url.starts_with("postgres") {
        true => db.url.clone(),
        false => format!("sqlite://{}", db.url),
    };
    let connection = SeaDatabase::connect(url).await.unwrap();
    for statement in [
        "ALTER TABLE node ADD COLUMN public_key text NOT NULL DEFAULT ''",
        "UPDATE node SET public_key = (SELECT public_key FROM node_key WHERE node_key.node = node.id)",
        "CREATE UNIQUE INDEX node_public_key ON node (public_key)",
        "DROP TABLE node_key",
        "DROP TABLE standing",
        "DELETE FROM seaql_migrations WHERE version >= 'm0004'",
    ] {
        connection.execute_unprepared(statement).await.unwrap();
    }
    connection.close().await.unwrap();
}

async fn the_key_that_a_node_had_before_is_kept(db: Database) {
    let store = db.open().await;
    let nodes = [enrol(&store, 1).await, enrol(&store, 2).await];
    let before = store.nodes().await.unwrap();
    store.close().await.unwrap();
    as_before(&db).await;
    // Two coordinators that start at once: both try to migrate, neither is disturbed.
    let (store, other) = tokio::join!(db.open(), db.open());
    assert_eq!(store.nodes().await.unwrap(), before);
    assert_eq!(other.nodes().await.unwrap(), before);
    assert_eq!(live(&store, nodes[1]).await, [key(2)]);
    let after = enrol(&store, 3).await;
    assert_eq!(live(&store, after).await, [key(3)]);
}
