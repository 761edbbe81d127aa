//! The steps by which each node came to stand where it does: only ever added to. Whatever moves
//! a node goes through [`Held::step`], which holds the node's row, so that two runs that audit
//! one node, and an operator beside them, follow one another.

use opengpu_protocol::standing::{AppealOutcome, Evidence};
use opengpu_rounds::standing::{Cause, Level};
use opengpu_rounds::{NodeId, Reputation};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::Expr,
};
use serde::{Deserialize, Serialize};

use super::entities::{appeal, node, standing, standing_change};
use super::nodes::{Admitted, NodeState};
use super::standing::{MILLION, Standing};
use super::{Result, Store, StoreError, from_db, from_json, to_db, to_json, unix_ms};

/// A step that a node went.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeRecord {
    /// Counts up over all nodes.
    pub id: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What it was.
    pub cause: Cause,
    /// Where the node stood.
    pub from: Level,
    /// Where it stood after it.
    pub to: Level,
    /// Why, for a program.
    pub code: String,
    /// Why, for a person.
    pub reason: String,
    /// What it rests on.
    pub evidence: Option<Evidence>,
    /// The step that reversed it.
    pub reversed_by: Option<u64>,
    /// What the node's owner said to it.
    pub appeal: Option<AppealRecord>,
    pub(super) stood: Stood,
}

impl ChangeRecord {
    /// Whether it holds something against the node that was not found to be wrong.
    pub fn holds(&self) -> bool {
        self.cause.severity().is_some() && self.reversed_by.is_none()
    }
}

/// An appeal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppealRecord {
    /// What was said.
    pub text: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What came of it.
    pub outcome: AppealOutcome,
    /// What the operator says to it.
    pub note: Option<String>,
}

/// What a node was before a step, as far as a reversal gives it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stood {
    /// What it might do.
    state: String,
    /// What it had proven.
    audits: f64,
    at_unix_ms: u64,
    passed: u64,
    /// Whether the step counted as a failed audit.
    pub counted: bool,
}

impl Stood {
    /// What the node might do; of a shut-out node what is least.
    pub fn state(&self) -> NodeState {
        self.state.parse().unwrap_or(NodeState::Quarantined)
    }

    /// Gives back what it had proven, beside what it has proven since.
    pub fn give_back(&self, standing: &mut Standing) {
        let before = Reputation {
            audits: self.audits,
            at_unix_ms: self.at_unix_ms,
        };
        let now_ms = from_db(unix_ms());
        let better = before.audits_at(now_ms) > standing.reputation.audits_at(now_ms);
        if better {
            standing.reputation = before;
        }
        standing.passed += self.passed;
    }
}

/// Why a node moves.
pub(super) struct Why<'a> {
    pub cause: Cause,
    pub code: &'a str,
    pub reason: &'a str,
    pub evidence: Option<&'a Evidence>,
    /// Whether it is a failed audit.
    pub counted: bool,
}

impl<'a> Why<'a> {
    pub fn new(cause: Cause, code: &'a str, reason: &'a str) -> Self {
        Self {
            cause,
            code,
            reason,
            evidence: None,
            counted: false,
        }
    }
}

/// A node whose rows this transaction holds.
pub(super) struct Held {
    id: i64,
    pub state: NodeState,
    pub admitted: Admitted,
    pub standing: Standing,
    /// What it was when it was locked.
    before: (NodeState, Standing),
}

