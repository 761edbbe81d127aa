//! The ledger of each run: lines that are only ever appended, in the transaction of the events
//! that they follow from, the hashes of the tree over them, and what they come to.

use opengpu_ledger::tree::{Frontier, PlanError, ProofPlan, TreeHash};
use opengpu_ledger::{Entry, append};
use opengpu_rounds::{AssignmentId, NodeId, RunId};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::entities::{ledger_entry, ledger_hash};
use super::sums::add_to_sums;
use super::{ROWS_PER_STATEMENT, Result, Store, StoreError, from_db, to_db};

/// A line of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    /// Its number, from 0.
    pub number: u64,
    /// Whose work it is about.
    pub node: NodeId,
    /// The entry, as its bytes are hashed.
    pub line: String,
}

impl Store {
    /// How many entries the ledger of a run has.
    pub async fn ledger_size(&self, run: RunId) -> Result<u64> {
        size(&self.reader, to_db(run.0)?).await
    }

    /// At most `limit` lines from number `first` on, in order.
    pub async fn ledger_lines(
        &self,
        run: RunId,
        first: u64,
        limit: u64,
    ) -> Result<Vec<LedgerLine>> {
        let rows = ledger_entry::Entity::find()
            .filter(ledger_entry::Column::Run.eq(to_db(run.0)?))
            .filter(ledger_entry::Column::Number.gte(to_db(first)?))
            .order_by_asc(ledger_entry::Column::Number)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(line).collect())
    }

    /// The lines about one assignment, oldest first.
    pub async fn ledger_of(&self, run: RunId, assignment: AssignmentId) -> Result<Vec<LedgerLine>> {
        let rows = ledger_entry::Entity::find()
            .filter(ledger_entry::Column::Run.eq(to_db(run.0)?))
            .filter(ledger_entry::Column::Assignment.eq(to_db(assignment.0)?))
            .order_by_asc(ledger_entry::Column::Number)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(line).collect())
    }

    /// The right edge of the tree over the first `size` entries.
    pub async fn ledger_frontier(&self, run: RunId, size: u64) -> Result<Frontier> {
        frontier(&self.reader, to_db(run.0)?, size).await
    }

    /// The hashes that a proof is made of.
    pub async fn ledger_proof(&self, run: RunId, plan: &ProofPlan) -> Result<Vec<TreeHash>> {
        let hashes = hashes(&self.reader, to_db(run.0)?, plan.indexes()).await?;
        plan.fill(&hashes).map_err(damaged)
    }
}

/// Appends entries to the ledger of a run. The caller holds the run's row, so that nobody
/// else appends at the same time. Returns the number of the first.
pub(super) async fn insert_entries(
    tx: &impl ConnectionTrait,
    run: i64,
    entries: &[Entry],
) -> Result<u64> {
    if entries.is_empty() {
        return Ok(0);
    }
    let size = size(tx, run).await?;
    let mut frontier = frontier(tx, run, size).await?;
    let (mut lines, mut stored) = (Vec::new(), Vec::new());
    for entry in entries {
        let appended = append(&mut frontier, entry).map_err(StoreError::Entry)?;
        lines.push(ledger_entry::ActiveModel {
            run: Set(run),
            number: Set(to_db(appended.index)?),
            node: Set(to_db(entry.node.0)?),
            assignment: Set(to_db(entry.assignment.0)?),
            line: Set(appended.line),
        });
        for (number, hash) in appended.hashes {
            stored.push(ledger_hash::ActiveModel {
                run: Set(run),
                number: Set(to_db(number)?),
                hash: Set(hash.to_string()),
            });
        }
    }
    for lines in lines.chunks(ROWS_PER_STATEMENT) {
        ledger_entry::Entity::insert_many(lines.to_vec())
            .exec_without_returning(tx)
            .await?;
    }
    for stored in stored.chunks(ROWS_PER_STATEMENT) {
        ledger_hash::Entity::insert_many(stored.to_vec())
            .exec_without_returning(tx)
            .await?;
    }
    add_to_sums(tx, run, entries).await?;
    Ok(size)
}

/// How many entries the ledger of a run has.
pub(super) async fn size(database: &impl ConnectionTrait, run: i64) -> Result<u64> {
    let last: Option<i64> = ledger_entry::Entity::find()
        .select_only()
        .column(ledger_entry::Column::Number)
        .filter(ledger_entry::Column::Run.eq(run))
        .order_by_desc(ledger_entry::Column::Number)
        .limit(1)
        .into_tuple()
        .one(database)
        .await?;
    Ok(last.map_or(0, |last| from_db(last) + 1))
}

async fn frontier(database: &impl ConnectionTrait, run: i64, size: u64) -> Result<Frontier> {
    let indexes = Frontier::stored_indexes(size).map_err(damaged)?;
    let hashes = hashes(database, run, &indexes).await?;
    Frontier::restore(size, hashes).map_err(damaged)
}

/// Stored hashes in the order of their indexes.
async fn hashes(
    database: &impl ConnectionTrait,
    run: i64,
    indexes: &[u64],
) -> Result<Vec<TreeHash>> {
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Result<Vec<i64>> = indexes.iter().map(|index| to_db(*index)).collect();
    let rows: Vec<(i64, String)> = ledger_hash::Entity::find()
        .select_only()
        .column(ledger_hash::Column::Number)
        .column(ledger_hash::Column::Hash)
        .filter(ledger_hash::Column::Run.eq(run))
        .filter(ledger_hash::Column::Number.is_in(numbers?))
        .into_tuple()
        .all(database)
        .await?;
    let known: std::collections::HashMap<u64, String> = rows
        .into_iter()
        .map(|(number, hash)| (from_db(number), hash))
        .collect();
    let hash = |index: &u64| {
        let text = known.get(index);
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| StoreError::Missing(format!("hash {index} of the ledger of run {run}")))
    };
    indexes.iter().map(hash).collect()
}

fn line(row: ledger_entry::Model) -> LedgerLine {
    LedgerLine {
        number: from_db(row.number),
        node: NodeId(from_db(row.node)),
        line: row.line,
    }
}

fn damaged(error: PlanError) -> StoreError {
    StoreError::Missing(format!("such tree over a ledger: {error}"))
}
