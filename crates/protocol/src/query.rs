//! Parameters after the question mark of an address, by what they ask for.

use serde::Deserialize;

use crate::ledger::SumsBy;

/// `GET /v1/runs/{run}/history`: where a node is in the weights' history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct HistoryQuery {
    /// Lineage of the revision that it has.
    #[serde(default)]
    pub lineage: u32,
    /// Number of that revision.
    #[serde(default)]
    pub after: u64,
    /// The revision that is to be made, where it is not the newest.
    pub to: Option<u64>,
}

/// `GET /v1/runs/{run}/log`: where the log is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct LogQuery {
    /// The last sequence number that is known.
    #[serde(default)]
    pub after: u64,
}

/// `POST /v1/runs/{run}/export`: how an export is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct ExportQuery {
    /// Whether its files are to be blobs for a while.
    #[serde(default)]
    pub download: bool,
}

/// `PUT /v1/runs/{run}/payloads/{hash}`: what a payload is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PayloadQuery {
    /// The assignment; agents from before there were rejections in the ledger say nothing. Then it
    /// is the one that the node holds, if there is just one.
    pub assignment: Option<u64>,
}

/// `GET /v1/runs/{run}/ledger/lines`: where lines are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct LinesQuery {
    /// Index of the first.
    #[serde(default)]
    pub first: u64,
}

/// `GET /v1/runs/{run}/ledger/receipts/{assignment}`: which of an assignment's entries a receipt
/// is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReceiptQuery {
    /// The rejection with this code; the accepted update if absent.
    pub code: Option<String>,
}

/// `GET /v1/runs/{run}/ledger/consistency`: which older ledger a head is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsistencyQuery {
    /// How many entries it had.
    pub older: u64,
}

/// `GET /v1/ledger/sums`: what is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SumsQuery {
    /// By what.
    pub by: SumsBy,
    /// One run; all if absent.
    pub run: Option<u64>,
}
