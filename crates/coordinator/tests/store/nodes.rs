//! Tokens, nodes, workers.

use opengpu_coordinator::store::{
    Admission, Admitted, EnrolError, NodeState, StoreError, TellError,
};
use opengpu_protocol::operator::NodeAction;
use opengpu_rounds::{Hash, NodeId};

use super::{
    Database, on_both_databases,
    samples::{machine, offer},
};

on_both_databases!(
    a_token_admits_as_many_machines_as_it_may,
    repeating_an_enrolment_takes_no_second_use,
    machines_that_enrol_at_once_never_exceed_the_token,
    one_machine_that_enrols_twice_at_once_is_one_node,
    an_unknown_token_admits_nobody,
    an_expired_or_revoked_token_admits_nobody_new,
    a_machine_without_a_token_is_one_node_in_the_state_given,
    how_a_node_came_in_is_remembered_until_an_operator_approves_it,
    a_node_keeps_what_it_is_and_changes_what_it_may,
    counters_that_were_reserved_stay_reserved,
    a_device_has_one_worker_for_ever,
    a_reopened_database_remembers,
);

fn key(number: u64) -> Hash {
    Hash::of(&number.to_le_bytes())
}

async fn a_token_admits_as_many_machines_as_it_may(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store
        .create_token(token, "lab", Some(2), None)
        .await
        .unwrap();
    let first = store.enrol(token, key(1), "a", &machine()).await.unwrap();
    let second = store.enrol(token, key(2), "b", &machine()).await.unwrap();
    assert_ne!(first, second);
    let third = store.enrol(token, key(3), "c", &machine()).await;
    assert!(
        matches!(third, Err(EnrolError::UsedUp { uses: 2 })),
        "{third:?}"
    );
    assert_eq!(store.nodes().await.unwrap().len(), 2);
    let tokens = store.tokens().await.unwrap();
    assert_eq!((tokens[0].uses, tokens[0].used), (Some(2), 2));
}

async fn repeating_an_enrolment_takes_no_second_use(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store
        .create_token(token, "home", Some(1), None)
        .await
        .unwrap();
    let node = store.enrol(token, key(1), "a", &machine()).await.unwrap();
    // The answer was lost; the machine asks again, also with its token used up.
    let again = store.enrol(token, key(1), "b", &machine()).await.unwrap();
    assert_eq!(node, again);
    assert_eq!(store.node(node).await.unwrap().unwrap().name, "a");
    assert_eq!(store.tokens().await.unwrap()[0].used, 1);
}

async fn machines_that_enrol_at_once_never_exceed_the_token(db: Database) {
    let store = db.open().await;
    let other = db.open().await;
    let token = Hash::of(b"token");
    store
        .create_token(token, "lab", Some(5), None)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..12)
        .map(|number| {
            let store = if number % 2 == 0 { &store } else { &other }.clone();
            tokio::spawn(async move { store.enrol(token, key(number), "m", &machine()).await })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(EnrolError::UsedUp { uses: 5 }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(admitted, 5);
    assert_eq!(store.nodes().await.unwrap().len(), 5);
}

async fn one_machine_that_enrols_twice_at_once_is_one_node(db: Database) {
    let store = db.open().await;
    let tokens = [Hash::of(b"one"), Hash::of(b"two")];
    for token in tokens {
        store.create_token(token, "lab", None, None).await.unwrap();
    }
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let store = store.clone();
            let token = tokens[number % 2];
            tokio::spawn(async move { store.enrol(token, key(7), "m", &machine()).await.unwrap() })
        })
        .collect();
    let mut nodes = Vec::new();
    for task in tasks {
        nodes.push(task.await.unwrap());
    }
    nodes.dedup();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    let used: u64 = store.tokens().await.unwrap().iter().map(|t| t.used).sum();
    assert_eq!(used, 1);
}

async fn an_unknown_token_admits_nobody(db: Database) {
    let store = db.open().await;
    let refused = store
        .enrol(Hash::of(b"guess"), key(1), "a", &machine())
        .await;
    assert!(matches!(refused, Err(EnrolError::UnknownToken)));
    assert!(store.nodes().await.unwrap().is_empty());
}

