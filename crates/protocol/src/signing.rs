//! Signed requests: how a node proves that a request is its own, fresh and whole.
//!
//! Every agent request but `hello` and enrolment carries four headers; the signature is
//! Ed25519 (RFC 8032, verified strictly) over
//!
//! ```text
//! METHOD \n path?query \n BLAKE3(body) in hex \n unix milliseconds \n counter \n node
//! ```
//!
//! A fifth header may name the key, for a node that has several; it is not signed, as the
//! signature fits one key only.
//!
//! Pure: keys, clocks and counters are arguments. Which counters were seen is kept by
//! [`ReplayWindow`](crate::ReplayWindow); keys are kept in files by the agent and in the
//! database by the coordinator.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use opengpu_rounds::{Hash, NodeId};

/// Header: the node's id.
pub const NODE_HEADER: &str = "opengpu-node";
/// Header: milliseconds since 1970 by the node's idea of the coordinator's clock.
pub const TIME_HEADER: &str = "opengpu-time";
/// Header: a number that only rises.
pub const COUNTER_HEADER: &str = "opengpu-counter";
/// Header: 128 hexadecimal digits.
pub const SIGNATURE_HEADER: &str = "opengpu-signature";
/// Header: the public key that signed, 64 hexadecimal digits. Without it all of the node's
/// keys are tried.
pub const KEY_HEADER: &str = "opengpu-key";
/// Answer header of a refusal: counters must be above this.
pub const COUNTER_FLOOR_HEADER: &str = "opengpu-counter-floor";
/// Answer header of a refusal: the coordinator's clock, milliseconds since 1970.
pub const CLOCK_HEADER: &str = "opengpu-clock";

/// Code of the refusal of a counter: the one refusal whose signature was good.
pub const COUNTER_TOO_LOW: &str = "counter_too_low";

/// Ids, times and counters stay below this, exact in every JSON reader and database.
pub const INTEGER_LIMIT: u64 = 1 << 53;

/// How far a request's time may be from the coordinator's clock.
pub const CLOCK_TOLERANCE_MS: u64 = 5 * 60 * 1000;

/// Longest method that is signed.
const METHOD_LIMIT: usize = 16;
/// Longest path with query that is signed.
pub const PATH_LIMIT: usize = 2048;

/// The four headers of a signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// Who signed.
    pub node: NodeId,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// Only rises.
    pub counter: u64,
    /// Over all of the request.
    pub signature: [u8; 64],
}

/// Why a request's signature does not admit it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// A header is missing or no number.
    #[error("the header {0} is missing or malformed; every agent request must be signed")]
    Malformed(&'static str),
    /// The method or path is longer than what is signed.
    #[error("the request line is longer than the {PATH_LIMIT} bytes that may be signed")]
    TooLong,
    /// The stored key is no Ed25519 key.
    #[error("the node's public key is no Ed25519 key; enrol again with a new one")]
    BadKey,
    /// The signature belongs to another key or another request.
    #[error("the signature does not fit the request and the node's key")]
    BadSignature,
    /// The key was the node's and is no longer.
    #[error(
        "this key of the node was revoked; sign with another of its keys, or enrol this machine anew"
    )]
    Revoked,
    /// The request's time is too far from the coordinator's.
    #[error(
        "the request's clock is {offset_ms} ms away from the coordinator's, more than the {CLOCK_TOLERANCE_MS} ms allowed; set the clock, or sign with the time in the header {CLOCK_HEADER}"
    )]
    Clock {
        /// Coordinator's minus request's.
        offset_ms: i64,
        /// The coordinator's.
        unix_ms: u64,
    },
    /// The counter was used before or is too old to tell.
    #[error("the counter {counter} was used before or is too low; sign with one above {floor}")]
    Replayed {
        /// What came.
        counter: u64,
        /// What will do.
        floor: u64,
    },
}

impl SignatureRefusal {
    /// For [`ErrorBody::code`](crate::wire::ErrorBody).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "unsigned",
            Self::TooLong => "request_too_long",
            Self::BadKey => "bad_key",
            Self::BadSignature => "bad_signature",
            Self::Revoked => "key_revoked",
            Self::Clock { .. } => "clock_off",
            Self::Replayed { .. } => COUNTER_TOO_LOW,
        }
    }

    /// The answer headers with which a client mends itself.
    pub fn mending_header(&self) -> Option<(&'static str, u64)> {
        match self {
            Self::Clock { unix_ms, .. } => Some((CLOCK_HEADER, *unix_ms)),
            Self::Replayed { floor, .. } => Some((COUNTER_FLOOR_HEADER, *floor)),
            _ => None,
        }
    }
}

