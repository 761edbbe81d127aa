//! How far each node is trusted: audits passed and failed, and whether an operator vouches for
//! it. Written in the transaction of the events that it follows from, so that it always agrees
//! with the ledgers.

use opengpu_rounds::{AuditOutcome, NodeId, Reputation};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter,
    TransactionTrait, sea_query::Expr,
};

use super::entities::{node, standing};
use super::nodes::NodeState;
use super::{Result, Store, from_db, to_db, unix_ms};

/// Failures without a proof (chunks that were not opened) after which a node is put in
/// quarantine: a machine may be switched off at the wrong moment, but not each time.
const UNPROVEN_FAILURES: u64 = 3;

/// Parts of an audit as integers: every database sums and compares those alike.
const MILLION: f64 = 1e6;

/// How far a node is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// An operator vouches for it: its updates are audited as those of a trusted node.
    pub vouched: bool,
    /// Audits passed since the last one that it failed.
    pub passed: u64,
    /// Audits failed, ever.
    pub failed: u64,
    /// What those passed are still worth.
    pub reputation: Reputation,
}

/// What an audit did to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Whose update it was.
    pub node: NodeId,
    /// What was found.
    pub outcome: AuditOutcome,
    /// Whether a failure was proven, by openings or by training again.
    pub proven: bool,
}

impl Standing {
    /// Whether its updates are merged before they are audited, where a new node passes so
    /// many audits first.
    pub fn is_trusted(&self, probation_audits: u32, now_unix_ms: u64) -> bool {
        self.vouched || self.reputation.is_trusted(now_unix_ms, probation_audits)
    }

    /// How far beyond probation it is, 0 to 1; who is vouched for has all of it.
    pub fn beyond_probation(&self, probation_audits: u32, now_unix_ms: u64) -> f64 {
        match self.vouched {
            true => 1.0,
            false => self
                .reputation
                .beyond_probation(now_unix_ms, probation_audits),
        }
    }
}

impl From<standing::Model> for Standing {
    fn from(row: standing::Model) -> Self {
        Self {
            vouched: row.vouched,
            passed: from_db(row.passed),
            failed: from_db(row.failed),
            reputation: Reputation {
                audits: from_db(row.audits_millionths) as f64 / MILLION,
                at_unix_ms: from_db(row.proven_ms),
            },
        }
    }
}

impl Store {
    /// What is known of each node that was audited or vouched for.
    pub async fn standings(&self) -> Result<Vec<(NodeId, Standing)>> {
        let rows = standing::Entity::find().all(&self.reader).await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|row| (NodeId(from_db(row.node)), row.into()))
            .collect())
    }

    /// What is known of one node.
    pub async fn standing(&self, node: NodeId) -> Result<Standing> {
        let row = standing::Entity::find_by_id(to_db(node.0)?)
            .one(&self.reader)
            .await?;
        Ok(row.map(Standing::from).unwrap_or_default())
    }

    /// Says whether an operator vouches for a node.
    pub async fn set_vouched(&self, node: NodeId, vouched: bool) -> Result<()> {
        let tx = self.writer.begin().await?;
        set_vouched(&tx, to_db(node.0)?, vouched).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Counts audits, and puts the nodes in quarantine that failed them.
pub(super) async fn count_audits(tx: &impl ConnectionTrait, audits: &[Audited]) -> Result<()> {
    for audit in audits {
        let id = to_db(audit.node.0)?;
        let (passed, failed) = match audit.outcome {
            AuditOutcome::Undecided => continue,
            AuditOutcome::Passed => (Expr::col(standing::Column::Passed).add(1), 0),
            AuditOutcome::Failed => (Expr::value(0), 1),
        };
        ensure_row(tx, id).await?;
        standing::Entity::update_many()
            .col_expr(standing::Column::Passed, passed)
            .col_expr(
                standing::Column::Failed,
                Expr::col(standing::Column::Failed).add(failed),
            )
            .filter(standing::Column::Node.eq(id))
            .exec(tx)
            .await?;
        // Read once the row is this transaction's: another run may audit the same node.
        let row = standing::Entity::find_by_id(id).one(tx).await?;
        let known = row.map(Standing::from).unwrap_or_default();
        let now_ms = from_db(unix_ms());
        let reputation = match failed {
            0 => known.reputation.passed(now_ms),
            _ => known.reputation.failed(now_ms),
        };
        set_reputation(tx, id, reputation).await?;
        let unproven = !audit.proven && known.failed < UNPROVEN_FAILURES;
        if failed == 0 || unproven {
            continue;
        }
        node::Entity::update_many()
            .col_expr(
                node::Column::State,
                Expr::value(NodeState::Quarantined.as_str()),
            )
            .filter(node::Column::Id.eq(id))
            .filter(
                node::Column::State
                    .is_in([NodeState::Active.as_str(), NodeState::Draining.as_str()]),
            )
            .exec(tx)
            .await?;
    }
    Ok(())
}

async fn set_reputation(
    tx: &impl ConnectionTrait,
    node: i64,
    reputation: Reputation,
) -> Result<()> {
    let millionths = (reputation.audits * MILLION).round() as i64;
    standing::Entity::update_many()
        .col_expr(standing::Column::AuditsMillionths, Expr::value(millionths))
        .col_expr(
            standing::Column::ProvenMs,
            Expr::value(to_db(reputation.at_unix_ms)?),
        )
        .filter(standing::Column::Node.eq(node))
        .exec(tx)
        .await?;
    Ok(())
}

/// The same within a transaction: of a node that is just taken in.
pub(super) async fn set_vouched(tx: &impl ConnectionTrait, node: i64, vouched: bool) -> Result<()> {
    ensure_row(tx, node).await?;
    standing::Entity::update_many()
        .col_expr(standing::Column::Vouched, Expr::value(vouched))
        .filter(standing::Column::Node.eq(node))
        .exec(tx)
        .await?;
    Ok(())
}

async fn ensure_row(tx: &impl ConnectionTrait, node: i64) -> Result<()> {
    standing::Entity::insert(standing::ActiveModel {
        node: Set(node),
        vouched: Set(false),
        passed: Set(0),
        failed: Set(0),
        audits_millionths: Set(0),
        proven_ms: Set(0),
    })
    .on_conflict_do_nothing_on([standing::Column::Node])
    .exec_without_returning(tx)
    .await?;
    Ok(())
}