impl Held {
    /// Holds a node until the transaction ends; None: there is no such node.
    pub async fn lock(tx: &impl ConnectionTrait, id: i64) -> Result<Option<Self>> {
        let held = node::Entity::update_many()
            .col_expr(node::Column::State, Expr::col(node::Column::State))
            .filter(node::Column::Id.eq(id))
            .exec(tx)
            .await?
            .rows_affected;
        if held == 0 {
            return Ok(None);
        }
        standing::Entity::insert(standing::ActiveModel {
            node: Set(id),
            level: Set(Level::default().as_str().to_owned()),
            vouched: Set(false),
            passed: Set(0),
            failed: Set(0),
            audits_millionths: Set(0),
            proven_ms: Set(0),
        })
        .on_conflict_do_nothing_on([standing::Column::Node])
        .exec_without_returning(tx)
        .await?;
        let missing = || StoreError::Missing(format!("node {id}"));
        let found = node::Entity::find_by_id(id).one(tx).await?;
        let found = found.ok_or_else(missing)?;
        let standing = standing::Entity::find_by_id(id).one(tx).await?;
        let standing = Standing::read(standing.ok_or_else(missing)?)?;
        let what = || format!("the state of node {id}");
        let state = found
            .state
            .parse::<NodeState>()
            .map_err(|error| StoreError::Unreadable {
                what: what(),
                source: serde::de::Error::custom(error),
            })?;
        Ok(Some(Self {
            id,
            state,
            admitted: Admitted::read(&found.admitted, what)?,
            standing,
            before: (state, standing),
        }))
    }

    /// Moves the node, if this leads anywhere from where it stands; evidence is kept in any case.
    pub async fn step(&mut self, tx: &impl ConnectionTrait, why: Why<'_>) -> Result<()> {
        let now_ms = from_db(unix_ms());
        let trusted = self.standing.deserves_trust(now_ms);
        let Some(to) = why.cause.leads(self.standing.level, trusted) else {
            return Ok(());
        };
        if to != self.standing.level || why.cause.is_evidence() {
            self.go(tx, to, why).await?;
        }
        Ok(())
    }

    /// Goes there; the number of the step.
    pub async fn go(&mut self, tx: &impl ConnectionTrait, to: Level, why: Why<'_>) -> Result<i64> {
        let (state, standing) = &self.before;
        let stood = Stood {
            state: state.as_str().to_owned(),
            audits: standing.reputation.audits,
            at_unix_ms: standing.reputation.at_unix_ms,
            passed: standing.passed,
            counted: why.counted,
        };
        let evidence = why.evidence.map(|found| to_json("evidence", found));
        let inserted = standing_change::Entity::insert(standing_change::ActiveModel {
            id: NotSet,
            node: Set(self.id),
            at_ms: Set(unix_ms()),
            cause: Set(why.cause.as_str().to_owned()),
            from_level: Set(self.standing.level.as_str().to_owned()),
            to_level: Set(to.as_str().to_owned()),
            code: Set(why.code.to_owned()),
            reason: Set(why.reason.to_owned()),
            evidence: Set(evidence.transpose()?),
            stood: Set(to_json("a standing", &stood)?),
            reversed_by: Set(None),
        })
        .exec(tx)
        .await?;
        self.standing.level = to;
        self.state = match (to, self.state) {
            (Level::Quarantined, _) => NodeState::Quarantined,
            (Level::Banned, _) => NodeState::Banned,
            (_, NodeState::Quarantined | NodeState::Banned) => NodeState::Active,
            (_, state) => state,
        };
        self.save(tx).await?;
        self.before = (self.state, self.standing);
        Ok(inserted.last_insert_id)
    }

    /// Takes note of a reputation that no longer carries the standing.
    pub async fn decay(&mut self, tx: &impl ConnectionTrait) -> Result<()> {
        if self.standing.has_decayed(from_db(unix_ms())) {
            let reason = "what it had proven is too long ago";
            self.step(tx, Why::new(Cause::Decayed, "decayed", reason))
                .await?;
        }
        Ok(())
    }

    /// Writes what it is now.
    pub async fn save(&self, tx: &impl ConnectionTrait) -> Result<()> {
        let known = &self.standing;
        let millionths = (known.reputation.audits * MILLION).round() as i64;
        let proven_ms = to_db(known.reputation.at_unix_ms)?;
        standing::Entity::update_many()
            .col_expr(standing::Column::Level, Expr::value(known.level.as_str()))
            .col_expr(standing::Column::Vouched, Expr::value(known.vouched))
            .col_expr(standing::Column::Passed, Expr::value(to_db(known.passed)?))
            .col_expr(standing::Column::Failed, Expr::value(to_db(known.failed)?))
            .col_expr(standing::Column::AuditsMillionths, Expr::value(millionths))
            .col_expr(standing::Column::ProvenMs, Expr::value(proven_ms))
            .filter(standing::Column::Node.eq(self.id))
            .exec(tx)
            .await?;
        node::Entity::update_many()
            .col_expr(node::Column::State, Expr::value(self.state.as_str()))
            .filter(node::Column::Id.eq(self.id))
            .exec(tx)
            .await?;
        Ok(())
    }
}

