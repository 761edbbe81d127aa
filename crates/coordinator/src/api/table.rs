//! All endpoints.

use std::time::Duration;

use super::endpoint::{Access, BodyRule, Counts, Endpoint};
use super::{
    accounts, audits, blobs, datasets, directives, enrolment, keys, ledger, nodes, runs, standing,
    status, sums, tokens, updates, workers,
};

/// Bytes of a small JSON body.
const SMALL: usize = 16 * 1024;
/// Bytes of a run file or a dataset's manifest.
const LARGE: usize = 4 * 1024 * 1024;

/// For what waits for the trainer.
const LONG: Duration = Duration::from_secs(600);
/// For what is sent while it is answered; a stall ends it much earlier.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// All endpoints, by who calls them.
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = open();
    all.extend(agent());
    all.extend(shared());
    all.extend(ledgers());
    all.extend(operator_runs());
    all.extend(operator_rest());
    all.extend(operator_accounts());
    all
}

fn open() -> Vec<Endpoint> {
    use Access::Open;
    vec![
        Endpoint::get("/healthz", Open, status::healthy)
            .says("The process answers.")
            .counts(Counts::Nothing)
            .answers("text/plain"),
        Endpoint::get("/readyz", Open, status::ready)
            .says("All runs are folded and the database answers; 503 until then.")
            .counts(Counts::Probe)
            .answers("text/plain"),
        Endpoint::get("/metrics", Open, status::metrics)
            .says("Numbers for Prometheus, in the OpenMetrics format.")
            .counts(Counts::Probe)
            .answers("application/openmetrics-text"),
        Endpoint::get("/openapi.json", Open, status::openapi).says("This document."),
        Endpoint::post("/v1/hello", Open, enrolment::hello)
            .says("Agrees on a protocol version and tells the clock for signatures.")
            .reads("Hello", SMALL)
            .answers("Welcome"),
        Endpoint::post("/v1/nodes", Open, enrolment::enrol)
            .says("Admits a machine: by enrolment token or, where the operator lets it, without; it may have to wait for approval. The same key gets the same node again.")
            .counts(Counts::Enrolment)
            .reads("Enrol", SMALL)
            .answers("Enrolled"),
    ]
}

