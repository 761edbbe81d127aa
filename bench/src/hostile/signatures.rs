//! Who says to be somebody else: signatures forged, replayed and of another node, and tokens
//! that are none.

use std::sync::Arc;

use opengpu_coordinator::api::endpoint::{Access, BodyRule};
use opengpu_protocol::SigningKey;
use opengpu_protocol::signing::public_key;
use opengpu_rounds::Hash;
use tokio::task::JoinSet;

use super::attacker::{Attacker, Request, unix_ms};
use super::bodies::Body;
use super::tally::Must;
use super::targets::Target;

/// A token that is none; no log may show what somebody tried.
pub const GUESS: &str = "guessed-token-0123456789abcdef0123456789abcdef";

const HOUR_MS: u64 = 3_600_000;

/// Sends all of them to all targets.
pub async fn attack(attacker: &Arc<Attacker>) {
    let mut sending = JoinSet::new();
    let none = Body::none();
    for target in &attacker.targets {
        // What is open to everyone looks at no signature.
        let must = match target.access {
            Access::Open => Must::BeNoFault,
            Access::Node | Access::Operator | Access::NodeOrOperator => Must::BeRefused,
        };
        for (what, credentials) in forged(attacker, target) {
            let request = Request::new(target, &credentials, &none).named(what);
            attacker.send(&mut sending, must, request).await;
        }
        if matches!(target.access, Access::Node | Access::NodeOrOperator) {
            replay(attacker, &mut sending, target, &none).await;
        }
    }
    for (target, body) in taken() {
        replay(attacker, &mut sending, &target, &body).await;
    }
    while sending.join_next().await.is_some() {}
}

/// Sends a request that is signed well, and then the same again: whether the first was taken or
/// not, its counter is used up.
async fn replay(attacker: &Arc<Attacker>, sending: &mut JoinSet<()>, target: &Target, body: &Body) {
    let mine = attacker.credentials(target, &body.bytes);
    let first = Request::new(target, &mine, body).named("signed");
    let again = Request::new(target, &mine, body).named("replayed");
    attacker.send_before(sending, first, again).await;
}

/// Requests that change something and are taken the first time.
fn taken() -> Vec<(Target, Body)> {
    let target = |method: &str, path: &str, body| Target {
        method: method.to_owned(),
        path: path.to_owned(),
        access: Access::Node,
        body,
        is_page: false,
    };
    let offer = r#"{"trainer":"hostile","device":"none","numerics_class":"none"}"#;
    vec![
        (
            target("PUT", "/v1/workers/1", BodyRule::Json(offer.len())),
            Body::whole("an offer", offer),
        ),
        (
            target("POST", "/v1/claim-codes", BodyRule::Empty),
            Body::none(),
        ),
    ]
}

fn forged(attacker: &Attacker, target: &Target) -> Vec<(&'static str, String)> {
    let nothing = Hash::of(b"");
    let now = unix_ms();
    let (key, node) = (&attacker.key, attacker.node);
    let stranger = SigningKey::from_bytes(&[0x77; 32]);
    let elsewhere = Target {
        path: "/v1/keys".to_owned(),
        method: "OPTIONS".to_owned(),
        ..target.clone()
    };
    let victims = attacker.signature(key, attacker.victim, target, &nothing, now);
    let mine = attacker.signature(key, node, target, &nothing, now);
    vec![
        (
            "with a key that is nobody's",
            format!("opengpu-key: {}\r\n{victims}", public_key(&stranger)),
        ),
        ("as another node", victims),
        (
            "by another key",
            attacker.signature(&stranger, node, target, &nothing, now),
        ),
        (
            "of an hour ago",
            attacker.signature(key, node, target, &nothing, now - HOUR_MS),
        ),
        (
            "of an hour to come",
            attacker.signature(key, node, target, &nothing, now + HOUR_MS),
        ),
        (
            "of another body",
            attacker.signature(key, node, target, &Hash::of(b"other"), now),
        ),
        (
            "of another address",
            attacker.signature(key, node, &elsewhere, &nothing, now),
        ),
        (
            "with another node's number",
            mine.replace("opengpu-node: ", "opengpu-node: 9"),
        ),
        (
            "with a counter that is spelt otherwise",
            mine.replace("opengpu-counter: ", "opengpu-counter: 00"),
        ),
        (
            "with an endless signature",
            format!("opengpu-signature: {}\r\n", "f".repeat(20_000)),
        ),
        (
            "with a guessed token",
            format!("Authorization: Bearer {GUESS}\r\n"),
        ),
        ("with no token", "Authorization: Bearer \r\n".to_owned()),
        (
            "with a token of another kind",
            format!("Authorization: Basic {GUESS}\r\n"),
        ),
    ]
}
