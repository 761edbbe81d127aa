//! Enrolment tokens, of which only the hash is kept.

use opengpu_rounds::Hash;
use sea_orm::{ActiveValue::Set, EntityTrait, QueryOrder};

use super::{Result, Store, entities::token, from_db, unix_ms};

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
}

impl Store {
    /// Keeps a token that admits `uses` machines (None: any number).
    pub async fn create_token(&self, hash: Hash, label: &str, uses: Option<u32>) -> Result<()> {
        token::Entity::insert(token::ActiveModel {
            hash: Set(hash.to_string()),
            label: Set(label.to_owned()),
            uses: Set(uses.map(i64::from)),
            used: Set(0),
            created_ms: Set(unix_ms()),
        })
        .exec_without_returning(&self.writer)
        .await?;
        Ok(())
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
                })
            })
            .collect()
    }
}
