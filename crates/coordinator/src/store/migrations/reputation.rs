//! What a node has proven, as far as it still counts.

use sea_orm_migration::prelude::*;

use super::integer;

/// Audits passed that still count, in millionths, and since when: nodes from before begin with
/// those that they passed since the last one that they failed.
pub(super) struct NodeReputation;

impl MigrationName for NodeReputation {
    fn name(&self) -> &str {
        "m0007_reputation"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for NodeReputation {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for name in ["audits_millionths", "proven_ms"] {
            // What was cut short before is done again.
            if !manager.has_column("standing", name).await? {
                let column = integer(name).default(0).take();
                let add = Table::alter().table("standing").add_column(column).take();
                manager.alter_table(add).await?;
            }
        }
        let now_ms = crate::store::unix_ms();
        manager
            .get_connection()
            .execute_unprepared(&format!(
                "UPDATE standing SET audits_millionths = passed * 1000000, proven_ms = {now_ms} \
                 WHERE proven_ms = 0"
            ))
            .await?;
        Ok(())
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "what was found about nodes is not forgotten".into(),
        ))
    }
}
