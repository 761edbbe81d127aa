//! Nodes: machines that were admitted, by their public key.

use std::{collections::BTreeMap, fmt, str::FromStr};

use opengpu_protocol::wire::Machine;
use opengpu_rounds::standing::Cause;
use opengpu_rounds::{Hash, NodeId};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QueryOrder, TransactionTrait,
    sea_query::Expr,
};

use super::changes::{Held, Why};
use super::tokens::LOCAL_LABEL;
use super::{
    Result, Store, StoreError,
    entities::{node, node_key, token},
    from_db, from_json, is_unique_violation,
    keys::{self, KeyRecord, insert_key},
    to_db, to_json, unix_ms,
};

/// What a node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Listen, and wait for an operator's approval.
    Pending,
    /// Everything.
    Active,
    /// Finish what it holds, take nothing new.
    Draining,
    /// Nothing until an operator has looked at it.
    Quarantined,
    /// Nothing.
    Banned,
}

impl NodeState {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Active,
        Self::Draining,
        Self::Quarantined,
        Self::Banned,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
            Self::Banned => "banned",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a node came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admitted {
    /// Before that was remembered.
    Before,
    /// By a token, which an operator made.
    Token,
    /// It asked, and gets work once an operator approves it.
    Approval,
    /// The operator lets anyone in.
    Open,
}

impl Admitted {
    const ALL: [Self; 4] = [Self::Before, Self::Token, Self::Approval, Self::Open];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::Open => "open",
        }
    }

    pub(super) fn read(word: &str, what: impl FnOnce() -> String) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|way| way.as_str() == word);
        known.ok_or_else(|| StoreError::Unreadable {
            what: what(),
            source: serde::de::Error::custom(format!("`{word}` is no way to come in")),
        })
    }
}

/// A word that is no node's state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state of a node; they are pending, active, draining, quarantined and banned")]
pub struct UnknownState(String);

impl FromStr for NodeState {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// An admitted machine.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRecord {
    /// Its lasting name.
    pub id: NodeId,
    /// The keys that its requests are signed with, oldest first, with those that were revoked.
    pub keys: Vec<KeyRecord>,
    /// What its owner calls it.
    pub name: String,
    /// What it is.
    pub machine: Machine,
    /// What it may do.
    pub state: NodeState,
    /// A counter up to here may have been used: after a restart only higher ones are accepted.
    pub counter_floor: u64,
    /// When it was admitted, milliseconds since 1970.
    pub created_ms: u64,
    /// The account that it belongs to.
    pub account: Option<u64>,
    /// How it came in.
    pub admitted: Admitted,
}

/// On what a machine is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The token with this hash, which must be good; it makes an active node.
    Token(Hash),
    /// Nothing: the operator lets anyone in, in this state.
    Without(NodeState),
}

impl Admission {
    fn admitted(self) -> Admitted {
        match self {
            Self::Token(_) => Admitted::Token,
            Self::Without(NodeState::Pending) => Admitted::Approval,
            Self::Without(_) => Admitted::Open,
        }
    }
}

impl From<Hash> for Admission {
    fn from(token: Hash) -> Self {
        Self::Token(token)
    }
}

