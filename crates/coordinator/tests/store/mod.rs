//! The store and the blobs. Everything that touches the database runs on SQLite and on a
//! real Postgres, through the same story.

mod accounts;
mod appeals;
mod blobs;
mod crash;
mod datasets;
mod events;
mod fencing;
mod keys;
mod ledger;
pub mod long_run;
mod measurements;
mod nodes;
mod opening;
mod postgres;
mod retention;
mod runs;
mod samples;
mod standing;
mod sums;

use opengpu_coordinator::store::Store;
use tempfile::TempDir;

/// A private, empty database.
pub struct Database {
    /// For `Store::open`.
    pub url: String,
    /// Deletes the file in the end. Databases of Postgres go with their cluster.
    _folder: Option<TempDir>,
}

impl Database {
    pub fn sqlite() -> Self {
        let folder = TempDir::with_prefix("opengpu-store-").unwrap();
        Self {
            url: folder.path().join("opengpu.db").display().to_string(),
            _folder: Some(folder),
        }
    }

    pub async fn postgres() -> Self {
        Self {
            url: postgres::create_database().await,
            _folder: None,
        }
    }

    pub async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}

/// Runs each of these stories (`async fn(Database)`) on both databases. A story that is not
/// listed is dead code, which is an error.
macro_rules! on_both_databases {
    ($($story:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    super::$story(crate::store::Database::sqlite()).await;
                }
            )*
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    super::$story(crate::store::Database::postgres().await).await;
                }
            )*
        }
    };
}
use on_both_databases;