fn agent() -> Vec<Endpoint> {
    use Access::Node;
    vec![
        Endpoint::get("/v1/directives", Node, directives::stream)
            .says("All that this node should be doing: one `Plan` a line, at once, on every change and every few seconds. Never ends. Also for nodes that wait for approval.")
            .for_pending()
            .answers("application/x-ndjson"),
        Endpoint::get("/v1/keys", Node, keys::list)
            .says("The keys of this node, oldest first, with those that were revoked.")
            .answers("[KeyView]"),
        Endpoint::post("/v1/keys", Node, keys::add)
            .says("Adds a key to this node; the new key proves that it is there by a signature of its own.")
            .reads("AddKey", SMALL)
            .answers("[KeyView]"),
        Endpoint::delete("/v1/keys/{key}", Node, keys::revoke)
            .says("Revokes a key of this node for ever, but never its last.")
            .answers("[KeyView]"),
        Endpoint::post("/v1/claim-codes", Node, accounts::code)
            .says("A short code with which the operator gives this node to an account: good once, for 15 minutes, until the next one. Also for nodes that wait for approval.")
            .for_pending()
            .answers("ClaimCode"),
        Endpoint::get("/v1/standing", Node, standing::own)
            .says("How this node stands and what brought it there. Also for nodes that are banned or wait for approval.")
            .for_whoever_signs()
            .answers("StandingView"),
        Endpoint::post("/v1/appeals", Node, standing::appeal)
            .says("What the owner of this node says to a change of its standing, once for each. Also for nodes that are banned or wait for approval.")
            .for_whoever_signs()
            .reads("AppealRequest", SMALL)
            .answers("StandingView"),
        Endpoint::put("/v1/workers/{device}", Node, workers::offer)
            .says("A device of this node is ready to work; the same device is always the same worker.")
            .reads("Offer", SMALL)
            .answers("Offered"),
        Endpoint::post("/v1/workers/{worker}/report", Node, workers::report)
            .says("Sign of life, readiness, digest, speed and progress of a worker, every few seconds.")
            .reads("Report", SMALL)
            .answers("Reported"),
        Endpoint::put("/v1/runs/{run}/payloads/{hash}", Node, updates::payload)
            .says("Stores an update's payload after checking it: for a node that holds an assignment. The body may have as many bytes as the run's codec can make of its model. What is refused is in the ledger under the assignment that is named, or else the one that the node holds.")
            .asks(&["assignment"])
            .reads_bytes(BodyRule::Payload)
            .within(A_DAY),
        Endpoint::put(
            "/v1/runs/{run}/openings/{assignment}/{hash}",
            Node,
            updates::openings,
        )
        .says("Opens the chunks that the node's plan draws of an audited update of its own; the address ends in the BLAKE3 hash of the body.")
        .reads_bytes(BodyRule::Payload)
        .within(A_DAY),
        Endpoint::put("/v1/runs/{run}/audits/{number}/{hash}", Node, audits::answer)
            .says("What training another worker's assignment again gave, as the node's plan asks: the progress in the drawn chunks; the address ends in the BLAKE3 hash of the body.")
            .reads_bytes(BodyRule::Payload)
            .within(LONG),
        Endpoint::post("/v1/runs/{run}/audits/{number}", Node, audits::decline)
            .says("The node can't train again what its plan asks for; somebody else is asked.")
            .reads("AuditDeclined", SMALL),
        Endpoint::post("/v1/runs/{run}/updates", Node, updates::post)
            .says("Announces a stored payload as the update of an assignment. Repeating it is harmless.")
            .reads("UpdateNotice", SMALL)
            .answers("Verdict"),
        Endpoint::get("/v1/runs/{run}/updates/{assignment}", Node, updates::verdict)
            .says("What became of an update of this node.")
            .answers("Verdict"),
    ]
}

fn shared() -> Vec<Endpoint> {
    use Access::NodeOrOperator;
    vec![
        Endpoint::get("/v1/runs/{run}", NodeOrOperator, runs::view)
            .says("A run as its workers and watchers see it.")
            .answers("RunView"),
        Endpoint::get("/v1/runs/{run}/history", NodeOrOperator, runs::history)
            .says("How to get from a revision to the newest: merges in order, or a base checkpoint and the merges since. With `to`: how to make that revision from a checkpoint.")
            .asks(&["lineage", "after", "to"])
            .answers("History"),
        Endpoint::get("/v1/blobs/{hash}", NodeOrOperator, blobs::get)
            .says("A blob, or the part that `Range: bytes=` names.")
            .answers("application/octet-stream"),
        Endpoint::get("/v1/blobs/{hash}/manifest", NodeOrOperator, blobs::manifest)
            .says("Size of a blob and the BLAKE3 hash of each MiB, so that parts are verified as they arrive.")
            .answers("BlobManifest"),
    ]
}

fn ledgers() -> Vec<Endpoint> {
    use Access::NodeOrOperator;
    vec![
        Endpoint::get("/v1/runs/{run}/ledger", NodeOrOperator, ledger::head)
            .says("The signed head of a run's ledger, and the key that verifies it.")
            .answers("LedgerHead"),
        Endpoint::get("/v1/runs/{run}/ledger/lines", NodeOrOperator, ledger::lines)
            .says("Entries of a run's ledger from a number on, a line each, at most 1000.")
            .asks(&["first"])
            .answers("application/x-ndjson"),
        Endpoint::get(
            "/v1/runs/{run}/ledger/receipts/{assignment}",
            NodeOrOperator,
            ledger::receipt,
        )
        .says("The receipt for an accepted update, or with `code` for its rejection or correction with that code: its entry, and the proof that it is in the ledger.")
        .asks(&["code"])
        .answers("text/plain"),
        Endpoint::get(
            "/v1/runs/{run}/ledger/consistency",
            NodeOrOperator,
            ledger::consistency,
        )
        .says("A signed head, and the proof that it only appends to the first `older` entries.")
        .asks(&["older"])
        .answers("LedgerProof"),
        Endpoint::get("/v1/ledger/sums", NodeOrOperator, sums::sums)
            .says("What the ledgers, or that of one `run`, come to `by` node, run, day, account or team; the last two for the operator alone.")
            .asks(&["by", "run"])
            .answers("[LedgerSum]"),
        Endpoint::post("/v1/ledger/rebuild", Access::Operator, sums::rebuild)
            .says("Makes all sums again from the lines of the ledgers, and says how many were others.")
            .within(LONG)
            .answers("SumsRebuilt"),
    ]
}

