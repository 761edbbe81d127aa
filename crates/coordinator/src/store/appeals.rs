//! What owners of nodes say to what is held against these, and what an operator answers.

use opengpu_protocol::standing::AppealOutcome;
use opengpu_rounds::NodeId;
use opengpu_rounds::standing::{Cause, Left, Level, Step};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter,
    TransactionTrait, sea_query::Expr,
};

use super::changes::{ChangeRecord, Held, Why, changes};
use super::entities::{appeal, standing_change};
use super::nodes::NodeState;
use super::{Result, Store, StoreError, from_db, is_unique_violation, to_db, unix_ms};

/// Steps of a node that are looked at: more than audits can make in years.
pub const STEPS: u64 = 1000;

/// An operator's answer to what is held against a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    /// Which node.
    pub node: NodeId,
    /// Which change.
    pub change: u64,
    /// Whether it was wrong.
    pub reverse: bool,
    /// What the node's owner is told.
    pub note: String,
}

/// Why an appeal was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppealError {
    /// There is nothing to appeal against.
    #[error("nothing is held against node {0}")]
    Nothing(NodeId),
    /// There is no such change of this node, or it holds nothing against it.
    #[error("change {change} holds nothing against node {node}")]
    Unknown {
        /// Whose.
        node: NodeId,
        /// Which.
        change: u64,
    },
    /// It was appealed before.
    #[error("change {0} was appealed before; the operator answers with `opengpu node review`")]
    Again(u64),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for AppealError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

/// Why a review changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// There is no such change of this node, or it holds nothing against it.
    #[error(
        "change {change} holds nothing against node {node}; `opengpu node show {node}` lists what does"
    )]
    Unknown {
        /// Whose.
        node: NodeId,
        /// Which.
        change: u64,
    },
    /// Nobody appealed, so that there is nobody to be told that it stays.
    #[error("change {0} was not appealed; it stays without a word")]
    NotAppealed(u64),
    /// It was reversed before.
    #[error("change {0} was reversed; what is held against a node again is another change")]
    Reversed(u64),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for ReviewError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Takes an appeal against a change, one for each: None is the newest that holds something
    /// against the node and was not appealed. Which change it is.
    pub async fn appeal(
        &self,
        node: NodeId,
        change: Option<u64>,
        text: &str,
    ) -> Result<u64, AppealError> {
        let id = to_db(node.0)?;
        let tx = self.writer.begin().await?;
        if Held::lock(&tx, id).await?.is_none() {
            return Err(AppealError::Nothing(node));
        }
        let held = changes(&tx, id, STEPS).await?;
        let held: Vec<_> = held.into_iter().filter(ChangeRecord::holds).collect();
        let newest = held.first().ok_or(AppealError::Nothing(node))?.id;
        let change = match change {
            Some(change) if held.iter().any(|known| known.id == change) => change,
            Some(change) => return Err(AppealError::Unknown { node, change }),
            None => {
                let unheard = held.iter().find(|known| known.appeal.is_none());
                unheard.ok_or(AppealError::Again(newest))?.id
            }
        };
        let inserted = appeal::Entity::insert(appeal::ActiveModel {
            change: Set(to_db(change)?),
            node: Set(id),
            at_ms: Set(unix_ms()),
            said: Set(text.to_owned()),
            outcome: Set(None),
            note: Set(None),
            answered_ms: Set(None),
        })
        .exec_without_returning(&tx)
        .await;
        match inserted {
            Ok(_) => {
                tx.commit().await?;
                Ok(change)
            }
            Err(error) if is_unique_violation(&error) => Err(AppealError::Again(change)),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers what is held against a node, where no credit goes with it. Reversing a second time
    /// changes nothing.
    pub async fn review(&self, review: &Review) -> Result<(), ReviewError> {
        let tx = self.writer.begin().await?;
        answer(&tx, review).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The same in a transaction.
pub(super) async fn answer(tx: &impl ConnectionTrait, review: &Review) -> Result<(), ReviewError> {
    let (node, change) = (review.node, review.change);
    let unknown = || ReviewError::Unknown { node, change };
    let id = to_db(node.0)?;
    let mut held = Held::lock(tx, id).await?.ok_or_else(unknown)?;
    let mut steps = changes(tx, id, STEPS).await?;
    steps.reverse();
    let place = steps.iter().position(|step| step.id == change);
    let place = place.ok_or_else(unknown)?;
    let known = &steps[place];
    if known.cause.severity().is_none() {
        return Err(unknown());
    }
    match (known.reversed_by, review.reverse) {
        (Some(_), true) => return Ok(()),
        (Some(_), false) => return Err(ReviewError::Reversed(change)),
        (None, false) if known.appeal.is_none() => return Err(ReviewError::NotAppealed(change)),
        (None, false) => {}
        (None, true) => {
            let by = reverse(tx, &mut held, &steps, place, review).await?;
            standing_change::Entity::update_many()
                .col_expr(standing_change::Column::ReversedBy, Expr::value(by))
                .filter(standing_change::Column::Id.eq(to_db(change)?))
                .exec(tx)
                .await?;
        }
    }
    let outcome = match review.reverse {
        true => AppealOutcome::Reversed,
        false => AppealOutcome::Upheld,
    };
    appeal::Entity::update_many()
        .col_expr(appeal::Column::Outcome, Expr::value(outcome.as_str()))
        .col_expr(appeal::Column::Note, Expr::value(review.note.as_str()))
        .col_expr(appeal::Column::AnsweredMs, Expr::value(unix_ms()))
        .filter(appeal::Column::Change.eq(to_db(change)?))
        .exec(tx)
        .await?;
    Ok(())
}

/// Moves the node to where it would be without one of its steps; the number of this step.
async fn reverse(
    tx: &impl ConnectionTrait,
    held: &mut Held,
    steps: &[ChangeRecord],
    place: usize,
    review: &Review,
) -> Result<i64> {
    let gone: Vec<Step> = steps
        .iter()
        .map(|step| Step {
            cause: step.cause,
            to: step.to,
            reversed: step.reversed_by.is_some(),
        })
        .collect();
    let counted = u64::from(steps[place].stood.counted);
    held.standing.failed = held.standing.failed.saturating_sub(counted);
    let mut state = None;
    let to = match Left::without(&gone, place) {
        Left::Past => held.standing.level,
        Left::Held(level) => level,
        Left::Clear(first) => {
            let stood = &steps[first].stood;
            stood.give_back(&mut held.standing);
            state = Some(stood.state());
            Level::earned(held.standing.deserves_trust(from_db(unix_ms())))
        }
    };
    let reason = match review.note.is_empty() {
        true => format!("an operator reversed change {}", review.change),
        false => format!(
            "an operator reversed change {}: {}",
            review.change, review.note
        ),
    };
    let by = held
        .go(tx, to, Why::new(Cause::Reversal, "reversed", &reason))
        .await?;
    // Who waited for approval when it was banned waits for it again.
    if let Some(before @ (NodeState::Pending | NodeState::Draining)) = state {
        held.state = before;
        held.save(tx).await?;
    }
    Ok(by)
}
