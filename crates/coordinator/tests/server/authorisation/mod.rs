//! Each endpoint over real HTTP, by everyone who may and everyone who may not.

mod others;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use opengpu_coordinator::api::endpoints;
use opengpu_coordinator::{EnrolmentPolicy, LimitSettings, Rate};
use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::signing::{public_key, sign};
use opengpu_protocol::wire::{Enrol, Machine};
use opengpu_protocol::{Client, SigningKey};
use opengpu_rounds::{Hash, NodeId};
use reqwest::RequestBuilder;

use super::support::{Server, key};
use table::{Others, TABLE};

/// What the gate refuses with, before a handler sees the request.
const AT_THE_GATE: [&str; 6] = [
    "unsigned",
    "no_token",
    "wrong_token",
    "bad_signature",
    "not_approved",
    "banned",
];

#[test]
fn the_table_has_one_case_for_each_endpoint() {
    let mut cases = BTreeMap::new();
    for (method, path, _, others) in TABLE {
        let before = cases.insert((*method, *path), *others);
        assert_eq!(before, None, "{method} {path} has two cases");
        let names_another = path.contains("{node}") || path.contains("{worker}");
        assert!(
            *others != Others::Signer || !names_another,
            "{method} {path} can name another node"
        );
    }
    let endpoints = endpoints();
    for endpoint in &endpoints {
        let (method, path) = (endpoint.method.as_str(), endpoint.path);
        assert!(
            cases.remove(&(method, path)).is_some(),
            "{method} {path} has no case in the table: say there who may call it"
        );
    }
    assert!(cases.is_empty(), "there are no such endpoints: {cases:?}");
}

#[tokio::test]
async fn each_endpoint_lets_in_whom_the_table_says_and_nobody_else() {
    // All refusals come from one address.
    let many = Rate {
        burst: 10_000.try_into().unwrap(),
        per_minute: 10_000.try_into().unwrap(),
    };
    let server = Server::start_with(tempfile::tempdir().unwrap(), |settings| {
        settings.enrolment = EnrolmentPolicy::Approval;
        settings.limits = LimitSettings {
            refusals: many,
            ..LimitSettings::default()
        };
    })
    .await;
    let callers = Callers::at(&server).await;
    for (method, path, lets_in, _) in TABLE {
        let path = example(path);
        for (letter, what, request) in callers.requests(&server, method, &path) {
            let answer = Answer::to(request).await;
            let refused = answer.is_at_the_gate();
            assert_eq!(
                refused,
                !lets_in.contains(letter),
                "{method} {path} answered {answer:?} to {what}"
            );
            assert!(
                refused || ![401, 403, 429].contains(&answer.status),
                "{method} {path} lets {what} in, and answered {answer:?}"
            );
        }
    }
}

/// A path with something in the place of each parameter.
fn example(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        // Of the body, which is empty: the signature of a payload is over it.
        "{hash}" => Hash::of(b"").to_string(),
        "{name}" | "{action}" => "some".to_owned(),
        part if part.starts_with('{') => "1".to_owned(),
        part => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Nodes that an operator thinks differently of.
struct Callers {
    pending: NodeId,
    active: NodeId,
    banned: NodeId,
    operator_token: String,
}

impl Callers {
    const PENDING: u8 = 1;
    const ACTIVE: u8 = 2;
    const BANNED: u8 = 3;
    const FORGER: u8 = 4;

    async fn at(server: &Server) -> Self {
        let enrol = Enrol {
            token: None,
            public_key: public_key(&key(Self::PENDING)),
            name: "pending".into(),
            machine: Machine::default(),
        };
        let anonymous = Client::anonymous(&server.url).unwrap();
        let enrolled = anonymous.enrol(&enrol).await.unwrap();
        assert!(enrolled.pending);
        let (active, _) = server.enrol(&key(Self::ACTIVE), "active").await;
        let (banned, _) = server.enrol(&key(Self::BANNED), "banned").await;
        let operator = server.operator();
        operator.act_on_node(banned, NodeAction::Ban).await.unwrap();
        Self {
            pending: enrolled.node,
            active,
            banned,
            operator_token: server.operator_token(),
        }
    }

    /// The same request by each, with the caller's letter in the table.
    fn requests(
        &self,
        server: &Server,
        method: &str,
        path: &str,
    ) -> [(char, &'static str, RequestBuilder); 7] {
        let bare = || unsigned(server, method, path, Vec::new());
        let by = |seed, node| signed(server, &key(seed), node, method, path, Vec::new());
        [
            ('a', "nobody", bare()),
            ('a', "a wrong token", bare().bearer_auth("wrong")),
            ('a', "a forged signature", by(Self::FORGER, self.active)),
            ('p', "a pending node", by(Self::PENDING, self.pending)),
            ('n', "a node", by(Self::ACTIVE, self.active)),
            ('b', "a banned node", by(Self::BANNED, self.banned)),
            (
                'o',
                "the operator",
                bare().bearer_auth(&self.operator_token),
            ),
        ]
    }
}

fn unsigned(server: &Server, method: &str, path: &str, body: Vec<u8>) -> RequestBuilder {
    let method = method.parse().unwrap();
    let request = reqwest::Client::new().request(method, format!("{}{path}", server.url));
    request.body(body)
}

/// Makes counters of requests within one millisecond differ.
static SENT: AtomicU64 = AtomicU64::new(0);

fn signed(
    server: &Server,
    key: &SigningKey,
    node: NodeId,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> RequestBuilder {
    let now = opengpu_coordinator::clock::unix_ms();
    let counter = now * 1000 + SENT.fetch_add(1, Ordering::Relaxed);
    let headers = sign(key, node, method, path, &Hash::of(&body), now, counter);
    let mut request = unsigned(server, method, path, body);
    for (name, value) in headers.pairs() {
        request = request.header(name, value);
    }
    request
}

/// What a request came to.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Of a refusal.
    code: String,
}

impl Answer {
    async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let status = response.status();
        let mut code = String::new();
        // What is not refused may never end.
        if !status.is_success() {
            let text = response.text().await.unwrap();
            let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            body["code"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut code);
        }
        Self {
            status: status.as_u16(),
            code,
        }
    }

    fn is_at_the_gate(&self) -> bool {
        AT_THE_GATE.contains(&self.code.as_str())
    }
}
