//! The schema and how it came to be. A migration that was released is never edited; a
//! change is a new one at the end of the list.

mod identity;
mod reputation;
mod standing;
mod sums;

use sea_orm_migration::prelude::*;

/// All migrations, oldest first.
pub(crate) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(Foundation),
            Box::new(Ledger),
            Box::new(identity::TokenTerms),
            Box::new(identity::NodeKeys),
            Box::new(identity::Accounts),
            Box::new(NodeStanding),
            Box::new(reputation::NodeReputation),
            Box::new(sums::LedgerSums),
            Box::new(standing::StandingChanges),
            Box::new(sums::TrainedAgain),
            Box::new(identity::NamesOutOfAudit),
        ]
    }
}

/// Tokens, nodes, workers, datasets, runs with their events, snapshots and credit, and
/// the audit log.
struct Foundation;

impl MigrationName for Foundation {
    fn name(&self) -> &str {
        "m0001_foundation"
    }
}

/// A column that is never null.
fn required(name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.not_null();
    column
}

fn integer(name: &'static str) -> ColumnDef {
    required(name).big_integer().take()
}

fn text(name: &'static str) -> ColumnDef {
    required(name).text().take()
}

/// A number given out by the database and never given out twice.
fn serial(name: &'static str) -> ColumnDef {
    integer(name).auto_increment().primary_key().take()
}

fn table(name: &'static str, columns: Vec<ColumnDef>) -> TableCreateStatement {
    let mut table = Table::create();
    table.table(name);
    for column in columns {
        table.col(column);
    }
    table
}

fn keyed(
    name: &'static str,
    key: &[&'static str],
    columns: Vec<ColumnDef>,
) -> TableCreateStatement {
    let mut table = table(name, columns);
    let mut index = Index::create();
    for column in key {
        index.col(*column);
    }
    table.primary_key(&mut index);
    table
}

fn owned_by(
    mut table: TableCreateStatement,
    name: &'static str,
    column: &'static str,
    owner: &'static str,
) -> TableCreateStatement {
    table.foreign_key(ForeignKey::create().from(name, column).to(owner, "id"));
    table
}

fn unique(
    name: &'static str,
    table: &'static str,
    columns: &[&'static str],
) -> IndexCreateStatement {
    index(name, table, columns).unique().take()
}

fn index(
    name: &'static str,
    table: &'static str,
    columns: &[&'static str],
) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(table);
    for column in columns {
        index.col(*column);
    }
    index
}

fn foundation() -> (Vec<TableCreateStatement>, Vec<IndexCreateStatement>) {
    let tables = vec![
        // `hash` is BLAKE3 of the token; the token itself is stored nowhere.
        keyed(
            "token",
            &["hash"],
            vec![
                text("hash"),
                text("label"),
                // Null: any number of uses.
                ColumnDef::new("uses").big_integer().null().take(),
                integer("used"),
                integer("created_ms"),
            ],
        ),
        table(
            "node",
            vec![
                serial("id"),
                text("public_key"),
                text("name"),
                text("machine"),
                text("state"),
                // No request counter up to here is accepted after a restart.
                integer("counter_floor"),
                integer("created_ms"),
            ],
        ),
        owned_by(
            table(
                "worker",
                vec![
                    serial("id"),
                    integer("node"),
                    integer("device"),
                    text("offer"),
                    integer("created_ms"),
                ],
            ),
            "worker",
            "node",
            "node",
        ),
        keyed(
            "dataset",
            &["name"],
            vec![text("name"), text("manifest"), integer("created_ms")],
        ),
        table(
            "run",
            vec![
                serial("id"),
                text("name"),
                text("dataset"),
                // A copy, so that an ended run outlives its dataset.
                text("manifest"),
                text("spec"),
                // Counts the owners this run has had; only the newest may append.
                integer("epoch"),
                // Sequence number of the newest event.
                integer("head"),
                required("ended").boolean().take(),
                integer("created_ms"),
            ],
        ),
        owned_by(
            keyed(
                "event",
                &["run", "seq"],
                vec![
                    integer("run"),
                    integer("seq"),
                    integer("version"),
                    text("body"),
                ],
            ),
            "event",
            "run",
            "run",
        ),
        owned_by(
            keyed(
                "snapshot",
                &["run", "seq"],
                vec![
                    integer("run"),
                    integer("seq"),
                    integer("format"),
                    text("body"),
                ],
            ),
            "snapshot",
            "run",
            "run",
        ),
        owned_by(
            keyed(
                "credit",
                &["run", "assignment"],
                vec![
                    integer("run"),
                    integer("assignment"),
                    integer("node"),
                    integer("worker"),
                    integer("tokens"),
                    integer("at_ms"),
                ],
            ),
            "credit",
            "run",
            "run",
        ),
        owned_by(
            keyed(
                "evaluation",
                &["run", "lineage", "number"],
                vec![
                    integer("run"),
                    integer("lineage"),
                    integer("number"),
                    required("nats_per_token").double().take(),
                    ColumnDef::new("bits_per_byte").double().null().take(),
                    integer("at_ms"),
                ],
            ),
            "evaluation",
            "run",
            "run",
        ),
        owned_by(
            keyed(
                "round_metric",
                &["run", "lineage", "round"],
                vec![
                    integer("run"),
                    integer("lineage"),
                    integer("round"),
                    text("body"),
                ],
            ),
            "round_metric",
            "run",
            "run",
        ),
        table(
            "audit",
            vec![
                serial("id"),
                integer("at_ms"),
                text("actor"),
                text("action"),
                text("detail"),
            ],
        ),
    ];
    let indexes = vec![
        unique("node_public_key", "node", &["public_key"]),
        unique("worker_node_device", "worker", &["node", "device"]),
        unique("run_name", "run", &["name"]),
        index("run_dataset", "run", &["dataset"]),
        index("credit_node", "credit", &["node"]),
    ];
    (tables, indexes)
}

#[async_trait::async_trait]
impl MigrationTrait for Foundation {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let (tables, indexes) = foundation();
        for table in tables {
            manager.create_table(table).await?;
        }
        for index in indexes {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "the first migration can't be undone; delete the database instead".into(),
        ))
    }
}

