//! The public key that opens a ledger's heads, as one line of text that also names the
//! ledger: a C2SP verifier key, `ORIGIN+ID+BASE64`.
//!
//! Whoever verifies must have this line from somewhere he trusts: it is the only thing that
//! is taken on trust.

use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use crate::{BadOrigin, Origin};

/// Signature type of plain Ed25519 in C2SP signed-note.
const ED25519: u8 = 1;

/// Longest text of a key: an origin, its id and 33 bytes in base64, with the two `+`.
const MAX_BYTES: usize = 255 + 1 + 8 + 1 + 44;

/// A ledger's name and the Ed25519 key that its heads are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    origin: Origin,
    key: VerifyingKey,
    id: [u8; 4],
}

/// Why a text is no verifier key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not of the form.
    #[error(
        "a verifier key has the form NAME+ID+KEY, an id of 8 hexadecimal digits and a key in base64"
    )]
    Form,
    /// The name is none.
    #[error("the verifier key's name is not possible")]
    Origin(#[source] BadOrigin),
    /// Signed by other means than plain Ed25519.
    #[error("the verifier key is of type {found}; ledgers are signed with type {ED25519}, Ed25519")]
    Algorithm {
        /// Its first byte.
        found: u8,
    },
    /// Not a point of the curve.
    #[error("the verifier key's 32 bytes are no Ed25519 key")]
    NotAKey,
    /// The three parts don't belong together.
    #[error("the verifier key's id is {found}; its name and key make {expected}")]
    WrongId {
        /// From name and key.
        expected: String,
        /// As written.
        found: String,
    },
}

impl VerifierKey {
    /// The key that opens the heads of `origin`.
    pub fn new(origin: Origin, key: VerifyingKey) -> Self {
        let hasher = Sha256::new().chain_update(origin.as_str());
        let hasher = hasher.chain_update([b'\n', ED25519]);
        let [a, b, c, d, ..]: [u8; 32] = hasher.chain_update(key.as_bytes()).finalize().into();
        Self {
            origin,
            key,
            id: [a, b, c, d],
        }
    }

    /// The ledger that it belongs to.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The Ed25519 key.
    pub(crate) fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// SHA-256(name ‖ newline ‖ 0x01 ‖ key), the first 4 bytes: says which key signed, and
    /// proves nothing.
    pub(crate) fn id(&self) -> [u8; 4] {
        self.id
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut typed = vec![ED25519];
        typed.extend_from_slice(self.key.as_bytes());
        let (id, typed) = (hexadecimal(self.id), BASE64_STANDARD.encode(typed));
        write!(f, "{}+{id}+{typed}", self.origin)
    }
}

impl std::str::FromStr for VerifierKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_BYTES {
            return Err(KeyError::Form);
        }
        // Base64 has a `+` of its own, so the parts are taken from the left.
        let (origin, rest) = text.split_once('+').ok_or(KeyError::Form)?;
        let (id, typed) = rest.split_once('+').ok_or(KeyError::Form)?;
        let origin = Origin::new(origin).map_err(KeyError::Origin)?;
        let typed = BASE64_STANDARD.decode(typed).map_err(|_| KeyError::Form)?;
        let (&found, bytes) = typed.split_first().ok_or(KeyError::Form)?;
        if found != ED25519 {
            return Err(KeyError::Algorithm { found });
        }
        let bytes = bytes.try_into().map_err(|_| KeyError::NotAKey)?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAKey)?;
        let key = Self::new(origin, key);
        let expected = hexadecimal(key.id);
        if id == expected {
            Ok(key)
        } else {
            let found = id.to_owned();
            Err(KeyError::WrongId { expected, found })
        }
    }
}

fn hexadecimal(id: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}
