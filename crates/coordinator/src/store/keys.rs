//! The keys of nodes. A key that was revoked stays, so that it never comes back as another's.

use opengpu_rounds::{Hash, NodeId};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait,
    QueryFilter, QueryOrder, TransactionTrait, sea_query::Expr,
};

use super::{
    Result, Store, StoreError,
    entities::{node, node_key},
    from_db, is_unique_violation, to_db, unix_ms,
};

/// Keys that a node may have at a time: one in use, its successor, and some in a drawer.
pub const MOST_KEYS: usize = 8;
/// Keys that a node may have had. One that changes its key each month gets through ten years.
pub const MOST_KEYS_EVER: usize = 128;

/// A key of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Ed25519.
    pub public_key: Hash,
    /// When it was added, milliseconds since 1970.
    pub created_ms: u64,
    /// When it was revoked, milliseconds since 1970.
    pub revoked_ms: Option<u64>,
}

/// Why a key was not added or not revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The node has as many as it may.
    #[error("node {node} has {MOST_KEYS} keys, the most there may be; revoke one first")]
    TooMany {
        /// Which node.
        node: NodeId,
    },
    /// The node has had as many as it may.
    #[error(
        "node {node} has had {MOST_KEYS_EVER} keys, the most there may be; enrol this machine as a new node"
    )]
    TooManyEver {
        /// Which node.
        node: NodeId,
    },
    /// Another node has the key, or it was revoked.
    #[error("the key is another node's, or was revoked; make a new one")]
    Taken,
    /// The node does not have the key.
    #[error("node {node} has no key {key}")]
    Unknown {
        /// Which node.
        node: NodeId,
        /// Which key.
        key: Hash,
    },
    /// It is the last one.
    #[error(
        "this is the only key of node {node}, which could never speak again; add another first, or have the operator revoke it"
    )]
    Last {
        /// Which node.
        node: NodeId,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for KeyError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Gives a node a further key. Repeating it changes nothing.
    pub async fn add_key(&self, node: NodeId, public_key: Hash) -> Result<KeyRecord, KeyError> {
        let tx = self.lock_node(node).await?;
        let keys = keys_of(&tx, node).await?;
        if let Some(known) = keys.iter().find(|key| key.public_key == public_key) {
            tx.rollback().await?;
            return match known.revoked_ms {
                None => Ok(*known),
                Some(_) => Err(KeyError::Taken),
            };
        }
        if keys.len() >= MOST_KEYS_EVER {
            return Err(KeyError::TooManyEver { node });
        }
        if keys.iter().filter(|key| key.revoked_ms.is_none()).count() >= MOST_KEYS {
            return Err(KeyError::TooMany { node });
        }
        let created_ms = unix_ms();
        match insert_key(&tx, to_db(node.0)?, public_key, created_ms).await {
            Ok(()) => tx.commit().await?,
            Err(error) if is_unique_violation(&error) => return Err(KeyError::Taken),
            Err(error) => return Err(error.into()),
        }
        Ok(KeyRecord {
            public_key,
            created_ms: from_db(created_ms),
            revoked_ms: None,
        })
    }

    /// Takes a key from a node for ever. The last one goes only `even_the_last`. Repeating it
    /// changes nothing.
    pub async fn revoke_key(
        &self,
        node: NodeId,
        public_key: Hash,
        even_the_last: bool,
    ) -> Result<(), KeyError> {
        let tx = self.lock_node(node).await?;
        let keys = keys_of(&tx, node).await?;
        let Some(known) = keys.iter().find(|key| key.public_key == public_key) else {
            return Err(KeyError::Unknown {
                node,
                key: public_key,
            });
        };
        let live = keys.iter().filter(|key| key.revoked_ms.is_none()).count();
        if known.revoked_ms.is_none() && live == 1 && !even_the_last {
            return Err(KeyError::Last { node });
        }
        node_key::Entity::update_many()
            .col_expr(node_key::Column::RevokedMs, Expr::value(unix_ms()))
            .filter(node_key::Column::PublicKey.eq(public_key.to_string()))
            .filter(node_key::Column::RevokedMs.is_null())
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The keys of a node, oldest first, with those that were revoked.
    pub async fn keys_of(&self, node: NodeId) -> Result<Vec<KeyRecord>> {
        keys_of(&self.reader, node).await
    }

    /// A transaction in which nobody else changes the node's keys.
    async fn lock_node(&self, node: NodeId) -> Result<DatabaseTransaction, KeyError> {
        let tx = self.writer.begin().await?;
        let locked = node::Entity::update_many()
            .col_expr(
                node::Column::CounterFloor,
                Expr::col(node::Column::CounterFloor),
            )
            .filter(node::Column::Id.eq(to_db(node.0)?))
            .exec(&tx)
            .await?
            .rows_affected;
        if locked == 0 {
            return Err(StoreError::Missing(format!("node {node}")).into());
        }
        Ok(tx)
    }
}

/// Keeps a key. A key that anyone has, or had, violates a unique index.
pub(super) async fn insert_key(
    connection: &impl ConnectionTrait,
    node: i64,
    public_key: Hash,
    created_ms: i64,
) -> Result<(), DbErr> {
    node_key::Entity::insert(node_key::ActiveModel {
        public_key: Set(public_key.to_string()),
        node: Set(node),
        created_ms: Set(created_ms),
        revoked_ms: Set(None),
    })
    .exec_without_returning(connection)
    .await?;
    Ok(())
}

async fn keys_of(connection: &impl ConnectionTrait, node: NodeId) -> Result<Vec<KeyRecord>> {
    let rows = node_key::Entity::find()
        .filter(node_key::Column::Node.eq(to_db(node.0)?))
        .order_by_asc(node_key::Column::CreatedMs)
        .order_by_asc(node_key::Column::PublicKey)
        .all(connection)
        .await?;
    rows.into_iter().map(record).collect()
}

pub(super) fn record(row: node_key::Model) -> Result<KeyRecord> {
    Ok(KeyRecord {
        public_key: super::nodes::parse_hash(&row.public_key, "node's key")?,
        created_ms: from_db(row.created_ms),
        revoked_ms: row.revoked_ms.map(from_db),
    })
}