/// Why a machine was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is no such token.
    #[error("this enrolment token is unknown; ask the operator for a new one")]
    UnknownToken,
    /// The token has admitted as many machines as it may.
    #[error(
        "this enrolment token has admitted {uses} of {uses} machines; ask the operator for a new one"
    )]
    UsedUp {
        /// How many it was made for.
        uses: u64,
    },
    /// The token's time is over.
    #[error("this enrolment token expired {} ago; ask the operator for a new one", duration(*seconds))]
    Expired {
        /// How long ago.
        seconds: u64,
    },
    /// An operator took the token back.
    #[error("this enrolment token was revoked; ask the operator for a new one")]
    Revoked,
    /// The key was some node's, and was revoked.
    #[error(
        "the key of this machine was revoked; remove node/key from its home, or choose another home, to enrol it as a new node"
    )]
    KeyRevoked,
    /// The key is that of a node that was banned.
    #[error(
        "the key of this machine is that of node {0}, which is banned; `opengpu appeal` asks the operator to look again"
    )]
    Banned(NodeId),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A duration in the largest unit of which it has two.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl From<DbErr> for EnrolError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Admits the machine with this key, once: a repetition gives the same node and takes
    /// no second use of a token, also when the token admits nobody any more. A token must
    /// exist in any case. A repetition changes neither name nor machine nor state, for it is
    /// not signed.
    pub async fn enrol(
        &self,
        admission: impl Into<Admission>,
        public_key: Hash,
        name: &str,
        machine: &Machine,
    ) -> Result<NodeId, EnrolError> {
        let machine = to_json("a machine", machine)?;
        let admission = admission.into();
        let now_ms = unix_ms();
        let tx = self.writer.begin().await?;
        if let Admission::Token(hash) = admission
            && let Some(bar) = take_token(&tx, hash, now_ms).await?
        {
            tx.rollback().await?;
            return self.node_with_key(public_key).await?.ok_or(bar);
        }
        let is_local = match admission {
            Admission::Token(hash) => is_local(&tx, hash).await?,
            Admission::Without(_) => false,
        };
        let state = match admission {
            Admission::Token(_) => NodeState::Active,
            Admission::Without(state) => state,
        };
        let inserted = node::Entity::insert(node::ActiveModel {
            id: NotSet,
            name: Set(name.to_owned()),
            machine: Set(machine),
            state: Set(state.as_str().to_owned()),
            counter_floor: Set(0),
            created_ms: Set(now_ms),
            account: Set(None),
            admitted: Set(admission.admitted().as_str().to_owned()),
        })
        .exec(&tx)
        .await;
        let id = inserted?.last_insert_id;
        match insert_key(&tx, id, public_key, now_ms).await {
            Ok(()) => {
                if is_local {
                    vouch(&tx, id).await?;
                }
                tx.commit().await?;
                Ok(NodeId(from_db(id)))
            }
            // The same machine was admitted before, or in this very moment.
            Err(error) if is_unique_violation(&error) => {
                // Gives the use back.
                tx.rollback().await?;
                let known = self.node_with_key(public_key).await?;
                let missing = || StoreError::Missing(format!("node with public key {public_key}"));
                Ok(known.ok_or_else(missing)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn node_with_key(&self, public_key: Hash) -> Result<Option<NodeId>, EnrolError> {
        let known = node_key::Entity::find_by_id(public_key.to_string())
            .one(&self.reader)
            .await?;
        match known {
            Some(known) if known.revoked_ms.is_some() => Err(EnrolError::KeyRevoked),
            Some(known) => {
                let row = node::Entity::find_by_id(known.node)
                    .one(&self.reader)
                    .await?;
                let node = NodeId(from_db(known.node));
                match row {
                    Some(row) if row.state == NodeState::Banned.as_str() => {
                        Err(EnrolError::Banned(node))
                    }
                    _ => Ok(Some(node)),
                }
            }
            None => Ok(None),
        }
    }

    /// One node.
    pub async fn node(&self, node: NodeId) -> Result<Option<NodeRecord>> {
        let row = node::Entity::find_by_id(to_db(node.0)?)
            .one(&self.reader)
            .await?;
        match row {
            Some(row) => Ok(Some(record(row, self.keys_of(node).await?)?)),
            None => Ok(None),
        }
    }

    /// All nodes, oldest first.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        let rows = node::Entity::find()
            .order_by_asc(node::Column::Id)
            .all(&self.reader)
            .await?;
        let mut keys: BTreeMap<i64, Vec<KeyRecord>> = BTreeMap::new();
        let key_rows = node_key::Entity::find()
            .order_by_asc(node_key::Column::CreatedMs)
            .order_by_asc(node_key::Column::PublicKey)
            .all(&self.reader)
            .await?;
        for row in key_rows {
            let node = row.node;
            keys.entry(node).or_default().push(keys::record(row)?);
        }
        rows.into_iter()
            .map(|row| {
                let keys = keys.remove(&row.id).unwrap_or_default();
                record(row, keys)
            })
            .collect()
    }

    /// Says that counters up to `up_to` may be used up: they are accepted from memory until
    /// the program ends and never again after. Only ever rises. Returns the floor as it is now.
    pub async fn reserve_counters(&self, node: NodeId, up_to: u64) -> Result<u64> {
        let id = to_db(node.0)?;
        let up_to = to_db(up_to)?;
        let raised = node::Entity::update_many()
            .col_expr(node::Column::CounterFloor, Expr::value(up_to))
            .filter(node::Column::Id.eq(id))
            .filter(node::Column::CounterFloor.lt(up_to))
            .exec(&self.writer)
            .await?
            .rows_affected;
        if raised == 1 {
            return Ok(from_db(up_to));
        }
        match self.node(node).await? {
            Some(record) => Ok(record.counter_floor),
            None => Err(StoreError::Missing(format!("node {node}"))),
        }
    }
}

/// Takes one use of a token, or says why there is none to take.
async fn take_token(
    tx: &DatabaseTransaction,
    hash: Hash,
    now_ms: i64,
) -> Result<Option<EnrolError>, EnrolError> {
    let taken = token::Entity::update_many()
        .col_expr(token::Column::Used, Expr::col(token::Column::Used).add(1))
        .filter(token::Column::Hash.eq(hash.to_string()))
        .filter(
            Condition::any()
                .add(token::Column::Uses.is_null())
                .add(Expr::col(token::Column::Used).lt(Expr::col(token::Column::Uses))),
        )
        .filter(token::Column::RevokedMs.is_null())
        .filter(
            Condition::any()
                .add(token::Column::ExpiresMs.is_null())
                .add(token::Column::ExpiresMs.gt(now_ms)),
        )
        .exec(tx)
        .await?
        .rows_affected;
    if taken == 1 {
        return Ok(None);
    }
    let token = token::Entity::find_by_id(hash.to_string()).one(tx).await?;
    let token = token.ok_or(EnrolError::UnknownToken)?;
    Ok(Some(barred(&token, now_ms)))
}

/// Whether a token is the one for agents on the coordinator's own machine.
async fn is_local(tx: &DatabaseTransaction, hash: Hash) -> Result<bool, EnrolError> {
    let token = token::Entity::find_by_id(hash.to_string()).one(tx).await?;
    Ok(token.is_some_and(|token| token.label == LOCAL_LABEL))
}

/// A machine of the operator's own.
async fn vouch(tx: &DatabaseTransaction, id: i64) -> Result<(), EnrolError> {
    let Some(mut held) = Held::lock(tx, id).await? else {
        return Ok(());
    };
    held.standing.vouched = true;
    let reason = "it enrolled with the token of the coordinator's own machine";
    held.step(tx, Why::new(Cause::Vouch, "local", reason))
        .await?;
    Ok(())
}

/// Why a token admits nobody.
fn barred(token: &token::Model, now_ms: i64) -> EnrolError {
    match token.expires_ms {
        _ if token.revoked_ms.is_some() => EnrolError::Revoked,
        Some(expires_ms) if expires_ms <= now_ms => EnrolError::Expired {
            seconds: now_ms.abs_diff(expires_ms) / 1000,
        },
        _ => EnrolError::UsedUp {
            uses: token.uses.map_or(0, from_db),
        },
    }
}

pub(super) fn parse_hash(text: &str, what: &str) -> Result<Hash> {
    text.parse().map_err(|error| StoreError::Unreadable {
        what: format!("the hash of a {what}"),
        source: serde::de::Error::custom(error),
    })
}

fn record(row: node::Model, keys: Vec<KeyRecord>) -> Result<NodeRecord> {
    let what = || format!("node {}", row.id);
    Ok(NodeRecord {
        id: NodeId(from_db(row.id)),
        keys,
        machine: from_json(&row.machine, what)?,
        state: row.state.parse().map_err(|error| StoreError::Unreadable {
            what: what(),
            source: serde::de::Error::custom(error),
        })?,
        name: row.name,
        counter_floor: from_db(row.counter_floor),
        created_ms: from_db(row.created_ms),
        account: row.account.map(from_db),
        admitted: Admitted::read(&row.admitted, what)?,
    })
}
