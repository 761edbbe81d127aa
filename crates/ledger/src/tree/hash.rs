//! Hashes of leaves and nodes, with the prefixes that keep one from being taken for the other.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 hash in the tree, written in base64 (44 characters). Of another type than
/// [`Hash`](opengpu_rounds::Hash), which is BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreeHash(pub [u8; 32]);

/// Root of the tree without leaves: SHA-256 of nothing.
pub const EMPTY_ROOT: TreeHash = TreeHash([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// SHA-256(0x00 ‖ line).
pub fn leaf_hash(line: &[u8]) -> TreeHash {
    TreeHash(
        Sha256::new()
            .chain_update([0])
            .chain_update(line)
            .finalize()
            .into(),
    )
}

/// SHA-256(0x01 ‖ left ‖ right).
pub(super) fn node_hash(left: TreeHash, right: TreeHash) -> TreeHash {
    let hasher = Sha256::new().chain_update([1]);
    TreeHash(
        hasher
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// A text that is not 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash of the tree is 32 bytes in base64: 44 characters")]
pub struct NotATreeHash;

impl std::str::FromStr for TreeHash {
    type Err = NotATreeHash;
    fn from_str(text: &str) -> Result<Self, NotATreeHash> {
        if text.len() != 44 {
            return Err(NotATreeHash);
        }
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| NotATreeHash)?;
        bytes.try_into().map(Self).map_err(|_| NotATreeHash)
    }
}

impl std::fmt::Display for TreeHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl std::fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for TreeHash {
    type Error = NotATreeHash;
    fn try_from(text: String) -> Result<Self, NotATreeHash> {
        text.parse()
    }
}

impl From<TreeHash> for String {
    fn from(hash: TreeHash) -> Self {
        hash.to_string()
    }
}
