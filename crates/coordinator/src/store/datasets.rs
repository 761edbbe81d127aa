//! Datasets: manifests, whose shards are blobs.

use opengpu_protocol::wire::DatasetManifest;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, TransactionTrait, sea_query::Expr,
};

use super::{
    Result, Store, StoreError,
    entities::{dataset, run},
    from_json, is_unique_violation, to_json, unix_ms,
};

/// Why a dataset was not added or deleted.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Another one has that name.
    #[error(
        "there is another dataset named `{0}`; choose another name, or remove it first with `opengpu dataset remove {0}`"
    )]
    NameTaken(String),
    /// There is none of that name.
    #[error("there is no dataset named `{0}`; `opengpu dataset list` shows those there are")]
    Unknown(String),
    /// Runs that are not over need it.
    #[error(
        "dataset `{name}` is in use by {}; stop them first with `opengpu run stop`", runs.join(", ")
    )]
    InUse {
        /// The dataset.
        name: String,
        /// Names of the runs.
        runs: Vec<String>,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for DatasetError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Adds a dataset. Adding the same again changes nothing. Its blobs must be durable.
    pub async fn put_dataset(&self, manifest: &DatasetManifest) -> Result<(), DatasetError> {
        let inserted = dataset::Entity::insert(dataset::ActiveModel {
            name: Set(manifest.name.clone()),
            manifest: Set(to_json("a dataset's manifest", manifest)?),
            created_ms: Set(unix_ms()),
        })
        .exec_without_returning(&self.writer)
        .await;
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if is_unique_violation(&error) => {
                match self.dataset(&manifest.name).await? {
                    Some(there) if there == *manifest => Ok(()),
                    _ => Err(DatasetError::NameTaken(manifest.name.clone())),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One dataset.
    pub async fn dataset(&self, name: &str) -> Result<Option<DatasetManifest>> {
        dataset::Entity::find_by_id(name.to_owned())
            .one(&self.reader)
            .await?
            .map(record)
            .transpose()
    }

    /// All datasets, by name.
    pub async fn datasets(&self) -> Result<Vec<DatasetManifest>> {
        let rows = dataset::Entity::find()
            .order_by_asc(dataset::Column::Name)
            .all(&self.reader)
            .await?;
        rows.into_iter().map(record).collect()
    }

    /// Deletes a dataset that no run in progress uses. Its blobs go with the next collection.
    pub async fn delete_dataset(&self, name: &str) -> Result<(), DatasetError> {
        let tx = self.writer.begin().await?;
        // Holds the row, so that no run is made from it meanwhile.
        if !lock(&tx, name).await? {
            return Err(DatasetError::Unknown(name.to_owned()));
        }
        let runs: Vec<String> = run::Entity::find()
            .select_only()
            .column(run::Column::Name)
            .filter(run::Column::Dataset.eq(name))
            .filter(run::Column::Ended.eq(false))
            .order_by_asc(run::Column::Id)
            .into_tuple()
            .all(&tx)
            .await?;
        if !runs.is_empty() {
            return Err(DatasetError::InUse {
                name: name.to_owned(),
                runs,
            });
        }
        dataset::Entity::delete_by_id(name.to_owned())
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Holds a dataset's row until the transaction ends, by writing what is there already:
/// `FOR UPDATE` is not every database's. False: there is no such dataset.
pub(super) async fn lock(tx: &impl ConnectionTrait, name: &str) -> Result<bool> {
    let held = dataset::Entity::update_many()
        .col_expr(
            dataset::Column::CreatedMs,
            Expr::col(dataset::Column::CreatedMs),
        )
        .filter(dataset::Column::Name.eq(name))
        .exec(tx)
        .await?
        .rows_affected;
    Ok(held == 1)
}

fn record(row: dataset::Model) -> Result<DatasetManifest> {
    from_json(&row.manifest, || format!("dataset `{}`", row.name))
}
