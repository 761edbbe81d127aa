//! Who takes part: what was added to tokens and nodes after the first migration.

use sea_orm_migration::prelude::*;

/// A column that may be null.
fn optional(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

/// SQLite adds one column in a statement.
async fn add_column(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    let alteration = Table::alter().table(table).add_column(column).take();
    manager.alter_table(alteration).await
}

/// Until when a token admits.
pub(super) struct TokenTerms;

impl MigrationName for TokenTerms {
    fn name(&self) -> &str {
        "m0003_token_terms"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for TokenTerms {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Null: never. Milliseconds since 1970.
        add_column(manager, "token", optional("expires_ms")).await?;
        add_column(manager, "token", optional("revoked_ms")).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "a token's end can't be taken back: tokens that admit nobody would admit again".into(),
        ))
    }
}
