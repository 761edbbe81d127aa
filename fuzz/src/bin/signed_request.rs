//! The headers of a signed request, and the request that they are for.
//!
//! Lines: node, time, counter, signature, method, path; then the body.

#![no_main]

use opengpu_fuzz::{Seed, within};
use opengpu_protocol::SigningKey;
use opengpu_protocol::signing::{
    COUNTER_HEADER, INTEGER_LIMIT, NODE_HEADER, SIGNATURE_HEADER, SignedHeaders, TIME_HEADER,
    is_public_key, public_key, sign,
};
use opengpu_rounds::{Hash, NodeId};

opengpu_fuzz::target!(seeds, attempt);

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn seeds() -> Vec<Seed> {
    let requests = [
        ("GET", "/v1/runs/1/history?lineage=0&after=12", &b""[..]),
        ("PUT", "/v1/workers/0", b"{}"),
        ("POST", "/v1/workers/5/report", b"{\"run\":1}"),
    ];
    let mut seeds = Vec::new();
    for (number, (method, path, body)) in requests.into_iter().enumerate() {
        let (time, counter) = (1_790_000_000_000, 1_790_000_000_000_000 + number as u64);
        let signed = sign(
            &key(),
            NodeId(42),
            method,
            path,
            &Hash::of(body),
            time,
            counter,
        );
        let mut text: Vec<u8> = Vec::new();
        for (_, value) in signed.pairs() {
            text.extend_from_slice(value.as_bytes());
            text.push(b'\n');
        }
        text.extend_from_slice(format!("{method}\n{path}\n").as_bytes());
        text.extend_from_slice(body);
        seeds.push((format!("request-{number}"), text));
    }
    seeds
}

fn attempt(bytes: &[u8]) {
    let mut parts = bytes.splitn(7, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(parts.next().unwrap_or_default()).ok();
    let headers =
        [NODE_HEADER, TIME_HEADER, COUNTER_HEADER, SIGNATURE_HEADER].map(|name| (name, text()));
    let (Some(method), Some(path)) = (text(), text()) else {
        return;
    };
    let body = Hash::of(parts.next().unwrap_or_default());
    let get = |name| headers.iter().find(|header| header.0 == name)?.1;
    let Ok(signed) = within(1024, || SignedHeaders::read(get)) else {
        return;
    };
    for (name, value) in signed.pairs() {
        assert_eq!(get(name), Some(&*value), "a header has one spelling");
    }
    for number in [signed.node.0, signed.unix_ms, signed.counter] {
        assert!(number < INTEGER_LIMIT);
    }
    for now in [0, signed.unix_ms, u64::MAX] {
        let _ = signed.check_clock(now);
    }

    // Nobody but the key's owner makes a signature, and for one request there is one.
    let most = 4 * (method.len() + path.len()) + 4096;
    if within(most, || {
        signed.verify(&public_key(&key()), method, path, &body)
    })
    .is_ok()
    {
        let ours = sign(
            &key(),
            signed.node,
            method,
            path,
            &body,
            signed.unix_ms,
            signed.counter,
        );
        assert_eq!(signed, ours, "a signature was forged");
    }
    // A key that a stranger chose.
    let mut chosen = Hash([0; 32]);
    chosen.0.copy_from_slice(&signed.signature[..32]);
    let verified = signed.verify(&chosen, method, path, &body).is_ok();
    assert!(!verified || is_public_key(&chosen), "a weak key verified");
    // A payload's address ends in its hash.
    if let Ok(hash) = path.rsplit('/').next().unwrap_or_default().parse::<Hash>() {
        assert_eq!(hash.to_string().parse(), Ok(hash));
    }
}
