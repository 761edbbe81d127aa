//! Who may what, as it is meant to be. Nothing here is read from the program: an endpoint that
//! is declared for others than these fails the tests, and so does one that isn't here.
//!
//! What an endpoint tells an operator is not narrowed: there is one, who may see everything. The
//! pages of the portal have a table of their own, in `crates/opengpu/tests/process/pages.rs`.

/// What a node can do to what another node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nothing of a single node is there, or no node is let in at all.
    Nothing,
    /// It is about the node that signs. The address can't name another.
    Signer,
    /// It can be named, and is refused with this code.
    Refused(&'static str),
}

use Others::{Nothing, Refused, Signer};

/// Method and path of an endpoint, whom it lets in, and what it does about other nodes.
///
/// Let in are: `a` anyone, who shows nothing, a wrong token or a forged signature; `p` a node
/// that waits for approval; `n` a node; `b` a node that is banned; `o` the operator.
pub type Case = (&'static str, &'static str, &'static str, Others);

/// One case for each endpoint.
pub const TABLE: &[Case] = &[
    // Whoever reaches the port. None of them tells of a single node, an account or a secret.
    ("GET", "/healthz", "apnbo", Nothing),
    ("GET", "/readyz", "apnbo", Nothing),
    ("GET", "/metrics", "apnbo", Nothing),
    ("GET", "/openapi.json", "apnbo", Nothing),
    ("POST", "/v1/hello", "apnbo", Nothing),
    // Whether it is admitted is for the policy and the token in the body to say.
    ("POST", "/v1/nodes", "apnbo", Nothing),
    // Nodes, about themselves.
    ("GET", "/v1/directives", "-pn--", Signer),
    ("GET", "/v1/keys", "--n--", Signer),
    // The proof in the body is made for the node that signs; `keys.rs` tries others.
    ("POST", "/v1/keys", "--n--", Signer),
    ("DELETE", "/v1/keys/{key}", "--n--", Refused("unknown_key")),
    ("POST", "/v1/claim-codes", "-pn--", Signer),
    ("GET", "/v1/standing", "-pnb-", Signer),
    ("POST", "/v1/appeals", "-pnb-", Refused("nothing_to_appeal")),
    ("PUT", "/v1/workers/{device}", "--n--", Signer),
    (
        "POST",
        "/v1/workers/{worker}/report",
        "--n--",
        Refused("not_your_worker"),
    ),
    // Nodes, about their work in a run.
    (
        "PUT",
        "/v1/runs/{run}/payloads/{hash}",
        "--n--",
        Refused("no_lease"),
    ),
    (
        "PUT",
        "/v1/runs/{run}/openings/{assignment}/{hash}",
        "--n--",
        Refused("no_such_audit"),
    ),
    (
        "PUT",
        "/v1/runs/{run}/audits/{number}/{hash}",
        "--n--",
        Refused("not_asked"),
    ),
    (
        "POST",
        "/v1/runs/{run}/audits/{number}",
        "--n--",
        Refused("not_asked"),
    ),
    (
        "POST",
        "/v1/runs/{run}/updates",
        "--n--",
        Refused("not_your_worker"),
    ),
    (
        "GET",
        "/v1/runs/{run}/updates/{assignment}",
        "--n--",
        Refused("not_your_worker"),
    ),
    // What all who take part may read. The ledger is made to be checked by all of them: it names
    // nodes by their numbers.
    ("GET", "/v1/runs/{run}", "--n-o", Nothing),
    ("GET", "/v1/runs/{run}/history", "--n-o", Nothing),
    ("GET", "/v1/blobs/{hash}", "--n-o", Refused("unknown_blob")),
    (
        "GET",
        "/v1/blobs/{hash}/manifest",
        "--n-o",
        Refused("unknown_blob"),
    ),
    ("GET", "/v1/runs/{run}/ledger", "--n-o", Nothing),
    ("GET", "/v1/runs/{run}/ledger/lines", "--n-o", Nothing),
    (
        "GET",
        "/v1/runs/{run}/ledger/receipts/{assignment}",
        "--n-o",
        Nothing,
    ),
    ("GET", "/v1/runs/{run}/ledger/consistency", "--n-o", Nothing),
    ("GET", "/v1/ledger/sums", "--n-o", Refused("names_people")),
    // The operator.
    ("POST", "/v1/ledger/rebuild", "----o", Nothing),
    ("GET", "/v1/runs", "----o", Nothing),
    ("POST", "/v1/runs", "----o", Nothing),
    ("POST", "/v1/runs/{run}/{action}", "----o", Nothing),
    ("POST", "/v1/runs/{run}/rollback", "----o", Nothing),
    ("POST", "/v1/runs/{run}/export", "----o", Nothing),
    ("POST", "/v1/runs/{run}/sample", "----o", Nothing),
    ("GET", "/v1/runs/{run}/log", "----o", Nothing),
    ("PUT", "/v1/blobs/{hash}", "----o", Nothing),
    ("GET", "/v1/datasets", "----o", Nothing),
    ("POST", "/v1/datasets", "----o", Nothing),
    ("GET", "/v1/datasets/{name}", "----o", Nothing),
    ("DELETE", "/v1/datasets/{name}", "----o", Nothing),
    ("GET", "/v1/nodes", "----o", Nothing),
    ("GET", "/v1/nodes/{node}", "----o", Nothing),
    ("GET", "/v1/nodes/{node}/keys", "----o", Nothing),
    ("DELETE", "/v1/nodes/{node}/keys/{key}", "----o", Nothing),
    ("POST", "/v1/nodes/{node}/{action}", "----o", Nothing),
    ("GET", "/v1/nodes/{node}/standing", "----o", Nothing),
    ("POST", "/v1/nodes/{node}/review", "----o", Nothing),
    ("POST", "/v1/tokens", "----o", Nothing),
    ("GET", "/v1/tokens", "----o", Nothing),
    ("DELETE", "/v1/tokens/{hash}", "----o", Nothing),
    ("GET", "/v1/accounts", "----o", Nothing),
    ("POST", "/v1/accounts", "----o", Nothing),
    ("PUT", "/v1/accounts/{account}/team", "----o", Nothing),
    ("DELETE", "/v1/accounts/{account}", "----o", Nothing),
    ("POST", "/v1/claims", "----o", Nothing),
];
