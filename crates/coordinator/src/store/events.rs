//! The log of a run: appended by its owner only, read by everybody.

use opengpu_ledger::{Entry, EntryKind};
use opengpu_rounds::{AssignmentId, Event, EventKind, NodeId, RunId, WorkerId};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QueryOrder, QuerySelect, TransactionTrait, sea_query::Expr,
};

use super::appeals::{Review, ReviewError, answer};
use super::ledger::insert_entries;
use super::standing::{Audited, count_audits, suspect_left_out};
use super::{
    ROWS_PER_STATEMENT, Result, Store, StoreError,
    entities::{credit, event, run},
    from_db, from_json, to_db, unix_ms,
};

/// The form of stored events. It rises when a program that knows only the form before would
/// misread an event; fields that are only added do not raise it.
pub const EVENT_VERSION: u32 = 1;

/// Events read at once while a log is folded.
const PAGE: u64 = 2_000;

/// Which of a run's owners, counted from 1. Only the newest can append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerEpoch(pub u64);

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Counts from 1, gapless.
    pub seq: u64,
    /// What was decided.
    pub event: Event,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else owns the run now: drop its state and stop driving it.
    #[error("run {run} has a newer owner (epoch {}, this one was {})", by.0, epoch.0)]
    Fenced {
        /// Which run.
        run: RunId,
        /// The epoch that tried.
        epoch: OwnerEpoch,
        /// The newest epoch.
        by: OwnerEpoch,
    },
    /// The log is longer than the caller knows: read it again.
    #[error("the log of run {run} ends at {found}, not at {expected}")]
    Conflict {
        /// Which run.
        run: RunId,
        /// Where the caller thought that the log ends.
        expected: u64,
        /// Where it ends.
        found: u64,
    },
    /// The ledger's and the log's accepted updates of one append must be the same assignments
    /// and tokens.
    #[error(
        "the ledger's entries do not match the accepted updates: assignment {assignment} has {accepted:?} accepted and {credited:?} credited tokens"
    )]
    Credit {
        /// Of which update.
        assignment: AssignmentId,
        /// Tokens of its event.
        accepted: Option<u64>,
        /// Tokens of its credit.
        credited: Option<u64>,
    },
    /// An event that would read back as another (a number that is not finite, say).
    #[error("event {index} of the append does not read back as it was")]
    Unfaithful {
        /// Which of the events, from 0.
        index: usize,
    },
    /// An operator's answer that goes with the events can't be.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// The database failed. Whether the events were written is unknown: claim the run again
    /// and read its log.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for AppendError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Appends to a run's log, all or nothing, and returns the number of the last event.
    /// Refused unless the caller is the newest owner and knows the whole log. Entries of the
    /// ledger are written in the same transaction; those of accepted updates must be just
    /// those of the events, so that the ledger, the sums of credit derived from it and the log
    /// never differ.
    ///
    /// A blob that an event names must be durable before this is called.
    pub async fn append(
        &self,
        run: RunId,
        epoch: OwnerEpoch,
        expected_seq: u64,
        events: &[Event],
        entries: &[Entry],
    ) -> Result<u64, AppendError> {
        self.append_with(run, epoch, expected_seq, (events, entries), None)
            .await
    }

    /// The same with an operator's answer to what is held against a node, so that credit comes
    /// back just when its loss is found to have been wrong.
    pub async fn append_with(
        &self,
        run: RunId,
        epoch: OwnerEpoch,
        expected_seq: u64,
        (events, entries): (&[Event], &[Entry]),
        review: Option<&Review>,
    ) -> Result<u64, AppendError> {
        let credits: Vec<Credit> = entries.iter().filter_map(Credit::of).collect();
        check_credits(events, &credits)?;
        let encoded = Encoded::all(events)?;
        let id = to_db(run.0)?;
        let new_seq = expected_seq + events.len() as u64;

        let tx = self.writer.begin().await?;
        let mut head = run::Entity::update_many()
            .col_expr(run::Column::Head, Expr::value(to_db(new_seq)?))
            .filter(run::Column::Id.eq(id))
            .filter(run::Column::Epoch.eq(to_db(epoch.0)?))
            .filter(run::Column::Head.eq(to_db(expected_seq)?));
        if let Some(ended) = ends(events) {
            head = head.col_expr(run::Column::Ended, Expr::value(ended));
        }
        if head.exec(&tx).await?.rows_affected == 0 {
            let found = run::Entity::find_by_id(id).one(&tx).await?;
            tx.rollback().await?;
            let found = found.ok_or_else(|| StoreError::Missing(format!("run {run}")))?;
            let by = OwnerEpoch(from_db(found.epoch));
            return Err(if by == epoch {
                AppendError::Conflict {
                    run,
                    expected: expected_seq,
                    found: from_db(found.head),
                }
            } else {
                AppendError::Fenced { run, epoch, by }
            });
        }
        insert_events(&tx, id, expected_seq, encoded).await?;
        insert_credits(&tx, id, &credits).await?;
        correct_credits(&tx, id, entries).await?;
        let first = insert_entries(&tx, id, entries).await?;
        count_audits(&tx, run, &audits_of(events, entries, first)).await?;
        suspect_left_out(&tx, run, events).await?;
        if let Some(review) = review {
            answer(&tx, review).await?;
        }
        tx.commit().await?;
        Ok(new_seq)
    }

    /// At most `limit` events after number `after_seq`, in order.
    pub async fn events(&self, run: RunId, after_seq: u64, limit: u64) -> Result<Vec<StoredEvent>> {
        let rows = event::Entity::find()
            .filter(event::Column::Run.eq(to_db(run.0)?))
            .filter(event::Column::Seq.gt(to_db(after_seq)?))
            .order_by_asc(event::Column::Seq)
            .limit(limit)
            .all(&self.reader)
            .await?;
        rows.into_iter().map(decode).collect()
    }

    /// Calls `fold` with each event after number `after_seq`, reading page by page, and
    /// returns the number of the last one. Refuses a log with a hole.
    pub async fn fold_events(
        &self,
        run: RunId,
        after_seq: u64,
        mut fold: impl FnMut(StoredEvent) + Send,
    ) -> Result<u64> {
        let mut last = after_seq;
        loop {
            let page = self.events(run, last, PAGE).await?;
            if page.is_empty() {
                return Ok(last);
            }
            for stored in page {
                if stored.seq != last + 1 {
                    return Err(StoreError::Gap {
                        run: run.0,
                        expected: last + 1,
                        found: stored.seq,
                    });
                }
                last = stored.seq;
                fold(stored);
            }
        }
    }

    /// Tokens credited in a run, by worker.
    pub async fn credited_by_worker(&self, run: RunId) -> Result<Vec<(WorkerId, u64)>> {
        let rows: Vec<(i64, i64)> = credit::Entity::find()
            .select_only()
            .column(credit::Column::Worker)
            .column_as(total_tokens(), "total")
            .filter(credit::Column::Run.eq(to_db(run.0)?))
            .group_by(credit::Column::Worker)
            .order_by_asc(credit::Column::Worker)
            .into_tuple()
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(worker, tokens)| (WorkerId(from_db(worker)), from_db(tokens)))
            .collect())
    }

    /// Tokens credited in all runs, by node.
    pub async fn credited_by_node(&self) -> Result<Vec<(NodeId, u64)>> {
        let rows: Vec<(i64, i64)> = credit::Entity::find()
            .select_only()
            .column(credit::Column::Node)
            .column_as(total_tokens(), "total")
            .group_by(credit::Column::Node)
            .order_by_asc(credit::Column::Node)
            .into_tuple()
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(node, tokens)| (NodeId(from_db(node)), from_db(tokens)))
            .collect())
    }
}

