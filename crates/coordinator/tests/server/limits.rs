//! How often an address, a node and an account may ask, over HTTP.

use axum::Router;
use axum::routing::get;
use opengpu_coordinator::{LimitSettings, Rate};
use opengpu_protocol::signing::{public_key, sign};
use opengpu_protocol::wire::{Enrol, Machine};
use opengpu_rounds::NodeId;
use reqwest::Response;

use super::support::{Server, key, offer};

fn rate(burst: u32) -> Rate {
    Rate {
        burst: burst.try_into().unwrap(),
        per_minute: 2.try_into().unwrap(),
    }
}

async fn server(limits: LimitSettings) -> Server {
    let home = tempfile::tempdir().unwrap();
    Server::start_with(home, |settings| settings.limits = limits).await
}

/// Code of a refusal for asking too often, and the seconds to wait.
async fn too_often(answer: Response) -> (String, u64) {
    assert_eq!(answer.status(), 429);
    let wait = answer.headers()["retry-after"].to_str().unwrap();
    let wait = wait.parse().unwrap();
    let text = answer.text().await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&text).unwrap();
    (body["code"].as_str().unwrap().to_owned(), wait)
}

#[tokio::test]
async fn an_address_that_enrols_too_often_is_told_when_to_come_back() {
    let server = server(LimitSettings {
        enrolments: rate(2),
        ..LimitSettings::default()
    })
    .await;
    let (_, node) = server.enrol(&key(1), "one").await;
    let guess = Enrol {
        token: Some("guess".into()),
        public_key: public_key(&key(2)),
        name: "two".into(),
        machine: Machine::default(),
    };
    let http = reqwest::Client::new();
    let post = || {
        let body = serde_json::to_vec(&guess).unwrap();
        http.post(format!("{}/v1/nodes", server.url)).body(body)
    };
    assert_eq!(post().send().await.unwrap().status(), 403);
    let (code, wait) = too_often(post().send().await.unwrap()).await;
    assert_eq!(code, "too_many_requests");
    assert!((1..=30).contains(&wait), "{wait}");
    // Nothing else of that address is held up.
    node.offer(0, &offer()).await.unwrap();
    server.operator().nodes().await.unwrap();
}

