//! Where nodes stand, by which steps they came there, and what their owners say to that.

use sea_orm_migration::prelude::*;

use super::{index, integer, keyed, owned_by, serial, table, text};

/// Standing and its steps; how a node came in. Who was in quarantine or banned before has one
/// step whose reason was not recorded, so that it can be appealed.
pub(super) struct StandingChanges;

impl MigrationName for StandingChanges {
    fn name(&self) -> &str {
        "m0009_standing_changes"
    }
}

fn optional_text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().null().take()
}

fn optional_integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

#[async_trait::async_trait]
impl MigrationTrait for StandingChanges {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // What was cut short before is done again.
        for (table, name, value) in [
            ("standing", "level", "probation"),
            ("node", "admitted", "before"),
        ] {
            if !manager.has_column(table, name).await? {
                let column = text(name).default(value).take();
                let add = Table::alter().table(table).add_column(column).take();
                manager.alter_table(add).await?;
            }
        }
        for mut table in tables() {
            manager.create_table(table.if_not_exists().take()).await?;
        }
        let mut by_node = index("standing_change_node", "standing_change", &["node"]);
        manager.create_index(by_node.if_not_exists().take()).await?;
        for statement in known_before(crate::store::unix_ms()) {
            manager
                .get_connection()
                .execute_unprepared(&statement)
                .await?;
        }
        Ok(())
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "what was found about nodes is not forgotten".into(),
        ))
    }
}

fn tables() -> [TableCreateStatement; 2] {
    let changes = table(
        "standing_change",
        vec![
            serial("id"),
            integer("node"),
            integer("at_ms"),
            text("cause"),
            text("from_level"),
            text("to_level"),
            text("code"),
            text("reason"),
            optional_text("evidence"),
            // What a reversal gives back.
            text("stood"),
            optional_integer("reversed_by"),
        ],
    );
    let appeals = keyed(
        "appeal",
        &["change"],
        vec![
            integer("change"),
            integer("node"),
            integer("at_ms"),
            text("said"),
            // Null: it is open.
            optional_text("outcome"),
            optional_text("note"),
            optional_integer("answered_ms"),
        ],
    );
    [
        owned_by(changes, "standing_change", "node", "node"),
        owned_by(appeals, "appeal", "change", "standing_change"),
    ]
}

fn known_before(now_ms: i64) -> [String; 4] {
    let shut_out = "state IN ('quarantined', 'banned')";
    [
        format!(
            "INSERT INTO standing (node, vouched, passed, failed, audits_millionths, proven_ms, level) \
             SELECT id, FALSE, 0, 0, 0, 0, 'probation' FROM node WHERE {shut_out} \
             AND NOT EXISTS (SELECT 1 FROM standing WHERE standing.node = node.id)"
        ),
        // Two and a half audits: as many as let a node stay out of probation.
        "UPDATE standing SET level = 'trusted' \
         WHERE level = 'probation' AND (vouched OR audits_millionths >= 2500000)"
            .to_owned(),
        format!(
            "INSERT INTO standing_change (node, at_ms, cause, from_level, to_level, code, reason, stood) \
             SELECT id, {now_ms}, CASE state WHEN 'banned' THEN 'ban' ELSE 'quarantine' END, \
             'probation', state, 'unrecorded', 'it was before reasons were recorded', \
             '{{\"state\":\"active\",\"audits\":0.0,\"at_unix_ms\":0,\"passed\":0,\"counted\":false}}' \
             FROM node WHERE {shut_out} \
             AND NOT EXISTS (SELECT 1 FROM standing_change WHERE standing_change.node = node.id)"
        ),
        format!(
            "UPDATE standing SET level = (SELECT state FROM node WHERE node.id = standing.node) \
             WHERE node IN (SELECT id FROM node WHERE {shut_out})"
        ),
    ]
}
