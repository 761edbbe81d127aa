//! Enrolment tokens as operator and machines meet them.

use std::time::Duration;

use opengpu_protocol::operator::{TokenMade, TokenRequest, TokenState, TokenView};
use opengpu_protocol::signing::public_key;
use opengpu_protocol::wire::{Enrol, Enrolled, Machine};
use opengpu_protocol::{Client, ClientError};
use opengpu_rounds::Hash;

use super::support::{Server, code, key};

async fn made(server: &Server, uses: u32, expires_in_seconds: Option<u64>) -> TokenMade {
    let request = TokenRequest {
        label: "friends".into(),
        uses,
        expires_in_seconds,
    };
    server.operator().make_token(&request).await.unwrap()
}

async fn enrol(server: &Server, token: &TokenMade, seed: u8) -> Result<Enrolled, ClientError> {
    let enrol = Enrol {
        token: Some(token.token.clone()),
        public_key: public_key(&key(seed)),
        name: "machine".into(),
        machine: Machine::default(),
    };
    Client::anonymous(&server.url).unwrap().enrol(&enrol).await
}

async fn listed(server: &Server, token: &TokenMade) -> TokenView {
    let tokens = server.operator().tokens().await.unwrap();
    let found = tokens.into_iter().find(|known| known.hash == token.hash);
    found.unwrap()
}

#[tokio::test]
async fn a_token_admits_until_its_time_is_over_and_says_so_then() {
    let server = Server::start().await;
    let short = made(&server, 5, Some(1)).await;
    let node = enrol(&server, &short, 1).await.unwrap().node;
    assert_eq!(listed(&server, &short).await.state, TokenState::Open);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let error = enrol(&server, &short, 2).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    assert_eq!(error.code(), Some("token_expired"));
    let view = listed(&server, &short).await;
    assert_eq!(view.state, TokenState::Expired);
    assert_eq!((view.used, view.uses), (1, Some(5)));
    assert_eq!(view.expires_in_seconds, Some(0));
    // Whose answer was lost still learns which node it is.
    assert_eq!(enrol(&server, &short, 1).await.unwrap().node, node);
}

#[tokio::test]
async fn a_revoked_token_admits_nobody_and_its_machines_stay() {
    let server = Server::start().await;
    let token = made(&server, 5, Some(3600)).await;
    let node = enrol(&server, &token, 1).await.unwrap().node;
    let operator = server.operator();
    operator.revoke_token(token.hash).await.unwrap();
    operator.revoke_token(token.hash).await.unwrap();
    assert_eq!(code(enrol(&server, &token, 2).await), "token_revoked");
    assert_eq!(listed(&server, &token).await.state, TokenState::Revoked);
    assert_eq!(operator.node_view(node).await.unwrap().state, "active");
    let unknown = operator.revoke_token(Hash::of(b"guess")).await;
    assert_eq!(code(unknown), "unknown_token");
}

#[tokio::test]
async fn the_token_of_this_machine_is_made_anew_after_it_was_revoked() {
    let server = Server::start().await;
    let file = opengpu_coordinator::JOIN_TOKEN;
    let read = |server: &Server| std::fs::read_to_string(server.home.path().join(file)).unwrap();
    let first = read(&server);
    let tokens = server.operator().tokens().await.unwrap();
    assert_eq!(tokens[0].label, "this machine");
    assert_eq!((tokens[0].uses, tokens[0].expires_in_seconds), (None, None));
    assert_eq!(tokens[0].hash, Hash::of(first.trim().as_bytes()));
    server
        .operator()
        .revoke_token(tokens[0].hash)
        .await
        .unwrap();
    let server = server.restart().await;
    assert_ne!(read(&server), first);
    server.enrol(&key(1), "attic").await;
}

#[tokio::test]
async fn a_token_of_no_use_is_not_made() {
    let server = Server::start().await;
    for (uses, seconds) in [(0, None), (1, Some(0)), (1, Some(u64::MAX))] {
        let request = TokenRequest {
            label: "friends".into(),
            uses,
            expires_in_seconds: seconds,
        };
        let refused = server.operator().make_token(&request).await;
        assert_eq!(code(refused), "bad_token_request", "{request:?}");
    }
}
