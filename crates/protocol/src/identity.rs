//! What goes over the wire about who somebody is: keys of nodes, accounts, and how a node comes
//! to an account.

use opengpu_rounds::{Hash, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Letters and digits of a [`ClaimCode`].
pub const CODE_LENGTH: usize = 8;

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

/// `POST /v1/accounts`: make an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountRequest {
    /// What its owner is called here, 1 to 100 characters.
    pub name: String,
    /// Name of the team that it is summed with, if any; as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
}

/// `PUT /v1/accounts/{account}/team`: which team an account is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamRequest {
    /// Its name, 1 to 100 characters; none: it is of no team.
    pub team: Option<String>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AccountView {
    /// Never given out twice.
    pub account: u64,
    /// What its owner is called here.
    pub name: String,
    /// The team that it is summed with.
    #[serde(default)]
    pub team: Option<String>,
    /// The nodes that belong to it.
    #[schema(value_type = Vec<u64>)]
    pub nodes: Vec<NodeId>,
    /// How long ago it was made.
    pub age_seconds: u64,
}

/// Answer to `POST /v1/claim-codes` (signed): with this the node can be claimed once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClaimCode {
    /// Eight letters and digits, to be told to the operator.
    pub code: String,
    /// How long it can be used, unless the node asks for another one.
    pub expires_in_seconds: u64,
}

/// `POST /v1/claims`: gives the node that showed a code to an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// As a person typed it: large or small, with or without dashes and spaces.
    pub code: String,
    /// Name of the account.
    pub account: String,
}

impl Claim {
    /// The code as it was given out. More than twice as much as a code is not looked at.
    pub fn plain_code(&self) -> String {
        let letters = self.code.chars().filter(|letter| letter.is_alphanumeric());
        letters
            .take(2 * CODE_LENGTH)
            .map(|letter| match letter.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                letter => letter,
            })
            .collect()
    }
}
