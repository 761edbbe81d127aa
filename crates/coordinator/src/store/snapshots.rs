//! Snapshots: the state of a run at some event, so that opening it folds only what came
//! after. They are a cache: any of them may be lost or ignored, the log alone decides.

use opengpu_rounds::RunId;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    TransactionTrait, sea_query::OnConflict,
};

use super::{
    Result, Store, StoreError,
    entities::{run, snapshot},
    from_db, to_db,
};

/// How many snapshots of a run are kept: the newest, and the one before in case a program
/// of the form before is started again.
const KEPT: u64 = 2;

/// The state of a run at some event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last event that is folded into it.
    pub seq: u64,
    /// The state, in whatever form the driver gave it.
    pub body: String,
}

impl Store {
    /// Keeps the state of a run after event `seq`, which must be in the log. `format` is the
    /// driver's: another format's snapshots are ignored by [`Store::latest_snapshot`].
    pub async fn put_snapshot(&self, run: RunId, seq: u64, format: u32, body: &str) -> Result<()> {
        let id = to_db(run.0)?;
        let tx = self.writer.begin().await?;
        snapshot::Entity::insert(snapshot::ActiveModel {
            run: Set(id),
            seq: Set(to_db(seq)?),
            format: Set(i64::from(format)),
            body: Set(body.to_owned()),
        })
        .on_conflict(
            OnConflict::columns([snapshot::Column::Run, snapshot::Column::Seq])
                .update_columns([snapshot::Column::Format, snapshot::Column::Body])
                .to_owned(),
        )
        .exec_without_returning(&tx)
        .await?;
        let head = run::Entity::find_by_id(id)
            .one(&tx)
            .await?
            .map(|row| from_db(row.head));
        if head.is_none_or(|head| head < seq) {
            tx.rollback().await?;
            return Err(StoreError::Missing(format!("event {seq} of run {run}")));
        }
        let oldest_kept: Option<i64> = snapshot::Entity::find()
            .select_only()
            .column(snapshot::Column::Seq)
            .filter(snapshot::Column::Run.eq(id))
            .order_by_desc(snapshot::Column::Seq)
            .offset(KEPT - 1)
            .limit(1)
            .into_tuple()
            .one(&tx)
            .await?;
        if let Some(oldest_kept) = oldest_kept {
            snapshot::Entity::delete_many()
                .filter(snapshot::Column::Run.eq(id))
                .filter(snapshot::Column::Seq.lt(oldest_kept))
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The newest snapshot of this format.
    pub async fn latest_snapshot(&self, run: RunId, format: u32) -> Result<Option<Snapshot>> {
        let row = snapshot::Entity::find()
            .filter(snapshot::Column::Run.eq(to_db(run.0)?))
            .filter(snapshot::Column::Format.eq(i64::from(format)))
            .order_by_desc(snapshot::Column::Seq)
            .one(&self.reader)
            .await?;
        Ok(row.map(|row| Snapshot {
            seq: from_db(row.seq),
            body: row.body,
        }))
    }
}