/// The ledger of each run: its lines, and the hashes of the tree over them.
struct Ledger;

impl MigrationName for Ledger {
    fn name(&self) -> &str {
        "m0002_ledger"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Ledger {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let entries = keyed(
            "ledger_entry",
            &["run", "number"],
            vec![
                integer("run"),
                integer("number"),
                integer("node"),
                integer("assignment"),
                text("line"),
            ],
        );
        let hashes = keyed(
            "ledger_hash",
            &["run", "number"],
            vec![integer("run"), integer("number"), text("hash")],
        );
        let entries = owned_by(entries, "ledger_entry", "run", "run");
        let hashes = owned_by(hashes, "ledger_hash", "run", "run");
        manager.create_table(entries).await?;
        manager.create_table(hashes).await?;
        let by_assignment = index(
            "ledger_entry_assignment",
            "ledger_entry",
            &["run", "assignment"],
        );
        manager.create_index(by_assignment).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "what is in a ledger can't be taken out of it".into(),
        ))
    }
}

/// How far each node is trusted: audits passed and failed, and whether an operator vouches for
/// it. Nodes from before have no row, and are on probation in runs that audit.
struct NodeStanding;

impl MigrationName for NodeStanding {
    fn name(&self) -> &str {
        "m0006_standing"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for NodeStanding {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let standings = keyed(
            "standing",
            &["node"],
            vec![
                integer("node"),
                required("vouched").boolean().take(),
                integer("passed"),
                integer("failed"),
            ],
        );
        let standings = owned_by(standings, "standing", "node", "node");
        manager.create_table(standings).await
    }

    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "what was found about nodes is not forgotten".into(),
        ))
    }
}
