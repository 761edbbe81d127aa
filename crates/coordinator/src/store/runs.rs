//! Runs: what was declared, who drives them, and how long their log is.

use opengpu_protocol::{RunSpec, wire::DatasetManifest};
use opengpu_rounds::{Event, RunId};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, TransactionTrait,
    sea_query::Expr,
};

use super::{
    AppendError, OwnerEpoch, Result, Store, StoreError, datasets,
    entities::{dataset, run},
    events::{Encoded, insert_events},
    from_db, from_json, is_unique_violation, to_db, to_json, unix_ms,
};

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// Which.
    pub id: RunId,
    /// Unique.
    pub name: String,
    /// What was declared.
    pub spec: RunSpec,
    /// Its data, as it was when the run was made.
    pub dataset: DatasetManifest,
    /// How many owners it has had.
    pub epoch: OwnerEpoch,
    /// Sequence number of its newest event.
    pub head: u64,
    /// Whether it is finished or failed.
    pub ended: bool,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
}

/// Why a run was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateRunError {
    /// Another run has that name.
    #[error("there is a run named `{0}`; names are unique, so choose another")]
    NameTaken(String),
    /// The dataset that it names is not here.
    #[error("there is no dataset named `{0}`; `opengpu dataset list` shows those there are")]
    UnknownDataset(String),
    /// Its first events can't be stored.
    #[error("the first events of the run can't be stored")]
    Events(#[source] AppendError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for CreateRunError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Makes a run with its first events (numbers 1, 2, …). Its name and dataset are the
    /// spec's; the dataset's manifest is copied into the run. Nobody owns it yet: `claim` it.
    pub async fn create_run(
        &self,
        spec: &RunSpec,
        events: &[Event],
    ) -> Result<RunId, CreateRunError> {
        let spec_json = to_json("a run file", spec)?;
        let events = Encoded::all(events).map_err(CreateRunError::Events)?;
        let tx = self.writer.begin().await?;
        // Holds the dataset's row, so that it can't be deleted while the run is made.
        if !datasets::lock(&tx, &spec.dataset).await? {
            return Err(CreateRunError::UnknownDataset(spec.dataset.clone()));
        }
        let dataset = dataset::Entity::find_by_id(spec.dataset.clone())
            .one(&tx)
            .await?
            .ok_or_else(|| CreateRunError::UnknownDataset(spec.dataset.clone()))?;
        let inserted = run::Entity::insert(run::ActiveModel {
            id: NotSet,
            name: Set(spec.name.clone()),
            dataset: Set(spec.dataset.clone()),
            manifest: Set(dataset.manifest),
            spec: Set(spec_json),
            epoch: Set(0),
            head: Set(to_db(events.len() as u64)?),
            ended: Set(false),
            created_ms: Set(unix_ms()),
        })
        .exec(&tx)
        .await;
        let id = match inserted {
            Ok(inserted) => inserted.last_insert_id,
            Err(error) if is_unique_violation(&error) => {
                return Err(CreateRunError::NameTaken(spec.name.clone()));
            }
            Err(error) => return Err(error.into()),
        };
        insert_events(&tx, id, 0, events).await?;
        tx.commit().await?;
        Ok(RunId(from_db(id)))
    }

    /// One run.
    pub async fn run(&self, run: RunId) -> Result<Option<RunRecord>> {
        run::Entity::find_by_id(to_db(run.0)?)
            .one(&self.reader)
            .await?
            .map(record)
            .transpose()
    }

    /// The run with this name.
    pub async fn run_named(&self, name: &str) -> Result<Option<RunRecord>> {
        run::Entity::find()
            .filter(run::Column::Name.eq(name))
            .one(&self.reader)
            .await?
            .map(record)
            .transpose()
    }

    /// All runs, oldest first.
    pub async fn runs(&self) -> Result<Vec<RunRecord>> {
        let rows = run::Entity::find()
            .order_by_asc(run::Column::Id)
            .all(&self.reader)
            .await?;
        rows.into_iter().map(record).collect()
    }

    /// Makes the caller the owner of a run: from the moment this returns, no earlier owner
    /// can append anything. Read the log after claiming, not before.
    pub async fn claim(&self, run: RunId) -> Result<OwnerEpoch> {
        let id = to_db(run.0)?;
        let tx = self.writer.begin().await?;
        let claimed = run::Entity::update_many()
            .col_expr(run::Column::Epoch, Expr::col(run::Column::Epoch).add(1))
            .filter(run::Column::Id.eq(id))
            .exec(&tx)
            .await?
            .rows_affected;
        let row = run::Entity::find_by_id(id).one(&tx).await?;
        match row {
            Some(row) if claimed == 1 => {
                tx.commit().await?;
                Ok(OwnerEpoch(from_db(row.epoch)))
            }
            _ => Err(StoreError::Missing(format!("run {run}"))),
        }
    }
}

fn record(row: run::Model) -> Result<RunRecord> {
    let what = || format!("run {}", row.id);
    Ok(RunRecord {
        id: RunId(from_db(row.id)),
        spec: from_json(&row.spec, what)?,
        dataset: from_json(&row.manifest, what)?,
        name: row.name,
        epoch: OwnerEpoch(from_db(row.epoch)),
        head: from_db(row.head),
        ended: row.ended,
        created_ms: from_db(row.created_ms),
    })
}
