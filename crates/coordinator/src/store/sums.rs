//! What the ledgers come to, by run, day and node, and from these by account and team.
//!
//! A cache: written in the transaction of the lines that it sums, and made again from the lines
//! alone by [`Store::rebuild_sums`]. Each line counts once in some row, so that a run whose rows
//! count other than its lines is noticed when the database is opened; then they are made again.
//! So is the whole cache of a database from before there was one.
//!
//! A line is below 2^53 in tokens and in millions of operations: rows are safe up to a thousand
//! lines of that size on one day of one node, and no real line is near it.

use std::collections::{BTreeMap, BTreeSet};

use opengpu_ledger::{Day, Entry, Sums, Totals, line};
use opengpu_rounds::{NodeId, RunId};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter,
    QueryOrder, QuerySelect, TransactionTrait, sea_query::Expr,
};

use super::entities::ledger_sum::{ActiveModel, Column, Entity, Model};
use super::entities::{ledger_entry, node, run};
use super::ledger::size;
use super::{ROWS_PER_STATEMENT, Result, Store, StoreError, from_db, to_db};

/// Lines that are read at once.
const PAGE: u64 = 2_000;

/// The columns that add up.
const COUNTED: [Column; 9] = [
    Column::Tokens,
    Column::Megaflops,
    Column::Accepted,
    Column::Rejected,
    Column::AuditsPassed,
    Column::AuditsFailed,
    Column::AuditsUndecided,
    Column::Corrections,
    Column::TrainedAgain,
];

/// A key, and its sums in the order of [`COUNTED`].
type SumRow = (i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);

/// Sums of a run, by node and day.
type Rows = BTreeMap<(NodeId, Day), Totals>;

/// What is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumKey {
    /// Nodes.
    Node,
    /// Runs.
    Run,
    /// Days in UTC, since 1 January 1970.
    Day,
}

/// What making the sums again found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Lines that were read.
    pub lines: u64,
    /// Sums that were not what the lines come to.
    pub differed: u64,
}

impl Store {
    /// Sums of all runs, or of one, by this key, in its order.
    pub async fn sums(&self, key: SumKey, of: Option<RunId>) -> Result<BTreeMap<u64, Totals>> {
        let column = match key {
            SumKey::Node => Column::Node,
            SumKey::Run => Column::Run,
            SumKey::Day => Column::Day,
        };
        let mut query = Entity::find().select_only().column(column);
        if let Some(run) = of {
            query = query.filter(Column::Run.eq(to_db(run.0)?));
        }
        for (counted, name) in COUNTED.into_iter().zip(NAMES) {
            // Some databases widen a sum to a decimal.
            query = query.column_as(counted.sum().cast_as("bigint"), name);
        }
        let rows: Vec<SumRow> = query
            .group_by(column)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let sums = rows.into_iter().map(|(key, a, b, c, d, e, f, g, h, i)| {
            let totals = totals_of([a, b, c, d, e, f, g, h, i]);
            (from_db(key), totals)
        });
        Ok(sums.collect())
    }

    /// Sums by account, or by team; None: of nodes that belong to nobody, or to an account of no
    /// team. Nodes count for those they belong to now.
    pub async fn sums_by_owner(
        &self,
        by_team: bool,
        of: Option<RunId>,
    ) -> Result<BTreeMap<Option<String>, Totals>> {
        let names = self.accounts().await?.into_iter();
        let names = names.map(|account| match by_team {
            true => (account.id, account.team),
            false => (account.id, Some(account.name)),
        });
        let names: BTreeMap<u64, Option<String>> = names.collect();
        let owners: Vec<(i64, Option<i64>)> = node::Entity::find()
            .select_only()
            .column(node::Column::Id)
            .column(node::Column::Account)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let owners: BTreeMap<u64, u64> = owners
            .into_iter()
            .filter_map(|(node, account)| Some((from_db(node), from_db(account?))))
            .collect();
        let mut sums: BTreeMap<Option<String>, Totals> = BTreeMap::new();
        for (node, totals) in self.sums(SumKey::Node, of).await? {
            let name = owners.get(&node).and_then(|account| names.get(account));
            let name = name.cloned().flatten();
            sums.entry(name).or_default().merge(&totals);
        }
        Ok(sums)
    }

