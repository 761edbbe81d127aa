//! Opening a database: which one an address names, with which settings, brought up to date.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use sea_orm_migration::MigratorTrait;

use super::{Result, Store, StoreError, migrations::Migrator};

/// How long a statement waits for another writer before it fails.
const BUSY_MS: u64 = 10_000;
/// Connections that read from SQLite side by side.
const SQLITE_READERS: u32 = 4;
/// Connections to Postgres.
const POSTGRES_CONNECTIONS: u32 = 10;

impl Store {
    /// Opens the database that `url` names, makes it where there is none (SQLite), and
    /// brings its schema up to date. `url` is a file's path, `sqlite:FILE` or a `postgres://`
    /// address.
    pub async fn open(url: &str) -> Result<Self> {
        let store = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let connection = connect_postgres(url).await?;
            Self {
                writer: connection.clone(),
                reader: connection,
            }
        } else {
            let path = sqlite_path(url)?;
            let writer = connect_sqlite(&path, 1).await?;
            let reader = connect_sqlite(&path, SQLITE_READERS).await?;
            Self { writer, reader }
        };
        store.migrate().await?;
        store.mend_sums().await?;
        Ok(store)
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        self.reader.ping().await?;
        Ok(())
    }

    /// Closes all connections, after the statements in progress.
    pub async fn close(self) -> Result<()> {
        self.reader.close_by_ref().await?;
        self.writer.close_by_ref().await?;
        Ok(())
    }

    async fn migrate(&self) -> Result<()> {
        // Two coordinators that start at the same moment both try; the one that loses the
        // race finds the work done when it looks again.
        let mut attempts = 0;
        loop {
            match Migrator::up(&self.writer, None).await {
                Ok(()) => return Ok(()),
                Err(error) if attempts < 5 => {
                    attempts += 1;
                    tracing::debug!(%error, attempts, "migrating again");
                    tokio::time::sleep(Duration::from_millis(100 * attempts)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn sqlite_path(url: &str) -> Result<PathBuf> {
    let path = match url.strip_prefix("sqlite:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None if url.contains("://") => return Err(StoreError::Address(url.into())),
        None => url,
    };
    if path.is_empty() || path.starts_with(":memory:") {
        return Err(StoreError::Address(url.into()));
    }
    Ok(PathBuf::from(path))
}

async fn connect_sqlite(path: &Path, connections: u32) -> Result<DatabaseConnection> {
    let path = path.to_owned();
    // The name in the address is replaced below: a path may hold what an address may not.
    let mut options = ConnectOptions::new("sqlite://opengpu.db");
    options
        .min_connections(1)
        .max_connections(connections)
        .acquire_timeout(Duration::from_millis(2 * BUSY_MS))
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .filename(&path)
                .create_if_missing(true)
                .busy_timeout(Duration::from_millis(BUSY_MS))
                // Readers and the writer do not wait for each other.
                .pragma("journal_mode", "WAL")
                // Each commit is on the disk before it is acknowledged. NORMAL would do for
                // kill -9 (the pages are the kernel's by then) but may forget the last
                // commits when the power fails, after an agent was told that its update
                // counts. See docs/storage.md for what it costs.
                .pragma("synchronous", "FULL")
                // The name of an erased account does not stay in a free place of its page.
                .pragma("secure_delete", "FAST")
                .pragma("journal_size_limit", "67108864")
        });
    Ok(Database::connect(options).await?)
}

async fn connect_postgres(url: &str) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(Duration::from_secs(10))
        .sqlx_logging(false);
    Ok(Database::connect(options).await?)
}