fn operator_runs() -> Vec<Endpoint> {
    use Access::Operator;
    vec![
        Endpoint::get("/v1/runs", Operator, runs::list)
            .says("All runs, oldest first.")
            .answers("[RunView]"),
        Endpoint::post("/v1/runs", Operator, runs::create)
            .says("Makes a run from a run file, in phase Draft.")
            .reads("RunSpec", LARGE)
            .answers("RunView"),
        Endpoint::post("/v1/runs/{run}/{action}", Operator, runs::act)
            .says("Tells a run to `start`, `pause`, `resume` or `stop`.")
            .answers("RunView"),
        Endpoint::post("/v1/runs/{run}/rollback", Operator, runs::roll_back)
            .says("Takes a run back to a checkpointed revision, in a new lineage.")
            .reads("RollbackRequest", SMALL)
            .answers("RunView"),
        Endpoint::post("/v1/runs/{run}/export", Operator, runs::export)
            .says(
                "Writes the newest weights as a Hugging Face folder on the coordinator's machine. With `download=true` its files are also blobs for half an hour.",
            )
            .asks(&["download"])
            .within(LONG)
            .answers("Exported"),
        Endpoint::post("/v1/runs/{run}/sample", Operator, runs::sample)
            .says("Continues a text with the newest weights.")
            .reads("SampleRequest", 1024 * 1024)
            .within(LONG)
            .answers("Sampled"),
        Endpoint::get("/v1/runs/{run}/log", Operator, runs::log)
            .says("Decisions of a run after a sequence number, at most 1000.")
            .asks(&["after"])
            .answers("[LogEntry]"),
    ]
}

fn operator_rest() -> Vec<Endpoint> {
    use Access::Operator;
    vec![
        Endpoint::put("/v1/blobs/{hash}", Operator, blobs::put)
            .says("Stores a blob under its BLAKE3 hash.")
            .within(A_DAY)
            .reads_bytes(BodyRule::Streamed),
        Endpoint::get("/v1/datasets", Operator, datasets::list)
            .says("All datasets, by name.")
            .answers("[DatasetManifest]"),
        Endpoint::post("/v1/datasets", Operator, datasets::add)
            .says("Adds a dataset whose blobs were stored before.")
            .reads("DatasetManifest", LARGE)
            .answers("DatasetManifest"),
        Endpoint::get("/v1/datasets/{name}", Operator, datasets::get)
            .says("One dataset.")
            .answers("DatasetManifest"),
        Endpoint::delete("/v1/datasets/{name}", Operator, datasets::remove)
            .says("Removes a dataset that no run in progress uses."),
        Endpoint::get("/v1/nodes", Operator, nodes::list)
            .says("All nodes.")
            .answers("[NodeView]"),
        Endpoint::get("/v1/nodes/{node}", Operator, nodes::view)
            .says("One node.")
            .answers("NodeView"),
        Endpoint::get("/v1/nodes/{node}/keys", Operator, keys::list_of)
            .says("The keys of a node, oldest first, with those that were revoked.")
            .answers("[KeyView]"),
        Endpoint::delete("/v1/nodes/{node}/keys/{key}", Operator, keys::revoke_of)
            .says("Revokes a key of a node for ever; a node without keys must enrol anew.")
            .answers("[KeyView]"),
        Endpoint::post("/v1/nodes/{node}/{action}", Operator, nodes::act)
            .says("Tells a node's place: `approve`, `drain`, `quarantine`, `ban` or `restore`, and whether the operator vouches for it: `vouch` or `distrust`. The body, with a reason for the node's owner, may be missing.")
            .reads("ActionReason", SMALL)
            .answers("NodeView"),
        Endpoint::get("/v1/nodes/{node}/standing", Operator, standing::of)
            .says("How a node stands and what brought it there, with appeals.")
            .answers("StandingView"),
        Endpoint::post("/v1/nodes/{node}/review", Operator, standing::review)
            .says("Answers what is held against a node: it stays, or it was wrong. Then the node stands as before, and has the credit again that a failed audit took.")
            .reads("ReviewRequest", SMALL)
            .answers("NodeView"),
        Endpoint::post("/v1/tokens", Operator, tokens::make)
            .says("Makes an enrolment token; it is shown only once.")
            .reads("TokenRequest", SMALL)
            .answers("TokenMade"),
        Endpoint::get("/v1/tokens", Operator, tokens::list)
            .says("All enrolment tokens, oldest first, each by its hash.")
            .answers("[TokenView]"),
        Endpoint::delete("/v1/tokens/{hash}", Operator, tokens::revoke)
            .says("Revokes an enrolment token. Machines that it admitted stay."),
    ]
}