    /// Sums of a run by node and day, in their order.
    pub async fn sum_rows(&self, run: RunId) -> Result<Vec<(NodeId, Day, Totals)>> {
        let rows = rows(&self.reader, to_db(run.0)?).await?.into_iter();
        Ok(rows
            .map(|((node, day), totals)| (node, day, totals))
            .collect())
    }

    /// Makes all sums again from the lines of the ledgers alone.
    pub async fn rebuild_sums(&self) -> Result<Rebuilt> {
        let mut all = Rebuilt::default();
        for run in run_ids(&self.reader).await? {
            let rebuilt = self.rebuild(run).await?;
            all.lines += rebuilt.lines;
            all.differed += rebuilt.differed;
        }
        Ok(all)
    }

    /// Makes the sums of those runs again whose rows do not count their lines.
    pub(super) async fn mend_sums(&self) -> Result<()> {
        for run in run_ids(&self.reader).await? {
            let lines = size(&self.reader, run).await?;
            let kept = rows(&self.reader, run).await?;
            if kept.values().map(Totals::entries).sum::<u64>() != lines {
                let rebuilt = self.rebuild(run).await?;
                tracing::info!(
                    run,
                    lines = rebuilt.lines,
                    differed = rebuilt.differed,
                    "sums were made again from the ledger"
                );
            }
        }
        Ok(())
    }

