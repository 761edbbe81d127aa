//! Who says to be somebody else: signatures forged, replayed and of another node, and tokens
//! that are none.

use std::sync::Arc;

use opengpu_coordinator::api::endpoint::Access;
use opengpu_protocol::SigningKey;
use opengpu_protocol::signing::public_key;
use opengpu_rounds::Hash;
use tokio::task::JoinSet;

use super::attacker::{Attacker, Request, unix_ms};
use super::bodies::Body;
use super::targets::Target;

/// A token that is none; no log may show what somebody tried.
pub const GUESS: &str = "guessed-token-0123456789abcdef0123456789abcdef";

const HOUR_MS: u64 = 3_600_000;

/// Sends all of them to all targets.
pub async fn attack(attacker: &Arc<Attacker>) {
    let mut sending = JoinSet::new();
    let none = Body::none();
    for target in &attacker.targets {
        for credentials in forged(attacker, target) {
            let request = Request::new(target, &credentials, &none);
            attacker.send(&mut sending, request).await;
        }
    }
    while sending.join_next().await.is_some() {}
}

fn forged(attacker: &Attacker, target: &Target) -> Vec<String> {
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
    let mut all = vec![
        format!("opengpu-key: {}\r\n{victims}", public_key(&stranger)),
        victims,
        attacker.signature(&stranger, node, target, &nothing, now),
        attacker.signature(key, node, target, &nothing, now - HOUR_MS),
        attacker.signature(key, node, target, &nothing, now + HOUR_MS),
        attacker.signature(key, node, target, &Hash::of(b"other"), now),
        attacker.signature(key, node, &elsewhere, &nothing, now),
        mine.replace("opengpu-node: ", "opengpu-node: 9"),
        mine.replace("opengpu-counter: ", "opengpu-counter: 00"),
        format!("opengpu-signature: {}\r\n", "f".repeat(20_000)),
        format!("Authorization: Bearer {GUESS}\r\n"),
        "Authorization: Bearer \r\n".to_owned(),
        format!("Authorization: Basic {GUESS}\r\n"),
    ];
    // Twice the same. What is meant for a node succeeds the first time, so only what can't do
    // harm is sent.
    if target.access != Access::Open && target.method == "GET" {
        all.extend([mine.clone(), mine]);
    }
    all
}