#[tokio::test]
async fn strangers_are_refused_shortly_after_a_while_and_honest_neighbours_notice_nothing() {
    let server = server(LimitSettings {
        refusals: rate(3),
        ..LimitSettings::default()
    })
    .await;
    let (_, node) = server.enrol(&key(1), "honest").await;
    let http = reqwest::Client::new();
    let stranger = || {
        http.get(format!("{}/v1/runs", server.url))
            .bearer_auth("guess")
    };
    for _ in 0..3 {
        assert_eq!(stranger().send().await.unwrap().status(), 401);
    }
    let (code, _) = too_often(stranger().send().await.unwrap()).await;
    assert_eq!(code, "too_many_requests");
    for _ in 0..10 {
        node.offer(0, &offer()).await.unwrap();
        server.operator().nodes().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_asks_too_often_holds_up_no_other() {
    let server = server(LimitSettings {
        requests: rate(5),
        ..LimitSettings::default()
    })
    .await;
    let (hasty_node, hasty) = server.enrol(&key(1), "hasty").await;
    let (_, calm) = server.enrol(&key(2), "calm").await;
    for _ in 0..5 {
        hasty.keys().await.unwrap();
    }
    let refused = ask_for_keys(&server, 1, hasty_node).await;
    let (code, wait) = too_often(refused).await;
    assert_eq!(code, "too_many_requests");
    assert!((1..=30).contains(&wait), "{wait}");
    calm.keys().await.unwrap();
}

/// A node's request for its keys, sent once: the product's client tries again.
async fn ask_for_keys(server: &Server, seed: u8, node: NodeId) -> Response {
    let now = opengpu_coordinator::clock::unix_ms();
    let hash = opengpu_rounds::Hash::of(b"");
    let counter = now * 1000 + 999;
    let signed = sign(&key(seed), node, "GET", "/v1/keys", &hash, now, counter);
    let mut request = reqwest::Client::new().get(format!("{}/v1/keys", server.url));
    for (name, value) in signed.pairs() {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn the_nodes_of_one_account_share_its_requests_and_hold_up_nobody_elses() {
    let server = server(LimitSettings {
        account_requests: rate(6),
        ..LimitSettings::default()
    })
    .await;
    let (_, one) = server.enrol(&key(1), "one").await;
    let (other_node, other) = server.enrol(&key(2), "other").await;
    let (_, stranger) = server.enrol(&key(3), "stranger").await;
    let operator = server.operator();
    operator.create_account("alice", None).await.unwrap();
    for node in [&one, &other] {
        let shown = node.claim_code().await.unwrap();
        operator.claim(&shown.code, "alice").await.unwrap();
    }
    for _ in 0..3 {
        one.keys().await.unwrap();
        other.keys().await.unwrap();
    }
    let (code, wait) = too_often(ask_for_keys(&server, 2, other_node).await).await;
    assert_eq!(code, "too_many_requests");
    assert!((1..=30).contains(&wait), "{wait}");
    for _ in 0..7 {
        stranger.keys().await.unwrap();
    }
}

#[tokio::test]
async fn pages_and_what_else_is_open_to_anyone_share_a_limit_that_polls_and_nodes_do_not_feel() {
    let server = Server::start_with(tempfile::tempdir().unwrap(), |settings| {
        settings.limits.open_requests = rate(4);
        settings.extra_routes = Some(Box::new(|_| Router::new().route("/", get("a page"))));
    })
    .await;
    let (_, node) = server.enrol(&key(1), "honest").await;
    let get = async |path: &str| reqwest::get(format!("{}{path}", server.url)).await.unwrap();
    let hello = || {
        let body = r#"{"oldest":1,"newest":1,"software":"test"}"#;
        let http = reqwest::Client::new();
        http.post(format!("{}/v1/hello", server.url)).body(body)
    };
    // Four requests, whether they are answered or come to nothing.
    assert_eq!(get("/").await.status(), 200);
    assert_eq!(get("/openapi.json").await.status(), 200);
    assert_ne!(hello().send().await.unwrap().status(), 429);
    assert_eq!(get("/v1/nothing").await.status(), 404);
    for refused in [
        get("/").await,
        get("/openapi.json").await,
        hello().send().await.unwrap(),
        get("/v1/nothing").await,
    ] {
        let (code, wait) = too_often(refused).await;
        assert_eq!(code, "too_many_requests");
        assert!((1..=30).contains(&wait), "{wait}");
    }
    // A minute of polls, each second, comes through at once; who works notices nothing.
    for path in ["/healthz", "/readyz", "/metrics"] {
        for _ in 0..60 {
            assert_eq!(get(path).await.status(), 200, "{path}");
        }
    }
    node.offer(0, &offer()).await.unwrap();
    server.operator().nodes().await.unwrap();
}

#[tokio::test]
async fn who_polls_without_a_pause_is_refused_but_still_hears_that_the_process_lives() {
    let server = Server::start().await;
    let http = reqwest::Client::new();
    let get = |path: &str| http.get(format!("{}{path}", server.url)).send();
    let mut asked = 0;
    let refused = loop {
        let answer = get("/metrics").await.unwrap();
        if answer.status() != 200 {
            break answer;
        }
        asked += 1;
        assert!(asked < 20_000, "it is never refused");
    };
    assert!(asked >= 300, "{asked}");
    let (code, wait) = too_often(refused).await;
    assert_eq!((code.as_str(), wait), ("too_many_requests", 1));
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
    // A second later there is room again for whoever asks once a second.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(get("/readyz").await.unwrap().status(), 200);
}