    async fn rebuild(&self, run: i64) -> Result<Rebuilt> {
        let tx = self.writer.begin().await?;
        // Takes the run's lock: nobody appends meanwhile.
        run::Entity::update_many()
            .col_expr(run::Column::Head, Expr::col(run::Column::Head))
            .filter(run::Column::Id.eq(run))
            .exec(&tx)
            .await?;
        let kept = rows(&tx, run).await?;
        let (lines, counted) = recount(&tx, run).await?;
        let keys: BTreeSet<_> = kept.keys().chain(counted.keys()).collect();
        let differs = |key: &&&(NodeId, Day)| kept.get(**key) != counted.get(**key);
        let differed = keys.iter().filter(differs).count() as u64;
        if differed == 0 {
            tx.rollback().await?;
            return Ok(Rebuilt { lines, differed });
        }
        Entity::delete_many()
            .filter(Column::Run.eq(run))
            .exec(&tx)
            .await?;
        let rows: Result<Vec<ActiveModel>> = counted
            .iter()
            .map(|((node, day), totals)| model(run, *node, *day, totals))
            .collect();
        for rows in rows?.chunks(ROWS_PER_STATEMENT) {
            Entity::insert_many(rows.to_vec())
                .exec_without_returning(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Rebuilt { lines, differed })
    }
}

/// Names of [`COUNTED`] in the answer of a sum.
const NAMES: [&str; 9] = [
    "tokens_sum",
    "megaflops_sum",
    "accepted_sum",
    "rejected_sum",
    "passed_sum",
    "failed_sum",
    "undecided_sum",
    "corrections_sum",
    "trained_again_sum",
];

/// Adds lines that are just appended. The caller holds the run's row.
pub(super) async fn add_to_sums(
    tx: &impl ConnectionTrait,
    run: i64,
    entries: &[Entry],
) -> Result<()> {
    let mut sums = Sums::new();
    entries.iter().for_each(|entry| sums.add(entry));
    for (node, day, totals) in sums.rows() {
        let mut more = Entity::update_many();
        for (column, number) in COUNTED.into_iter().zip(numbers_of(totals)?) {
            more = more.col_expr(column, Expr::col(column).add(number));
        }
        let found = more
            .filter(Column::Run.eq(run))
            .filter(Column::Day.eq(to_db(day.0)?))
            .filter(Column::Node.eq(to_db(node.0)?))
            .exec(tx)
            .await?;
        if found.rows_affected == 0 {
            Entity::insert(model(run, node, day, totals)?)
                .exec_without_returning(tx)
                .await?;
        }
    }
    Ok(())
}

/// The sums of a run as they are stored.
async fn rows(database: &impl ConnectionTrait, run: i64) -> Result<Rows> {
    let rows = Entity::find()
        .filter(Column::Run.eq(run))
        .all(database)
        .await?;
    let row = |row: Model| {
        let totals = totals_of([
            row.tokens,
            row.megaflops,
            row.accepted,
            row.rejected,
            row.audits_passed,
            row.audits_failed,
            row.audits_undecided,
            row.corrections,
            row.trained_again,
        ]);
        ((NodeId(from_db(row.node)), Day(from_db(row.day))), totals)
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The lines of a run and what they come to.
async fn recount(database: &impl ConnectionTrait, run: i64) -> Result<(u64, Rows)> {
    let mut sums = Sums::new();
    let mut next = 0;
    loop {
        let page: Vec<(i64, String)> = ledger_entry::Entity::find()
            .select_only()
            .column(ledger_entry::Column::Number)
            .column(ledger_entry::Column::Line)
            .filter(ledger_entry::Column::Run.eq(run))
            .filter(ledger_entry::Column::Number.gte(next))
            .order_by_asc(ledger_entry::Column::Number)
            .limit(PAGE)
            .into_tuple()
            .all(database)
            .await?;
        if page.is_empty() {
            let rows = sums
                .rows()
                .map(|(node, day, totals)| ((node, day), *totals));
            return Ok((from_db(next), rows.collect()));
        }
        for (number, text) in page {
            let entry = line::read(text.as_bytes()).map_err(|source| StoreError::Line {
                run: from_db(run),
                number: from_db(number),
                source,
            })?;
            sums.add(&entry);
            next = number + 1;
        }
    }
}

async fn run_ids(database: &impl ConnectionTrait) -> Result<Vec<i64>> {
    let runs = run::Entity::find()
        .select_only()
        .column(run::Column::Id)
        .order_by_asc(run::Column::Id)
        .into_tuple()
        .all(database)
        .await?;
    Ok(runs)
}

fn model(run: i64, node: NodeId, day: Day, totals: &Totals) -> Result<ActiveModel> {
    let [
        tokens,
        megaflops,
        accepted,
        rejected,
        passed,
        failed,
        undecided,
        corrections,
        trained_again,
    ] = numbers_of(totals)?;
    Ok(ActiveModel {
        run: Set(run),
        day: Set(to_db(day.0)?),
        node: Set(to_db(node.0)?),
        tokens: Set(tokens),
        megaflops: Set(megaflops),
        accepted: Set(accepted),
        rejected: Set(rejected),
        audits_passed: Set(passed),
        audits_failed: Set(failed),
        audits_undecided: Set(undecided),
        corrections: Set(corrections),
        trained_again: Set(trained_again),
    })
}

/// In the order of [`COUNTED`].
fn numbers_of(totals: &Totals) -> Result<[i64; 9]> {
    let wide = |number: i128| {
        let magnitude = u64::try_from(number.unsigned_abs()).unwrap_or(u64::MAX);
        i64::try_from(number).map_err(|_| StoreError::TooLarge(magnitude))
    };
    Ok([
        wide(totals.tokens)?,
        wide(totals.megaflops)?,
        to_db(totals.accepted)?,
        to_db(totals.rejected)?,
        to_db(totals.audits_passed)?,
        to_db(totals.audits_failed)?,
        to_db(totals.audits_undecided)?,
        to_db(totals.corrections)?,
        to_db(totals.trained_again)?,
    ])
}

fn totals_of(numbers: [i64; 9]) -> Totals {
    let [
        tokens,
        megaflops,
        accepted,
        rejected,
        passed,
        failed,
        undecided,
        corrections,
        trained_again,
    ] = numbers;
    Totals {
        tokens: tokens.into(),
        megaflops: megaflops.into(),
        accepted: from_db(accepted),
        rejected: from_db(rejected),
        audits_passed: from_db(passed),
        audits_failed: from_db(failed),
        audits_undecided: from_db(undecided),
        corrections: from_db(corrections),
        trained_again: from_db(trained_again),
    }
}
