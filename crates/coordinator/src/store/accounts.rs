//! Accounts, and the short codes by which nodes come to them. An account is a name that nodes
//! can refer to, perhaps with that of a team, and nothing more: what nodes did refers to nodes, so that an account can go.

use opengpu_rounds::{Hash, NodeId};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter, QueryOrder, TransactionTrait,
    sea_query::Expr,
};

use super::{
    Result, Store, StoreError,
    entities::{account, claim, node},
    from_db, is_unique_violation, to_db, unix_ms,
};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// Never given out twice.
    pub id: u64,
    /// What its owner is called here; no other account has it.
    pub name: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// The team that it is summed with.
    pub team: Option<String>,
}

/// Why an account was not made or a node not claimed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is one of that name.
    #[error("there is an account {0:?} already")]
    Taken(String),
    /// There is none of that name.
    #[error("there is no account {0:?}; `opengpu account list` shows those there are")]
    Unknown(String),
    /// The code claims nothing.
    #[error(
        "the code was used, is older than 15 minutes, or is mistyped; ask the machine for a new one with `opengpu claim`"
    )]
    UnknownCode,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for AccountError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Makes an account.
    pub async fn create_account(
        &self,
        name: &str,
        team: Option<&str>,
    ) -> Result<AccountRecord, AccountError> {
        let team = team.map(str::to_owned);
        let created_ms = unix_ms();
        let inserted = account::Entity::insert(account::ActiveModel {
            id: NotSet,
            name: Set(name.to_owned()),
            created_ms: Set(created_ms),
            team: Set(team.clone()),
        })
        .exec(&self.writer)
        .await;
        match inserted {
            Ok(inserted) => Ok(AccountRecord {
                id: from_db(inserted.last_insert_id),
                name: name.to_owned(),
                created_ms: from_db(created_ms),
                team,
            }),
            Err(error) if is_unique_violation(&error) => Err(AccountError::Taken(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// All accounts, oldest first.
    pub async fn accounts(&self) -> Result<Vec<AccountRecord>> {
        let rows = account::Entity::find()
            .order_by_asc(account::Column::Id)
            .all(&self.reader)
            .await?;
        let record = |row: account::Model| AccountRecord {
            id: from_db(row.id),
            name: row.name,
            created_ms: from_db(row.created_ms),
            team: row.team,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    /// Says which team an account is of. False: there is no such account.
    pub async fn set_team(&self, id: u64, team: Option<&str>) -> Result<bool> {
        let set = account::Entity::update_many()
            .col_expr(account::Column::Team, Expr::value(team.map(str::to_owned)))
            .filter(account::Column::Id.eq(to_db(id)?))
            .exec(&self.writer)
            .await?;
        Ok(set.rows_affected == 1)
    }

    /// Erases an account. Its nodes stay, and belong to nobody. False: there is no such account.
    pub async fn erase_account(&self, id: u64) -> Result<bool> {
        let id = to_db(id)?;
        let tx = self.writer.begin().await?;
        let erased = account::Entity::delete_by_id(id).exec(&tx).await?;
        node::Entity::update_many()
            .col_expr(node::Column::Account, Expr::value(None::<i64>))
            .filter(node::Column::Account.eq(id))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(erased.rows_affected == 1)
    }

    /// Keeps the code, by its hash, with which a node can be claimed until `expires_ms`
    /// (milliseconds since 1970). The node's code before it is worth nothing any more.
    pub async fn put_claim_code(&self, node: NodeId, code: Hash, expires_ms: u64) -> Result<()> {
        let node = to_db(node.0)?;
        let expires_ms = to_db(expires_ms)?;
        for _ in 0..3 {
            let tx = self.writer.begin().await?;
            claim::Entity::delete_many()
                .filter(
                    Condition::any()
                        .add(claim::Column::Node.eq(node))
                        .add(claim::Column::ExpiresMs.lte(unix_ms())),
                )
                .exec(&tx)
                .await?;
            let inserted = claim::Entity::insert(claim::ActiveModel {
                node: Set(node),
                code: Set(code.to_string()),
                expires_ms: Set(expires_ms),
            })
            .exec_without_returning(&tx)
            .await;
            match inserted {
                Ok(_) => return Ok(tx.commit().await?),
                // The node asked twice at once; the later one counts.
                Err(error) if is_unique_violation(&error) => tx.rollback().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Missing(format!(
            "place for a code of node {node}"
        )))
    }

    /// Gives the node that showed this code, by its hash, to an account. A code is good once.
    pub async fn claim_node(&self, code: Hash, account: &str) -> Result<NodeId, AccountError> {
        let tx = self.writer.begin().await?;
        // Takes the account's lock, so that it is not erased meanwhile.
        let known = account::Entity::update_many()
            .col_expr(account::Column::Name, Expr::col(account::Column::Name))
            .filter(account::Column::Name.eq(account))
            .exec(&tx)
            .await?
            .rows_affected;
        let owner = account::Entity::find()
            .filter(account::Column::Name.eq(account))
            .one(&tx)
            .await?;
        let Some(owner) = owner.filter(|_| known == 1) else {
            return Err(AccountError::Unknown(account.to_owned()));
        };
        let claim = claim::Entity::find()
            .filter(claim::Column::Code.eq(code.to_string()))
            .filter(claim::Column::ExpiresMs.gt(unix_ms()))
            .one(&tx)
            .await?
            .ok_or(AccountError::UnknownCode)?;
        let taken = claim::Entity::delete_many()
            .filter(claim::Column::Code.eq(code.to_string()))
            .exec(&tx)
            .await?;
        if taken.rows_affected != 1 {
            return Err(AccountError::UnknownCode);
        }
        node::Entity::update_many()
            .col_expr(node::Column::Account, Expr::value(owner.id))
            .filter(node::Column::Id.eq(claim.node))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(NodeId(from_db(claim.node)))
    }
}