/// Signs a request. `path_and_query` is what stands in the request line, and `body` the hash
/// of the whole body (of no bytes, if there is none).
pub fn sign(
    key: &SigningKey,
    node: NodeId,
    method: &str,
    path_and_query: &str,
    body: &Hash,
    unix_ms: u64,
    counter: u64,
) -> SignedHeaders {
    let message = canonical(method, path_and_query, body, unix_ms, counter, node);
    let signature = key.sign(message.as_bytes()).to_bytes();
    SignedHeaders {
        node,
        unix_ms,
        counter,
        signature,
    }
}

impl SignedHeaders {
    /// Reads the headers through `get`, which looks a header up by its lower-case name.
    pub fn read<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, SignatureRefusal> {
        let number = |name: &'static str| {
            get(name)
                .and_then(portable_integer)
                .ok_or(SignatureRefusal::Malformed(name))
        };
        let signature = get(SIGNATURE_HEADER)
            .and_then(unhex)
            .ok_or(SignatureRefusal::Malformed(SIGNATURE_HEADER))?;
        Ok(Self {
            node: NodeId(number(NODE_HEADER)?),
            unix_ms: number(TIME_HEADER)?,
            counter: number(COUNTER_HEADER)?,
            signature,
        })
    }

    /// The key that the request names in [`KEY_HEADER`], if it names one.
    pub fn named_key<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Option<Hash>, SignatureRefusal> {
        let key = get(KEY_HEADER).map(str::parse).transpose();
        key.map_err(|_| SignatureRefusal::Malformed(KEY_HEADER))
    }

    /// The headers by name.
    pub fn pairs(&self) -> [(&'static str, String); 4] {
        [
            (NODE_HEADER, self.node.to_string()),
            (TIME_HEADER, self.unix_ms.to_string()),
            (COUNTER_HEADER, self.counter.to_string()),
            (SIGNATURE_HEADER, hex(&self.signature)),
        ]
    }

    /// Refuses a request whose time is too far from `now_unix_ms`. The cheapest check, to be
    /// made before the body is read.
    pub fn check_clock(&self, now_unix_ms: u64) -> Result<(), SignatureRefusal> {
        if now_unix_ms.abs_diff(self.unix_ms) <= CLOCK_TOLERANCE_MS {
            return Ok(());
        }
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let offset_ms = signed(now_unix_ms) - signed(self.unix_ms);
        Err(SignatureRefusal::Clock {
            offset_ms,
            unix_ms: now_unix_ms,
        })
    }

    /// Refuses a signature that `public_key` did not make over this very request. Says
    /// nothing about time and counter.
    pub fn verify(
        &self,
        public_key: &Hash,
        method: &str,
        path_and_query: &str,
        body: &Hash,
    ) -> Result<(), SignatureRefusal> {
        if method.len() > METHOD_LIMIT || path_and_query.len() > PATH_LIMIT {
            return Err(SignatureRefusal::TooLong);
        }
        let key = VerifyingKey::from_bytes(&public_key.0).map_err(|_| SignatureRefusal::BadKey)?;
        let message = canonical(
            method,
            path_and_query,
            body,
            self.unix_ms,
            self.counter,
            self.node,
        );
        key.verify_strict(message.as_bytes(), &Signature::from_bytes(&self.signature))
            .map_err(|_| SignatureRefusal::BadSignature)
    }
}

/// Whether these bytes are a public key that can be enrolled (an Ed25519 point, not one of
/// the few weak ones for which signatures prove nothing).
pub fn is_public_key(key: &Hash) -> bool {
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| !key.is_weak())
}

/// The public key as it goes over the wire.
pub fn public_key(key: &SigningKey) -> Hash {
    Hash(key.verifying_key().to_bytes())
}

fn canonical(
    method: &str,
    path_and_query: &str,
    body: &Hash,
    unix_ms: u64,
    counter: u64,
    node: NodeId,
) -> String {
    format!("{method}\n{path_and_query}\n{body}\n{unix_ms}\n{counter}\n{node}")
}