/// The sum of tokens as a 64-bit integer: some databases widen a sum to a decimal.
fn total_tokens() -> sea_orm::sea_query::SimpleExpr {
    credit::Column::Tokens.sum().cast_as("bigint")
}

/// Whether the run is over after these events; None: they do not change that.
fn ends(events: &[Event]) -> Option<bool> {
    events.iter().rev().find_map(|event| match event.kind {
        EventKind::Finished { .. } | EventKind::Failed { .. } => Some(true),
        EventKind::Forming | EventKind::Resumed | EventKind::RolledBack { .. } => Some(false),
        _ => None,
    })
}

/// Credit of an accepted update: what sums are made of, derived from the ledger.
struct Credit {
    assignment: AssignmentId,
    node: NodeId,
    worker: WorkerId,
    tokens: u64,
}

impl Credit {
    fn of(entry: &Entry) -> Option<Self> {
        let EntryKind::Accepted { tokens, .. } = entry.kind else {
            return None;
        };
        Some(Self {
            assignment: entry.assignment,
            node: entry.node,
            worker: entry.worker,
            tokens,
        })
    }
}

fn check_credits(events: &[Event], credits: &[Credit]) -> Result<(), AppendError> {
    let mut accepted: Vec<(AssignmentId, u64)> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::UpdateAccepted {
                assignment, tokens, ..
            } => Some((*assignment, *tokens)),
            _ => None,
        })
        .collect();
    let mut credited: Vec<(AssignmentId, u64)> = credits
        .iter()
        .map(|credit| (credit.assignment, credit.tokens))
        .collect();
    accepted.sort_unstable();
    credited.sort_unstable();
    if accepted == credited {
        return Ok(());
    }
    let tokens_in =
        |rows: &[(AssignmentId, u64)], id| rows.iter().find(|(row, _)| *row == id).map(|row| row.1);
    let assignment = accepted
        .iter()
        .find(|row| !credited.contains(row))
        .or_else(|| credited.iter().find(|row| !accepted.contains(row)))
        .or_else(|| credited.first())
        .or_else(|| accepted.first())
        .map_or(AssignmentId(0), |row| row.0);
    Err(AppendError::Credit {
        assignment,
        accepted: tokens_in(&accepted, assignment),
        credited: tokens_in(&credited, assignment),
    })
}

