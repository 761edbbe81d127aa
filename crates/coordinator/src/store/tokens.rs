//! Enrolment tokens, of which only the hash is kept.

use opengpu_rounds::Hash;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::Expr,
};

use super::{Result, Store, entities::token, from_db, to_db, unix_ms};

/// Label of the enrolment token for agents on the coordinator's own machine: nodes that enrol
/// with it are vouched for, as they are the operator's.
pub const LOCAL_LABEL: &str = "this machine";

/// An enrolment token as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// BLAKE3 of the token.
    pub hash: Hash,
    /// What it was made for.
    pub label: String,
    /// How many machines it admits; None: any number.
    pub uses: Option<u64>,
    /// How many it has admitted.
    pub used: u64,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// From when on it admits nobody, milliseconds since 1970; None: never.
    pub expires_ms: Option<u64>,
    /// When an operator took it back, milliseconds since 1970.
    pub revoked_ms: Option<u64>,
}

impl Store {
    /// Keeps a token that admits `uses` machines (None: any number) until `expires_ms`
    /// (milliseconds since 1970; None: for ever).
    pub async fn create_token(
        &self,
        hash: Hash,
        label: &str,
        uses: Option<u32>,
        expires_ms: Option<u64>,
    ) -> Result<()> {
        token::Entity::insert(token::ActiveModel {
            hash: Set(hash.to_string()),
            label: Set(label.to_owned()),
            uses: Set(uses.map(i64::from)),
            used: Set(0),
            created_ms: Set(unix_ms()),
            expires_ms: Set(expires_ms.map(to_db).transpose()?),
            revoked_ms: Set(None),
        })
        .exec_without_returning(&self.writer)
        .await?;
        Ok(())
    }

    /// Takes a token back; machines that it admitted stay. Repeating it changes nothing.
    /// False: there is no such token.
    pub async fn revoke_token(&self, hash: Hash) -> Result<bool> {
        let hash = hash.to_string();
        let changed = token::Entity::update_many()
            .col_expr(token::Column::RevokedMs, Expr::value(unix_ms()))
            .filter(token::Column::Hash.eq(hash.as_str()))
            .filter(token::Column::RevokedMs.is_null())
            .exec(&self.writer)
            .await?
            .rows_affected;
        if changed == 1 {
            return Ok(true);
        }
        Ok(token::Entity::find_by_id(hash)
            .one(&self.reader)
            .await?
            .is_some())
    }

    /// All tokens, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>> {
        let rows = token::Entity::find()
            .order_by_asc(token::Column::CreatedMs)
            .order_by_asc(token::Column::Hash)
            .all(&self.reader)
            .await?;
        rows.into_iter()
            .map(|row| {
                Ok(TokenRecord {
                    hash: super::nodes::parse_hash(&row.hash, "token")?,
                    label: row.label,
                    uses: row.uses.map(from_db),
                    used: from_db(row.used),
                    created_ms: from_db(row.created_ms),
                    expires_ms: row.expires_ms.map(from_db),
                    revoked_ms: row.revoked_ms.map(from_db),
                })
            })
            .collect()
    }
}
