//! Who may what: enrolment, signatures, replays, other people's workers.

use std::time::{Duration, Instant};

use opengpu_protocol::operator::{NodeAction, TokenRequest};
use opengpu_protocol::signing::{public_key, sign};
use opengpu_protocol::wire::{Activity, Enrol, Machine, Report};
use opengpu_protocol::{Client, SigningKey};
use opengpu_rounds::{FeedbackId, Hash, NodeId, Revision, RunId};

use super::support::{CUT_OFF, Server, code, key, offer};

/// Sends one signed `PUT /v1/workers/0` as written, and gives status and code.
async fn raw(
    server: &Server,
    key: &SigningKey,
    node: NodeId,
    unix_ms: u64,
    counter: u64,
) -> (u16, String) {
    let body = serde_json::to_vec(&offer()).unwrap();
    let headers = sign(
        key,
        node,
        "PUT",
        "/v1/workers/0",
        &Hash::of(&body),
        unix_ms,
        counter,
    );
    let mut request = reqwest::Client::new()
        .put(format!("{}/v1/workers/0", server.url))
        .body(body);
    for (name, value) in headers.pairs() {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn now_ms() -> u64 {
    opengpu_coordinator::clock::unix_ms()
}

#[tokio::test]
async fn a_signed_request_counts_once_also_after_a_restart() {
    let server = Server::start().await;
    let (node, _) = server.enrol(&key(1), "attic").await;
    let used = 1_000_000;
    assert_eq!(raw(&server, &key(1), node, now_ms(), used).await.0, 200);
    assert_eq!(
        raw(&server, &key(1), node, now_ms(), used).await,
        (401, "counter_too_low".into())
    );
    assert_eq!(raw(&server, &key(1), node, now_ms(), used + 2).await.0, 200);
    assert_eq!(
        raw(&server, &key(1), node, now_ms(), used + 1).await.0,
        200,
        "requests may overtake each other"
    );
    let server = server.restart().await;
    for counter in [used, used + 1, used + 2] {
        assert_eq!(
            raw(&server, &key(1), node, now_ms(), counter).await,
            (401, "counter_too_low".into())
        );
    }
    // The client mends itself with the floor that the refusal names.
    Client::node(&server.url, key(1), node)
        .unwrap()
        .offer(0, &offer())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_request_of_another_time_key_or_node_is_refused() {
    let server = Server::start().await;
    let (node, _) = server.enrol(&key(1), "attic").await;
    let hour = 3_600_000;
    assert_eq!(
        raw(&server, &key(1), node, now_ms() - hour, 5).await,
        (401, "clock_off".into())
    );
    assert_eq!(
        raw(&server, &key(2), node, now_ms(), 6).await,
        (401, "bad_signature".into())
    );
    assert_eq!(
        raw(&server, &key(1), NodeId(node.0 + 1), now_ms(), 7).await,
        (401, "unknown_node".into())
    );
    assert_eq!(
        raw(&server, &key(1), node, now_ms(), 6).await.0,
        200,
        "a forged request uses no counter up"
    );
}

#[tokio::test]
async fn the_same_key_is_the_same_node_and_a_wrong_token_admits_nobody() {
    let server = Server::start().await;
    let (node, _) = server.enrol(&key(1), "attic").await;
    assert_eq!(server.enrol(&key(1), "attic again").await.0, node);
    let enrol = Enrol {
        token: Some("0".repeat(64)),
        public_key: public_key(&key(2)),
        name: "stranger".into(),
        machine: Machine::default(),
    };
    let anonymous = Client::anonymous(&server.url).unwrap();
    assert_eq!(code(anonymous.enrol(&enrol).await), "unknown_token");
    let once = TokenRequest {
        label: "once".into(),
        uses: 1,
        expires_in_seconds: None,
    };
    let made = server.operator().make_token(&once).await.unwrap();
    let with = |seed: u8| Enrol {
        token: Some(made.token.clone()),
        public_key: public_key(&key(seed)),
        ..enrol.clone()
    };
    anonymous.enrol(&with(3)).await.unwrap();
    assert_eq!(code(anonymous.enrol(&with(4)).await), "token_used_up");
    assert_eq!(
        code(
            anonymous
                .enrol(&Enrol {
                    public_key: Hash([0; 32]),
                    ..enrol
                })
                .await
        ),
        "bad_key"
    );
}

#[tokio::test]
async fn another_nodes_worker_is_refused() {
    let server = Server::start().await;
    let (_, mine) = server.enrol(&key(1), "mine").await;
    let (_, theirs) = server.enrol(&key(2), "theirs").await;
    let worker = theirs.offer(0, &offer()).await.unwrap().worker;
    let report = Report {
        run: RunId(1),
        revision: Revision {
            lineage: 0,
            number: 0,
        },
        digest: Hash([0; 32]),
        feedback: FeedbackId(1),
        blocks_per_second: 1.0,
        activity: Activity::Idle,
    };
    assert_eq!(code(mine.report(worker, &report).await), "not_your_worker");
    assert_eq!(
        mine.offer(0, &offer()).await.unwrap().worker,
        mine.offer(0, &offer()).await.unwrap().worker
    );
}

#[tokio::test]
async fn a_banned_node_is_cut_off_and_can_be_restored() {
    let server = Server::start().await;
    let (node, client) = server.enrol(&key(1), "attic").await;
    client.offer(0, &offer()).await.unwrap();
    let mut directives = client.directives(Duration::from_secs(10)).await.unwrap();
    assert_eq!(directives.next().await.unwrap().unwrap().workers.len(), 1);
    assert!(server.operator().node_view(node).await.unwrap().connected);
    let operator = server.operator();
    operator.act_on_node(node, NodeAction::Ban).await.unwrap();
    let since = Instant::now();
    while directives.next().await.unwrap().is_some() {}
    let took = since.elapsed();
    assert!(took < CUT_OFF, "{took:?}");
    assert_eq!(code(client.offer(0, &offer()).await), "banned");
    server
        .operator()
        .act_on_node(node, NodeAction::Restore)
        .await
        .unwrap();
    client.offer(0, &offer()).await.unwrap();
}

#[tokio::test]
async fn a_new_directive_stream_replaces_the_one_before() {
    let server = Server::start().await;
    let (_, client) = server.enrol(&key(1), "attic").await;
    let mut first = client.directives(Duration::from_secs(10)).await.unwrap();
    first.next().await.unwrap().unwrap();
    let mut second = client.directives(Duration::from_secs(10)).await.unwrap();
    second.next().await.unwrap().unwrap();
    // The replaced stream ends at its next look, at the latest with its sign of life.
    while first.next().await.unwrap().is_some() {}
    second.next().await.unwrap().unwrap();
}