async fn an_expired_or_revoked_token_admits_nobody_new(db: Database) {
    let store = db.open().await;
    let (past, ahead) = (Hash::of(b"past"), Hash::of(b"ahead"));
    let hour_ms = 3_600_000;
    let now_ms = opengpu_coordinator::clock::unix_ms();
    store
        .create_token(past, "lab", None, Some(now_ms - 3 * hour_ms))
        .await
        .unwrap();
    store
        .create_token(ahead, "lab", Some(2), Some(now_ms + hour_ms))
        .await
        .unwrap();
    let refused = store.enrol(past, key(1), "a", &machine()).await;
    let Err(error @ EnrolError::Expired { seconds }) = refused else {
        panic!("{refused:?}");
    };
    assert!((10_800..10_900).contains(&seconds), "{seconds}");
    assert!(error.to_string().contains("expired 3 h ago"), "{error}");
    let node = store.enrol(ahead, key(2), "b", &machine()).await.unwrap();
    assert!(store.revoke_token(ahead).await.unwrap());
    let revoked_ms = store.tokens().await.unwrap()[1].revoked_ms;
    assert!(store.revoke_token(ahead).await.unwrap());
    assert_eq!(store.tokens().await.unwrap()[1].revoked_ms, revoked_ms);
    assert!(!store.revoke_token(Hash::of(b"guess")).await.unwrap());
    let refused = store.enrol(ahead, key(3), "c", &machine()).await;
    assert!(matches!(refused, Err(EnrolError::Revoked)), "{refused:?}");
    let again = store.enrol(ahead, key(2), "b", &machine()).await.unwrap();
    assert_eq!(again, node);
    assert_eq!(store.nodes().await.unwrap().len(), 1);
}

async fn a_machine_without_a_token_is_one_node_in_the_state_given(db: Database) {
    let store = db.open().await;
    let waits = Admission::Without(NodeState::Pending);
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.enrol(waits, key(1), "a", &machine()).await.unwrap() })
        })
        .collect();
    let node = store.enrol(waits, key(1), "a", &machine()).await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap(), node);
    }
    let state = async || store.node(node).await.unwrap().unwrap().state;
    assert_eq!(state().await, NodeState::Pending);
    // What nobody looked at is let in by approval alone.
    for action in [
        NodeAction::Restore,
        NodeAction::Drain,
        NodeAction::Quarantine,
    ] {
        let told = store.tell_node(node, action, None).await;
        assert!(matches!(told, Err(TellError::Pending(_))), "{told:?}");
    }
    store
        .tell_node(node, NodeAction::Approve, None)
        .await
        .unwrap();
    assert_eq!(state().await, NodeState::Active);
    // Enrolling again changes nothing about it.
    let again = store.enrol(waits, key(1), "a", &machine()).await.unwrap();
    assert_eq!((again, state().await), (node, NodeState::Active));
}

async fn how_a_node_came_in_is_remembered_until_an_operator_approves_it(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store.create_token(token, "lab", None, None).await.unwrap();
    let invited = store.enrol(token, key(1), "a", &machine()).await.unwrap();
    let open = Admission::Without(NodeState::Active);
    let stranger = store.enrol(open, key(2), "b", &machine()).await.unwrap();
    let waits = Admission::Without(NodeState::Pending);
    let waiting = store.enrol(waits, key(3), "c", &machine()).await.unwrap();
    let admitted = async |node| store.node(node).await.unwrap().unwrap().admitted;
    assert_eq!(admitted(invited).await, Admitted::Token);
    assert_eq!(admitted(stranger).await, Admitted::Open);
    assert_eq!(admitted(waiting).await, Admitted::Approval);
    for node in [stranger, waiting] {
        store
            .tell_node(node, NodeAction::Approve, None)
            .await
            .unwrap();
        assert_eq!(admitted(node).await, Admitted::Approval);
        let again = store.tell_node(node, NodeAction::Approve, None).await;
        assert!(
            matches!(again, Err(TellError::NotPending { .. })),
            "{again:?}"
        );
    }
}