impl Store {
    /// At most `limit` steps of a node, newest first, with the appeals against them.
    pub async fn changes_of(&self, node: NodeId, limit: u64) -> Result<Vec<ChangeRecord>> {
        changes(&self.reader, to_db(node.0)?, limit).await
    }

    /// Nodes against which something was ever held.
    pub async fn nodes_with_a_past(&self) -> Result<Vec<NodeId>> {
        let faults = Cause::ALL.into_iter();
        let faults = faults.filter(|cause| cause.severity().is_some());
        let nodes: Vec<i64> = standing_change::Entity::find()
            .select_only()
            .column(standing_change::Column::Node)
            .filter(standing_change::Column::Cause.is_in(faults.map(Cause::as_str)))
            .distinct()
            .into_tuple()
            .all(&self.reader)
            .await?;
        Ok(nodes.into_iter().map(|id| NodeId(from_db(id))).collect())
    }

    /// The number of the newest step of any node; 0: there is none.
    pub async fn newest_change(&self) -> Result<u64> {
        let newest: Option<i64> = standing_change::Entity::find()
            .select_only()
            .column(standing_change::Column::Id)
            .order_by_desc(standing_change::Column::Id)
            .limit(1)
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok(newest.map_or(0, from_db))
    }
}

/// At most `limit` steps of a node, newest first.
pub(super) async fn changes(
    database: &impl ConnectionTrait,
    node: i64,
    limit: u64,
) -> Result<Vec<ChangeRecord>> {
    let rows = standing_change::Entity::find()
        .filter(standing_change::Column::Node.eq(node))
        .order_by_desc(standing_change::Column::Id)
        .limit(limit)
        .all(database)
        .await?;
    let appeals = appeal::Entity::find()
        .filter(appeal::Column::Node.eq(node))
        .all(database)
        .await?;
    let mut appeals: std::collections::BTreeMap<i64, appeal::Model> = appeals
        .into_iter()
        .map(|appeal| (appeal.change, appeal))
        .collect();
    rows.into_iter()
        .map(|row| {
            let appeal = appeals.remove(&row.id);
            read(row, appeal)
        })
        .collect()
}

fn read(row: standing_change::Model, appeal: Option<appeal::Model>) -> Result<ChangeRecord> {
    let what = || format!("change {} of node {}", row.id, row.node);
    let unknown = |word: &str| StoreError::Unreadable {
        what: what(),
        source: serde::de::Error::custom(format!("`{word}` is not known")),
    };
    let level = |word: &str| Level::read(word).ok_or_else(|| unknown(word));
    let appeal = appeal.map(|appeal| -> Result<AppealRecord> {
        Ok(AppealRecord {
            outcome: match appeal.outcome.as_deref() {
                None => AppealOutcome::Open,
                Some("upheld") => AppealOutcome::Upheld,
                Some("reversed") => AppealOutcome::Reversed,
                Some(other) => return Err(unknown(other)),
            },
            text: appeal.said,
            at_ms: from_db(appeal.at_ms),
            note: appeal.note,
        })
    });
    Ok(ChangeRecord {
        id: from_db(row.id),
        at_ms: from_db(row.at_ms),
        cause: Cause::read(&row.cause).ok_or_else(|| unknown(&row.cause))?,
        from: level(&row.from_level)?,
        to: level(&row.to_level)?,
        evidence: match &row.evidence {
            Some(found) => Some(from_json(found, what)?),
            None => None,
        },
        stood: from_json(&row.stood, what)?,
        reversed_by: row.reversed_by.map(from_db),
        appeal: appeal.transpose()?,
        code: row.code,
        reason: row.reason,
    })
}