fn operator_accounts() -> Vec<Endpoint> {
    use Access::Operator;
    vec![
        Endpoint::get("/v1/accounts", Operator, accounts::list)
            .says("All accounts, oldest first, with their nodes.")
            .answers("[AccountView]"),
        Endpoint::post("/v1/accounts", Operator, accounts::create)
            .says("Makes an account.")
            .reads("AccountRequest", SMALL)
            .answers("AccountView"),
        Endpoint::put("/v1/accounts/{account}/team", Operator, accounts::team)
            .says("Says which team an account is of; sums by team go by it, those of days before as well.")
            .reads("TeamRequest", SMALL)
            .answers("AccountView"),
        Endpoint::delete("/v1/accounts/{account}", Operator, accounts::erase)
            .says("Erases an account. Its nodes stay and belong to nobody."),
        Endpoint::post("/v1/claims", Operator, accounts::claim)
            .says("Gives the node that showed this code to an account.")
            .reads("Claim", SMALL)
            .answers("NodeView"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a target in `fuzz/src/bin` tries, by its name.
    fn kinds(target: &'static str) -> Vec<&'static str> {
        let list = target.split_once("const KINDS: &[Kind] = &[");
        let list = list.and_then(|(_, list)| list.split_once("\n];"));
        let (list, _) = list.expect("the target lists what it tries");
        let items = list.split("\n    (").skip(1);
        let name = |item: &'static str| item.split('"').nth(1);
        items.map(|item| name(item).expect("a name")).collect()
    }

    #[test]
    fn everything_that_is_read_or_answered_is_fuzzed() {
        let to_coordinator = kinds(include_str!("../../../../fuzz/src/bin/to_coordinator.rs"));
        let to_agent = kinds(include_str!("../../../../fuzz/src/bin/to_agent.rs"));
        let parameters = kinds(include_str!("../../../../fuzz/src/bin/parameters.rs"));
        let mut missing = Vec::new();
        for endpoint in endpoints() {
            let mut need = |name: &'static str, kinds: &[&str], target: &str| {
                // These have targets of their own (`payload`, `openings`, `again`, `ledger`,
                // `directives`), or nobody here reads them.
                let media_types = [
                    "application/json",
                    "application/octet-stream",
                    "application/openmetrics-text",
                    "application/x-ndjson",
                    "text/plain",
                ];
                if !media_types.contains(&name) && !kinds.contains(&name) {
                    missing.push(format!("{target} does not try {name}"));
                }
            };
            if let Some(request) = endpoint.request {
                need(request, &to_coordinator, "to_coordinator");
            }
            need(endpoint.answer, &to_agent, "to_agent");
            if !endpoint.query.is_empty() {
                need(endpoint.path, &parameters, "parameters");
            }
        }
        assert_eq!(missing, [""; 0], "fuzz/src/bin");
    }
}