async fn a_node_keeps_what_it_is_and_changes_what_it_may(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store.create_token(token, "lab", None, None).await.unwrap();
    let node = store
        .enrol(token, key(1), "Küche", &machine())
        .await
        .unwrap();
    let record = store.node(node).await.unwrap().unwrap();
    assert_eq!(record.name, "Küche");
    assert_eq!(record.machine, machine());
    assert_eq!(record.keys.len(), 1);
    assert_eq!(record.keys[0].public_key, key(1));
    assert_eq!(record.keys[0].revoked_ms, None);
    assert_eq!(record.state, NodeState::Active);
    store.tell_node(node, NodeAction::Ban, None).await.unwrap();
    assert_eq!(
        store.node(node).await.unwrap().unwrap().state,
        NodeState::Banned
    );
    let told = store.tell_node(NodeId(99), NodeAction::Ban, None).await;
    assert!(matches!(told, Err(TellError::Unknown(_))), "{told:?}");
    assert_eq!(store.node(NodeId(99)).await.unwrap(), None);
    assert!("asleep".parse::<NodeState>().is_err());
}

async fn counters_that_were_reserved_stay_reserved(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store.create_token(token, "lab", None, None).await.unwrap();
    let node = store.enrol(token, key(1), "a", &machine()).await.unwrap();
    assert_eq!(store.reserve_counters(node, 1_000).await.unwrap(), 1_000);
    // An older request that comes late lowers nothing.
    assert_eq!(store.reserve_counters(node, 500).await.unwrap(), 1_000);
    store.close().await.unwrap();
    let reopened = db.open().await;
    assert_eq!(
        reopened.node(node).await.unwrap().unwrap().counter_floor,
        1_000
    );
    let missing = reopened.reserve_counters(NodeId(99), 1).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
}

async fn a_device_has_one_worker_for_ever(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store.create_token(token, "lab", None, None).await.unwrap();
    let node = store.enrol(token, key(1), "a", &machine()).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.worker_for(node, 0, &offer("CPU")).await.unwrap() })
        })
        .collect();
    let worker = store.worker_for(node, 0, &offer("CPU")).await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap(), worker);
    }
    let second = store.worker_for(node, 1, &offer("GPU")).await.unwrap();
    assert_ne!(worker, second);
    // A driver was updated: same worker, new description.
    store
        .worker_for(node, 0, &offer("CPU (2 threads)"))
        .await
        .unwrap();
    let workers = store.workers_of(node).await.unwrap();
    assert_eq!(workers.len(), 2);
    assert_eq!(workers[0].id, worker);
    assert_eq!(workers[0].offer.device, "CPU (2 threads)");
    assert_eq!(store.workers().await.unwrap().len(), 2);
    assert!(
        store
            .worker_for(NodeId(99), 0, &offer("CPU"))
            .await
            .is_err()
    );
}

async fn a_reopened_database_remembers(db: Database) {
    let store = db.open().await;
    let token = Hash::of(b"token");
    store
        .create_token(token, "lab", Some(3), None)
        .await
        .unwrap();
    let node = store.enrol(token, key(1), "a", &machine()).await.unwrap();
    store
        .audit("operator", "node.ban", "node 1: spam")
        .await
        .unwrap();
    store
        .audit("operator", "node.restore", "node 1")
        .await
        .unwrap();
    store.close().await.unwrap();
    // Two at once: both try to migrate, neither is disturbed.
    let (one, two) = tokio::join!(db.open(), db.open());
    one.ping().await.unwrap();
    assert_eq!(one.nodes().await.unwrap()[0].id, node);
    let log = two.audit_log(None, 10).await.unwrap();
    assert_eq!(log.len(), 2);
    assert_eq!(log[0].action, "node.restore");
    let older = two.audit_log(Some(log[0].id), 10).await.unwrap();
    assert_eq!(older, log[1..]);
}
