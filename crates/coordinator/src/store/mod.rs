//! What the coordinator must never forget, in a database: who takes part, which runs there
//! are, and every decision of every run.
//!
//! SQLite (a file in the home folder) by default, Postgres at scale, through the same
//! entities, migrations and statements. Two rules keep both alike:
//!
//! - The first statement of every writing transaction is a write that takes the lock it
//!   needs (the row of the run, the dataset, the token, the node or the account). SQLite then
//!   never has to turn a read lock into a write lock, which it refuses when somebody else wrote
//!   in between, and Postgres (read committed) sees the newest rows in every later statement.
//! - Whether a row was there is learned from the number of rows changed or from a unique
//!   index, never by reading first.
//!
//! Not here: bytes ([`crate::blobs`]), what an event means (`opengpu-rounds`), heartbeats and
//! progress (memory).

mod accounts;
mod appeals;
mod audit;
mod changes;
mod datasets;
mod entities;
mod events;
mod keys;
mod ledger;
mod measurements;
mod migrations;
mod nodes;
mod open;
mod runs;
mod snapshots;
mod standing;
mod sums;
mod tokens;
mod workers;

pub use accounts::{AccountError, AccountRecord};
pub use appeals::{AppealError, Review, ReviewError, STEPS};
pub use audit::AuditEntry;
pub use changes::{AppealRecord, ChangeRecord};
pub use datasets::DatasetError;
pub use events::{AppendError, EVENT_VERSION, OwnerEpoch, StoredEvent};
pub use keys::{KeyError, KeyRecord, MOST_KEYS, MOST_KEYS_EVER};
pub use ledger::LedgerLine;
pub use measurements::{RoundMetric, StoredEvaluation};
pub use nodes::{Admission, Admitted, EnrolError, NodeRecord, NodeState, UnknownState};
pub use runs::{CreateRunError, RunRecord};
pub use snapshots::Snapshot;
pub use standing::{Standing, TellError};
pub use sums::{Rebuilt, SumKey};
pub use tokens::{LOCAL_LABEL, TokenRecord};
pub use workers::WorkerRecord;

use sea_orm::{DatabaseConnection, DbErr};

/// The database. Cheap to clone; all clones share its connections.
#[derive(Clone)]
pub struct Store {
    /// For statements that change something. One connection with SQLite, which has one
    /// writer at a time anyway: its queue is here, where it is fair, and not in a busy loop.
    writer: DatabaseConnection,
    /// For statements that only read, so that a reader waits for no writer.
    reader: DatabaseConnection,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or is not there.
    #[error("the database failed")]
    Db(#[from] DbErr),
    /// The address names no database that this program knows.
    #[error(
        "`{0}` names no database; give a file, `sqlite:FILE` or `postgres://USER@HOST/DATABASE`"
    )]
    Address(String),
    /// A row holds what this program can't read: a newer program wrote it, or it is damaged.
    #[error(
        "{what} in the database can't be read; was the database written by a newer opengpu? Start that version or restore a backup"
    )]
    Unreadable {
        /// Which row.
        what: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The log of a run has a hole.
    #[error("event {expected} of run {run} is missing (found {found}); restore a backup")]
    Gap {
        /// Which run.
        run: u64,
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// An entry that no ledger takes.
    #[error("the entry can't be in a ledger")]
    Entry(#[source] opengpu_ledger::EntryError),
    /// A line of a ledger that is none.
    #[error("line {number} of the ledger of run {run} can't be read; restore a backup")]
    Line {
        /// Of which run.
        run: u64,
        /// Which line, from 0.
        number: u64,
        /// What is wrong with it.
        #[source]
        source: opengpu_ledger::LineError,
    },
    /// There is no such row.
    #[error("there is no {0}")]
    Missing(String),
    /// A number that no database holds exactly.
    #[error("{0} is more than 2^63 - 1 and can't be stored")]
    TooLarge(u64),
    /// A value that can't be written as JSON.
    #[error("{what} can't be written as JSON")]
    Unwritable {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Rows that go into one statement: far below the number of parameters any database allows.
const ROWS_PER_STATEMENT: usize = 500;

/// Answer of most functions here.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A number as the database holds it.
fn to_db(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| StoreError::TooLarge(number))
}

/// A number as it was before [`to_db`].
fn from_db(number: i64) -> u64 {
    // Only non-negative numbers are ever written.
    number.unsigned_abs()
}

fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|source| StoreError::Unwritable { what, source })
}

fn from_json<T: serde::de::DeserializeOwned>(
    text: &str,
    what: impl FnOnce() -> String,
) -> Result<T> {
    serde_json::from_str(text).map_err(|source| StoreError::Unreadable {
        what: what(),
        source,
    })
}

/// Milliseconds since 1970 by the system's clock: for people who read the rows, never for a
/// decision of a run.
fn unix_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

fn is_unique_violation(error: &DbErr) -> bool {
    matches!(
        error.sql_err(),
        Some(sea_orm::SqlErr::UniqueConstraintViolation(_))
    )
}