/// An event as it is stored, known to read back as it was.
pub(super) struct Encoded {
    body: String,
}

impl Encoded {
    pub(super) fn all(events: &[Event]) -> Result<Vec<Self>, AppendError> {
        events
            .iter()
            .enumerate()
            .map(|(index, event)| {
                let body = super::to_json("an event", event)?;
                // Two microseconds an event buy that no log ever fails to open because of
                // what was put into it.
                match serde_json::from_str::<Event>(&body) {
                    Ok(back) if back == *event => Ok(Self { body }),
                    _ => Err(AppendError::Unfaithful { index }),
                }
            })
            .collect()
    }
}

pub(super) async fn insert_events(
    tx: &impl ConnectionTrait,
    run: i64,
    after_seq: u64,
    events: Vec<Encoded>,
) -> Result<()> {
    let mut seq = to_db(after_seq)?;
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        seq += 1;
        rows.push(event::ActiveModel {
            run: Set(run),
            seq: Set(seq),
            version: Set(i64::from(EVENT_VERSION)),
            body: Set(event.body),
        });
    }
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(ROWS_PER_STATEMENT));
        event::Entity::insert_many(rows)
            .exec_without_returning(tx)
            .await?;
        rows = rest;
    }
    Ok(())
}

async fn insert_credits(tx: &impl ConnectionTrait, run: i64, credits: &[Credit]) -> Result<()> {
    let now = unix_ms();
    for credits in credits.chunks(ROWS_PER_STATEMENT) {
        let rows: Result<Vec<_>> = credits
            .iter()
            .map(|credit| {
                Ok(credit::ActiveModel {
                    run: Set(run),
                    assignment: Set(to_db(credit.assignment.0)?),
                    node: Set(to_db(credit.node.0)?),
                    worker: Set(to_db(credit.worker.0)?),
                    tokens: Set(to_db(credit.tokens)?),
                    at_ms: Set(now),
                })
            })
            .collect();
        credit::Entity::insert_many(rows?)
            .exec_without_returning(tx)
            .await?;
    }
    Ok(())
}

/// Corrections change the sums as they change the ledger.
async fn correct_credits(tx: &impl ConnectionTrait, run: i64, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let EntryKind::Corrected { tokens, .. } = entry.kind else {
            continue;
        };
        credit::Entity::update_many()
            .col_expr(
                credit::Column::Tokens,
                Expr::col(credit::Column::Tokens).add(tokens),
            )
            .filter(credit::Column::Run.eq(run))
            .filter(credit::Column::Assignment.eq(to_db(entry.assignment.0)?))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// These audits, each with its node, which the ledger names; its entries begin at `first`.
fn audits_of(events: &[Event], entries: &[Entry], first: u64) -> Vec<Audited> {
    let found = |of: AssignmentId| {
        events.iter().find_map(|event| match &event.kind {
            EventKind::Audited {
                assignment,
                finding,
                ..
            } if *assignment == of => Some(finding.clone()),
            _ => None,
        })
    };
    let audited = |(number, entry): (u64, &Entry)| match entry.kind {
        EntryKind::Audited { .. } => Some(Audited {
            node: entry.node,
            assignment: entry.assignment,
            round: entry.round,
            finding: found(entry.assignment)?,
            entry: number,
        }),
        _ => None,
    };
    (first..).zip(entries).filter_map(audited).collect()
}

fn decode(row: event::Model) -> Result<StoredEvent> {
    let what = || format!("event {} of run {}", row.seq, row.run);
    if row.version > i64::from(EVENT_VERSION) {
        return Err(StoreError::Unreadable {
            what: what(),
            source: serde::de::Error::custom(format_args!(
                "it has version {}, this program knows {EVENT_VERSION}",
                row.version
            )),
        });
    }
    Ok(StoredEvent {
        seq: from_db(row.seq),
        event: from_json(&row.body, what)?,
    })
}
