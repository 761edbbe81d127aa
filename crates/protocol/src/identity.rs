//! What goes over the wire about who somebody is: the keys of a node.

use opengpu_rounds::Hash;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/keys` (signed with a key that the node has): a further key for this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AddKey {
    /// Ed25519 public key, 64 hexadecimal digits.
    #[schema(value_type = String)]
    pub public_key: Hash,
    /// What [`prove`](crate::possession::prove) made with the new key, 128 hexadecimal digits.
    pub proof: String,
}

/// A key of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Ed25519 public key, 64 hexadecimal digits.
    #[schema(value_type = String)]
    pub public_key: Hash,
    /// How long ago it was added.
    pub age_seconds: u64,
    /// Whether requests signed with it are refused, for ever.
    pub revoked: bool,
}
