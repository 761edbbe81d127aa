//! Accounts, and nodes that are claimed for them.

use opengpu_coordinator::store::{AccountError, Store};
use opengpu_rounds::{Hash, NodeId};
use sea_orm::ConnectionTrait;

use super::{Database, on_both_databases, samples::machine};

on_both_databases!(
    a_name_is_one_account,
    a_code_claims_one_node_once,
    an_old_or_replaced_code_claims_nothing,
    a_code_that_two_use_at_once_goes_to_one_of_them,
    an_erased_account_leaves_its_nodes_to_nobody,
    names_that_were_in_the_audit_log_are_taken_out_of_it,
);

const HOUR_MS: u64 = 3_600_000;

pub async fn enrol(store: &Store, number: u64) -> NodeId {
    let token = Hash::of(&number.to_be_bytes());
    store.create_token(token, "lab", None, None).await.unwrap();
    let key = Hash::of(&number.to_le_bytes());
    store.enrol(token, key, "a", &machine()).await.unwrap()
}

async fn owner(store: &Store, node: NodeId) -> Option<u64> {
    store.node(node).await.unwrap().unwrap().account
}

pub fn in_an_hour() -> u64 {
    opengpu_coordinator::clock::unix_ms() + HOUR_MS
}

async fn a_name_is_one_account(db: Database) {
    let store = db.open().await;
    let alice = store.create_account("alice", None).await.unwrap();
    let again = store.create_account("alice", None).await;
    assert!(matches!(again, Err(AccountError::Taken(_))), "{again:?}");
    let bob = store.create_account("bob", None).await.unwrap();
    assert_eq!(store.accounts().await.unwrap(), [alice, bob.clone()]);
    // What a number stood for it never stands for again.
    assert!(store.erase_account(bob.id).await.unwrap());
    assert!(!store.erase_account(bob.id).await.unwrap());
    let bob_again = store.create_account("bob", None).await.unwrap();
    assert!(bob_again.id > bob.id);
}

async fn a_code_claims_one_node_once(db: Database) {
    let store = db.open().await;
    let (mine, other) = (enrol(&store, 1).await, enrol(&store, 2).await);
    let alice = store.create_account("alice", None).await.unwrap();
    let code = Hash::of(b"code");
    store
        .put_claim_code(mine, code, in_an_hour())
        .await
        .unwrap();
    let nobody = store.claim_node(code, "bob").await;
    assert!(
        matches!(nobody, Err(AccountError::Unknown(_))),
        "{nobody:?}"
    );
    assert_eq!(store.claim_node(code, "alice").await.unwrap(), mine);
    let again = store.claim_node(code, "alice").await;
    assert!(matches!(again, Err(AccountError::UnknownCode)), "{again:?}");
    assert_eq!(owner(&store, mine).await, Some(alice.id));
    assert_eq!(owner(&store, other).await, None);
    // Whoever has the machine may give it to somebody else.
    let bob = store.create_account("bob", None).await.unwrap();
    store
        .put_claim_code(mine, code, in_an_hour())
        .await
        .unwrap();
    store.claim_node(code, "bob").await.unwrap();
    assert_eq!(owner(&store, mine).await, Some(bob.id));
}

async fn an_old_or_replaced_code_claims_nothing(db: Database) {
    let store = db.open().await;
    let node = enrol(&store, 1).await;
    store.create_account("alice", None).await.unwrap();
    let (old, replaced, new) = (Hash::of(b"old"), Hash::of(b"replaced"), Hash::of(b"new"));
    store.put_claim_code(node, old, 1).await.unwrap();
    let late = store.claim_node(old, "alice").await;
    assert!(matches!(late, Err(AccountError::UnknownCode)), "{late:?}");
    for code in [replaced, new] {
        store
            .put_claim_code(node, code, in_an_hour())
            .await
            .unwrap();
    }
    let gone = store.claim_node(replaced, "alice").await;
    assert!(matches!(gone, Err(AccountError::UnknownCode)), "{gone:?}");
    assert_eq!(store.claim_node(new, "alice").await.unwrap(), node);
}

async fn a_code_that_two_use_at_once_goes_to_one_of_them(db: Database) {
    let store = db.open().await;
    let node = enrol(&store, 1).await;
    let code = Hash::of(b"code");
    store
        .put_claim_code(node, code, in_an_hour())
        .await
        .unwrap();
    for name in ["alice", "bob"] {
        store.create_account(name, None).await.unwrap();
    }
    let (one, two) = tokio::join!(
        store.claim_node(code, "alice"),
        store.claim_node(code, "bob")
    );
    assert_eq!(
        usize::from(one.is_ok()) + usize::from(two.is_ok()),
        1,
        "{one:?} {two:?}"
    );
    assert!(owner(&store, node).await.is_some());
}

async fn an_erased_account_leaves_its_nodes_to_nobody(db: Database) {
    let store = db.open().await;
    let (mine, other) = (enrol(&store, 1).await, enrol(&store, 2).await);
    for (node, name) in [(mine, "alice"), (other, "bob")] {
        store.create_account(name, None).await.unwrap();
        let code = Hash::of(name.as_bytes());
        store
            .put_claim_code(node, code, in_an_hour())
            .await
            .unwrap();
        store.claim_node(code, name).await.unwrap();
    }
    let alice = owner(&store, mine).await.unwrap();
    assert!(store.erase_account(alice).await.unwrap());
    store.close().await.unwrap();
    let store = db.open().await;
    assert_eq!(owner(&store, mine).await, None);
    assert!(owner(&store, other).await.is_some());
    assert_eq!(store.accounts().await.unwrap().len(), 1);
}

async fn names_that_were_in_the_audit_log_are_taken_out_of_it(db: Database) {
    let store = db.open().await;
    // As they were written before; the second account may be gone since.
    for (action, detail) in [
        ("account.create", "1 \"alice\""),
        ("account.create", "12 \"Zoe Example\""),
        ("account.erase", "12"),
        ("node.ban", "3: it sends noise"),
    ] {
        store.audit("operator", action, detail).await.unwrap();
    }
    store.close().await.unwrap();
    let url = match db.url.starts_with("postgres") {
        true => db.url.clone(),
        false => format!("sqlite://{}", db.url),
    };
    let connection = sea_orm::Database::connect(url).await.unwrap();
    let undo = "DELETE FROM seaql_migrations WHERE version = 'm0011_names_out_of_audit'";
    let undone = connection.execute_unprepared(undo).await.unwrap();
    assert_eq!(undone.rows_affected(), 1);
    connection.close().await.unwrap();
    let store = db.open().await;
    let log = store.audit_log(None, 10).await.unwrap();
    let details: Vec<_> = log.iter().map(|entry| entry.detail.as_str()).collect();
    assert_eq!(details, ["3: it sends noise", "12", "12", "1"]);
}
