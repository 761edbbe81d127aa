//! What goes over the wire about ledgers: heads, proofs, and what they come to.

use serde::{Deserialize, Serialize};

/// `GET /v1/runs/{run}/ledger`: the head of a run's ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Entries in it.
    pub entries: u64,
    /// The head, a signed note.
    pub head: String,
    /// What verifies it: `NAME+ID+KEY`. Keep it from the day you join.
    pub key: String,
}

/// `GET /v1/runs/{run}/ledger/consistency?older=N`: a head of the same ledger, later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerProof {
    /// The head, a signed note.
    pub head: String,
    /// Hashes of the proof, in base64.
    pub proof: Vec<String>,
}

/// What is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SumsBy {
    /// Nodes.
    Node,
    /// Accounts, as nodes belong to them now.
    Account,
    /// Teams of accounts, likewise.
    Team,
    /// Runs.
    Run,
    /// Days in UTC. A correction counts on the day on which it was made.
    Day,
}

/// A word that is nothing to sum by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sums are by node, account, team, run or day")]
pub struct NotAKey;

impl SumsBy {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Account => "account",
            Self::Team => "team",
            Self::Run => "run",
            Self::Day => "day",
        }
    }
}

impl std::str::FromStr for SumsBy {
    type Err = NotAKey;
    fn from_str(word: &str) -> Result<Self, NotAKey> {
        let all = [Self::Node, Self::Account, Self::Team, Self::Run, Self::Day];
        let found = all.into_iter().find(|by| by.as_str() == word);
        found.ok_or(NotAKey)
    }
}

/// `GET /v1/ledger/sums?by=`: what some entries of the ledgers come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerSum {
    /// Number of the node or run, name of the account or team, or day (`2026-11-22`). None:
    /// nodes that belong to nobody, or to no team.
    pub of: Option<String>,
    /// Tokens credited: of accepted updates and of trainings again, with corrections.
    pub tokens: i64,
    /// Millions of floating-point operations credited, as the tokens are.
    pub megaflops: i64,
    /// Updates accepted.
    pub accepted: u64,
    /// Updates rejected: a line for each assignment and code.
    pub rejected: u64,
    /// Audits passed.
    pub audits_passed: u64,
    /// Audits failed.
    pub audits_failed: u64,
    /// Audits that could not tell.
    pub audits_undecided: u64,
    /// Corrections.
    pub corrections: u64,
    /// Assignments trained again for audits.
    #[serde(default)]
    pub trained_again: u64,
}

/// `POST /v1/ledger/rebuild`: what making the sums again found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SumsRebuilt {
    /// Lines of ledgers that were read.
    pub lines: u64,
    /// Sums that were not what the lines come to, and are now.
    pub differed: u64,
}