/// Digits only: no sign, no space, no leading zero, so that a number has one spelling.
fn portable_integer(text: &str) -> Option<u64> {
    let plain = text.len() <= 16
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    let value = if plain {
        text.parse().ok()?
    } else {
        return None;
    };
    (value < INTEGER_LIMIT).then_some(value)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing into a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 64]> {
    let text = text.as_bytes();
    if text.len() != 128 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 64];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    /// The whole way: sign, write headers, read headers, verify.
    fn round_trip(headers: &SignedHeaders) -> SignedHeaders {
        let pairs = headers.pairs();
        SignedHeaders::read(|name| {
            pairs
                .iter()
                .find(|pair| pair.0 == name)
                .map(|pair| pair.1.as_str())
        })
        .unwrap()
    }

    proptest! {
        #[test]
        fn a_request_verifies_and_any_changed_field_is_refused(
            seed in any::<u8>(),
            node in 0..INTEGER_LIMIT - 1,
            method in "GET|PUT|POST",
            path in "/v1/[a-z0-9/]{0,40}(\\?after=[0-9]{1,4})?",
            body in prop::collection::vec(any::<u8>(), 0..200),
            unix_ms in 0..INTEGER_LIMIT - 1,
            counter in 0..INTEGER_LIMIT - 1,
            flipped in 0..512_usize,
        ) {
            let hash = Hash::of(&body);
            let public = public_key(&key(seed));
            let signed = sign(&key(seed), NodeId(node), &method, &path, &hash, unix_ms, counter);
            let read = round_trip(&signed);
            prop_assert_eq!(&read, &signed);
            prop_assert_eq!(read.verify(&public, &method, &path, &hash), Ok(()));

            let refused = |headers: &SignedHeaders, key: &Hash, method: &str, path: &str, hash: &Hash| {
                headers.verify(key, method, path, hash).is_err()
            };
            let node = SignedHeaders { node: NodeId(node + 1), ..signed.clone() };
            prop_assert!(refused(&node, &public, &method, &path, &hash));
            let time = SignedHeaders { unix_ms: unix_ms + 1, ..signed.clone() };
            prop_assert!(refused(&time, &public, &method, &path, &hash));
            let count = SignedHeaders { counter: counter + 1, ..signed.clone() };
            prop_assert!(refused(&count, &public, &method, &path, &hash));
            let mut bits = signed.clone();
            bits.signature[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert!(refused(&bits, &public, &method, &path, &hash));
            prop_assert!(refused(&signed, &public_key(&key(seed.wrapping_add(1))), &method, &path, &hash));
            prop_assert!(refused(&signed, &public, "DELETE", &path, &hash));
            let elsewhere = format!("{path}/");
            prop_assert!(refused(&signed, &public, &method, &elsewhere, &hash));
            let mut longer = body.clone();
            longer.push(0);
            prop_assert!(refused(&signed, &public, &method, &path, &Hash::of(&longer)));
        }

        #[test]
        fn headers_of_any_text_are_read_or_refused_without_panic(
            number in "\\PC{0,20}", signature in "[0-9a-fA-F é]{0,140}",
        ) {
            let headers = SignedHeaders::read(|name| {
                Some(if name == SIGNATURE_HEADER { signature.as_str() } else { number.as_str() })
            });
            if let Ok(headers) = headers {
                let _ = headers.verify(&Hash([7; 32]), "GET", "/", &Hash::of(b""));
            }
        }
    }

    #[test]
    fn a_number_has_one_spelling() {
        for text in ["+1", "01", " 1", "1 ", "", "9007199254740992", "-1", "1e3"] {
            assert_eq!(portable_integer(text), None, "{text:?}");
        }
        assert_eq!(portable_integer("0"), Some(0));
        assert_eq!(
            portable_integer("9007199254740991"),
            Some(INTEGER_LIMIT - 1)
        );
    }

    #[test]
    fn a_clock_within_the_tolerance_passes_and_one_beyond_is_told_the_time() {
        let signed = sign(
            &key(1),
            NodeId(1),
            "GET",
            "/",
            &Hash::of(b""),
            1_000_000_000,
            1,
        );
        assert_eq!(
            signed.check_clock(1_000_000_000 + CLOCK_TOLERANCE_MS),
            Ok(())
        );
        assert_eq!(
            signed.check_clock(1_000_000_000 - CLOCK_TOLERANCE_MS),
            Ok(())
        );
        let refusal = signed
            .check_clock(1_000_000_001 + CLOCK_TOLERANCE_MS)
            .unwrap_err();
        assert_eq!(refusal.code(), "clock_off");
        assert_eq!(
            refusal.mending_header(),
            Some((CLOCK_HEADER, 1_000_000_001 + CLOCK_TOLERANCE_MS))
        );
    }

    #[test]
    fn the_weak_keys_cannot_be_enrolled() {
        assert!(!is_public_key(&Hash([0; 32])));
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(!is_public_key(&Hash(identity)));
        assert!(is_public_key(&public_key(&key(3))));
    }

    #[test]
    fn a_known_request_has_a_known_signature() {
        let signed = sign(
            &key(7),
            NodeId(42),
            "PUT",
            "/v1/workers/0?x=1",
            &Hash::of(b"{}"),
            1_700_000_000_000,
            5,
        );
        let text = canonical(
            "PUT",
            "/v1/workers/0?x=1",
            &Hash::of(b"{}"),
            1_700_000_000_000,
            5,
            NodeId(42),
        );
        assert_eq!(
            text,
            format!(
                "PUT\n/v1/workers/0?x=1\n{}\n1700000000000\n5\n42",
                blake3::hash(b"{}").to_hex()
            )
        );
        assert_eq!(hex(&signed.signature).len(), 128);
        assert_eq!(Hash::of(&signed.signature).to_string(), KNOWN);
    }

    /// BLAKE3 of the signature above; changes only when the protocol does.
    const KNOWN: &str = "620d42c3377a6b20120e2ad8055494e62e0dcc32762431b3aceb9ffcc5fd1da0";
}
