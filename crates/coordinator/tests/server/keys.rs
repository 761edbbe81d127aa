//! Keys of nodes over HTTP: changed by the node, revoked by either side, at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opengpu_protocol::identity::AddKey;
use opengpu_protocol::possession::prove;
use opengpu_protocol::signing::{KEY_HEADER, public_key, sign};
use opengpu_protocol::{Client, SigningKey};
use opengpu_rounds::{Hash, NodeId};

use super::support::{CUT_OFF, Server, code, key, offer};

fn client(server: &Server, seed: u8, node: NodeId) -> Client {
    Client::node(&server.url, key(seed), node).unwrap()
}

/// Makes counters of requests within one millisecond differ.
static SENT: AtomicU64 = AtomicU64::new(0);

/// Sends a signed `POST /v1/keys` that names, or does not name, its key.
async fn post(
    server: &Server,
    (signer, named): (&SigningKey, Option<&str>),
    node: NodeId,
    request: &AddKey,
) -> (u16, String) {
    let body = serde_json::to_vec(request).unwrap();
    let now = opengpu_coordinator::clock::unix_ms();
    let counter = now * 1000 + SENT.fetch_add(1, Ordering::Relaxed);
    let hash = Hash::of(&body);
    let signed = sign(signer, node, "POST", "/v1/keys", &hash, now, counter);
    let mut call = reqwest::Client::new()
        .post(format!("{}/v1/keys", server.url))
        .body(body);
    for (name, value) in signed.pairs() {
        call = call.header(name, value);
    }
    if let Some(named) = named {
        call = call.header(KEY_HEADER, named);
    }
    let answer = call.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value =
        serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_node_changes_its_key_and_the_old_one_is_refused_from_then_on() {
    let server = Server::start().await;
    let (node, old) = server.enrol(&key(1), "attic").await;
    let worker = old.offer(0, &offer()).await.unwrap().worker;
    assert_eq!(old.add_key(node, &key(2)).await.unwrap().len(), 2);
    let new = client(&server, 2, node);
    assert_eq!(new.offer(0, &offer()).await.unwrap().worker, worker);
    old.keys().await.unwrap();
    let keys = new.revoke_key(public_key(&key(1))).await.unwrap();
    assert_eq!(
        keys.iter().map(|key| key.revoked).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(code(old.keys().await), "key_revoked");
    assert_eq!(code(new.revoke_key(public_key(&key(2))).await), "last_key");
    let server = server.restart().await;
    assert_eq!(code(client(&server, 1, node).keys().await), "key_revoked");
    assert_eq!(client(&server, 2, node).keys().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_comes_to_a_node_only_from_hands_that_hold_it() {
    let server = Server::start().await;
    let (node, _) = server.enrol(&key(1), "attic").await;
    let (other, theirs) = server.enrol(&key(2), "cellar").await;
    let stolen = AddKey {
        public_key: public_key(&key(3)),
        proof: prove(&key(4), node),
    };
    let elsewhere = AddKey {
        public_key: public_key(&key(3)),
        proof: prove(&key(3), other),
    };
    for request in [&stolen, &elsewhere] {
        let answer = post(&server, (&key(1), None), node, request).await;
        assert_eq!(answer, (422, "bad_proof".into()));
    }
    // Another node's key, though its owner is here and proves it.
    assert_eq!(
        code(theirs.add_key(other, &key(1)).await),
        "key_taken",
        "a key has one node"
    );
}

#[tokio::test]
async fn a_request_may_name_its_key_or_leave_it_to_be_found() {
    let server = Server::start().await;
    let (node, client) = server.enrol(&key(1), "attic").await;
    client.add_key(node, &key(2)).await.unwrap();
    let spare = AddKey {
        public_key: public_key(&key(3)),
        proof: prove(&key(3), node),
    };
    let of = |seed| public_key(&key(seed)).to_string();
    let unnamed = post(&server, (&key(2), None), node, &spare).await;
    assert_eq!(unnamed.0, 200, "all keys are tried");
    let named = post(&server, (&key(2), Some(&of(2))), node, &spare).await;
    assert_eq!(named.0, 200);
    let misnamed = post(&server, (&key(2), Some(&of(1))), node, &spare).await;
    assert_eq!(misnamed, (401, "bad_signature".into()));
    let foreign = post(&server, (&key(4), Some(&of(4))), node, &spare).await;
    assert_eq!(foreign, (401, "bad_signature".into()));
    let malformed = post(&server, (&key(2), Some("a key")), node, &spare).await;
    assert_eq!(malformed, (401, "unsigned".into()));
    // A revoked one is told so only to whoever holds it.
    client.revoke_key(public_key(&key(2))).await.unwrap();
    let revoked = post(&server, (&key(2), Some(&of(2))), node, &spare).await;
    assert_eq!(revoked, (401, "key_revoked".into()));
    let pretended = post(&server, (&key(4), Some(&of(2))), node, &spare).await;
    assert_eq!(pretended, (401, "bad_signature".into()));
}

#[tokio::test]
async fn revoking_a_key_ends_its_open_stream_at_once_and_no_other() {
    let server = Server::start().await;
    let (node, client) = server.enrol(&key(1), "attic").await;
    let (_, bystander) = server.enrol(&key(2), "cellar").await;
    let wait = Duration::from_secs(20);
    let mut lost = client.directives(wait).await.unwrap();
    lost.next().await.unwrap().unwrap();
    let mut kept = bystander.directives(wait).await.unwrap();
    kept.next().await.unwrap().unwrap();
    let operator = server.operator();
    let keys = operator
        .revoke_node_key(node, public_key(&key(1)))
        .await
        .unwrap();
    let since = Instant::now();
    assert!(keys[0].revoked, "the operator may take the last one");
    while lost.next().await.unwrap().is_some() {}
    let took = since.elapsed();
    // It takes some 20 ms; the sign of life that would end it otherwise comes up to 5 s later.
    assert!(took < CUT_OFF, "{took:?}");
    assert_eq!(code(client.keys().await), "key_revoked");
    assert!(kept.next().await.unwrap().is_some());
    assert!(!operator.node_view(node).await.unwrap().connected);
    // The key is worth nothing here any more; the machine comes back as another node.
    let again = opengpu_protocol::wire::Enrol {
        token: Some(server.join_token()),
        public_key: public_key(&key(1)),
        name: "attic".into(),
        machine: opengpu_protocol::wire::Machine::default(),
    };
    let anonymous = Client::anonymous(&server.url).unwrap();
    assert_eq!(code(anonymous.enrol(&again).await), "key_revoked");
    assert_ne!(server.enrol(&key(3), "attic").await.0, node);
}

#[tokio::test]
async fn only_keys_that_are_there_are_listed_and_revoked() {
    let server = Server::start().await;
    let (node, _) = server.enrol(&key(1), "attic").await;
    let operator = server.operator();
    assert_eq!(operator.node_keys(node).await.unwrap().len(), 1);
    assert_eq!(code(operator.node_keys(NodeId(99)).await), "unknown_node");
    assert_eq!(
        code(operator.revoke_node_key(node, Hash([1; 32])).await),
        "unknown_key"
    );
    assert_eq!(
        code(operator.revoke_node_key(NodeId(99), Hash([1; 32])).await),
        "unknown_node"
    );
}
