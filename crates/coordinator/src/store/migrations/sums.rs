//! What the ledgers come to, and teams to sum it by.

use sea_orm_migration::prelude::*;

use super::identity::add_column;
use super::{integer, keyed, owned_by};

/// Sums by run, day and node: a cache, filled from the ledgers when the database is opened
/// (see [`crate::store`]). An account may be of a team.
pub(super) struct LedgerSums;

impl MigrationName for LedgerSums {
    fn name(&self) -> &str {
        "m0008_sums"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for LedgerSums {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sums = keyed(
            "ledger_sum",
            &["run", "day", "node"],
            vec![
                integer("run"),
                // Since 1 January 1970, in UTC.
                integer("day"),
                integer("node"),
                integer("tokens"),
                integer("megaflops"),
                integer("accepted"),
                integer("rejected"),
                integer("audits_passed"),
                integer("audits_failed"),
                integer("audits_undecided"),
                integer("corrections"),
            ],
        );
        let mut sums = owned_by(sums, "ledger_sum", "run", "run");
        manager.create_table(sums.if_not_exists().take()).await?;
        let team = ColumnDef::new("team").text().null().take();
        add_column(manager, "account", team).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "the teams of accounts would be forgotten".into(),
        ))
    }
}

/// How many assignments were trained again for audits, which no ledger told before.
pub(super) struct TrainedAgain;

impl MigrationName for TrainedAgain {
    fn name(&self) -> &str {
        "m0010_trained_again"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for TrainedAgain {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = integer("trained_again").default(0).take();
        add_column(manager, "ledger_sum", column).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "an older program can't read what the ledgers tell of trainings again".into(),
        ))
    }
}
