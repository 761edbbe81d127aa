//! The audit log: everything that an operator does. Nothing is taken out of it, so accounts are in
//! it by their numbers: a name would stay there when its account is erased.

use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::{Result, Store, entities::audit, from_db, to_db, unix_ms};

/// Something that an operator did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counts up.
    pub id: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// What, for example `node.ban`.
    pub action: String,
    /// On what, and why.
    pub detail: String,
}

impl Store {
    /// Notes what an operator did.
    pub async fn audit(&self, actor: &str, action: &str, detail: &str) -> Result<()> {
        audit::Entity::insert(audit::ActiveModel {
            id: NotSet,
            at_ms: Set(unix_ms()),
            actor: Set(actor.to_owned()),
            action: Set(action.to_owned()),
            detail: Set(detail.to_owned()),
        })
        .exec_without_returning(&self.writer)
        .await?;
        Ok(())
    }

    /// At most `limit` entries older than `before` (None: the newest), newest first.
    pub async fn audit_log(&self, before: Option<u64>, limit: u64) -> Result<Vec<AuditEntry>> {
        let mut query = audit::Entity::find();
        if let Some(before) = before {
            query = query.filter(audit::Column::Id.lt(to_db(before)?));
        }
        let rows = query
            .order_by_desc(audit::Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| AuditEntry {
                id: from_db(row.id),
                at_ms: from_db(row.at_ms),
                actor: row.actor,
                action: row.action,
                detail: row.detail,
            })
            .collect())
    }
}
