//! Who takes part: what was added to tokens and nodes after the first migration.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use super::{index, integer, keyed, owned_by, serial, table, text, unique};

/// A column that may be null.
fn optional(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

/// Adds a column, unless a migration that was cut short did: SQLite commits each statement.
pub(super) async fn add_column(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    if manager.has_column(table, column.get_column_name()).await? {
        return Ok(());
    }
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

/// A node has keys, not a key: those that it had moved here.
pub(super) struct NodeKeys;

impl MigrationName for NodeKeys {
    fn name(&self) -> &str {
        "m0004_node_keys"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for NodeKeys {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let keys = keyed(
            "node_key",
            &["public_key"],
            vec![
                text("public_key"),
                integer("node"),
                integer("created_ms"),
                optional("revoked_ms"),
            ],
        );
        let mut keys = owned_by(keys, "node_key", "node", "node");
        manager.create_table(keys.if_not_exists().take()).await?;
        let mut by_node = index("node_key_node", "node_key", &["node"]);
        manager.create_index(by_node.if_not_exists().take()).await?;
        // The last statement takes the column away: what was cut short before is done again.
        if !manager.has_column("node", "public_key").await? {
            return Ok(());
        }
        manager
            .get_connection()
            .execute_unprepared(
                "INSERT INTO node_key (public_key, node, created_ms) \
                 SELECT public_key, id, created_ms FROM node WHERE NOT EXISTS \
                 (SELECT 1 FROM node_key WHERE node_key.public_key = node.public_key)",
            )
            .await?;
        let mut unique = Index::drop();
        let unique = unique.name("node_public_key").table("node").if_exists();
        manager.drop_index(unique.to_owned()).await?;
        let column = Table::alter()
            .table("node")
            .drop_column("public_key")
            .take();
        manager.alter_table(column).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "a node with several keys, or none, has no single key to go back to".into(),
        ))
    }
}

/// Accounts, to which nodes may belong, and the codes with which nodes are claimed.
pub(super) struct Accounts;

impl MigrationName for Accounts {
    fn name(&self) -> &str {
        "m0005_accounts"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Accounts {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut accounts = table(
            "account",
            vec![serial("id"), text("name"), integer("created_ms")],
        );
        // `code` is BLAKE3 of a code with some words before it.
        let claims = keyed(
            "claim",
            &["node"],
            vec![integer("node"), text("code"), integer("expires_ms")],
        );
        let mut claims = owned_by(claims, "claim", "node", "node");
        manager
            .create_table(accounts.if_not_exists().take())
            .await?;
        manager.create_table(claims.if_not_exists().take()).await?;
        let indexes = [
            unique("account_name", "account", &["name"]),
            unique("claim_code", "claim", &["code"]),
        ];
        for mut index in indexes {
            manager.create_index(index.if_not_exists().take()).await?;
        }
        add_column(manager, "node", optional("account")).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "whose a node is would be forgotten; delete the accounts one by one instead".into(),
        ))
    }
}

/// The audit log had the names of accounts beside their numbers, also of those that were erased
/// since; now it has the numbers alone.
pub(super) struct NamesOutOfAudit;

impl MigrationName for NamesOutOfAudit {
    fn name(&self) -> &str {
        "m0011_names_out_of_audit"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for NamesOutOfAudit {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // What was `7 "alice"` is `7`.
        let number = match manager.get_database_backend() {
            DbBackend::Postgres => "split_part(detail, ' ', 1)",
            _ => "substr(detail, 1, instr(detail || ' ', ' ') - 1)",
        };
        let statement =
            format!("UPDATE audit SET detail = {number} WHERE action = 'account.create'");
        let connection = manager.get_connection();
        connection.execute_unprepared(&statement).await?;
        Ok(())
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "what was erased does not come back".into(),
        ))
    }
}
