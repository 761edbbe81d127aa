//! What was measured about a run: held-out losses, and one line for each round. Nothing is
//! decided from it; it may be pruned.

use opengpu_protocol::wire::Evaluation;
use opengpu_rounds::{Revision, RunId};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    TransactionTrait, sea_query::OnConflict,
};

use super::{
    Result, Store,
    entities::{evaluation, round_metric},
    from_db, from_json, to_db, unix_ms,
};

/// A held-out loss and when it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredEvaluation {
    /// What was measured.
    pub evaluation: Evaluation,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What was measured about a round, in whatever form the driver gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundMetric {
    /// Of which lineage.
    pub lineage: u32,
    /// Which round.
    pub round: u64,
    /// What.
    pub body: serde_json::Value,
}

impl Store {
    /// Keeps a held-out loss; a second one of the same revision replaces the first.
    pub async fn put_evaluation(&self, run: RunId, evaluation: &Evaluation) -> Result<()> {
        use evaluation::Column;
        evaluation::Entity::insert(evaluation::ActiveModel {
            run: Set(to_db(run.0)?),
            lineage: Set(i64::from(evaluation.revision.lineage)),
            number: Set(to_db(evaluation.revision.number)?),
            nats_per_token: Set(evaluation.nats_per_token),
            bits_per_byte: Set(evaluation.bits_per_byte),
            at_ms: Set(unix_ms()),
        })
        .on_conflict(
            OnConflict::columns([Column::Run, Column::Lineage, Column::Number])
                .update_columns([Column::NatsPerToken, Column::BitsPerByte, Column::AtMs])
                .to_owned(),
        )
        .exec_without_returning(&self.writer)
        .await?;
        Ok(())
    }

    /// All held-out losses of a run, by revision.
    pub async fn evaluations(&self, run: RunId) -> Result<Vec<StoredEvaluation>> {
        let rows = evaluation::Entity::find()
            .filter(evaluation::Column::Run.eq(to_db(run.0)?))
            .order_by_asc(evaluation::Column::Lineage)
            .order_by_asc(evaluation::Column::Number)
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| StoredEvaluation {
                evaluation: Evaluation {
                    revision: Revision {
                        lineage: u32::try_from(row.lineage).unwrap_or(u32::MAX),
                        number: from_db(row.number),
                    },
                    nats_per_token: row.nats_per_token,
                    bits_per_byte: row.bits_per_byte,
                },
                at_ms: from_db(row.at_ms),
            })
            .collect())
    }

    /// Keeps what was measured about a round, replacing what was kept about it before, and
    /// forgets all but the newest `keep` rounds of the run.
    pub async fn put_round_metric(
        &self,
        run: RunId,
        metric: &RoundMetric,
        keep: u64,
    ) -> Result<()> {
        use round_metric::Column;
        let id = to_db(run.0)?;
        let tx = self.writer.begin().await?;
        round_metric::Entity::insert(round_metric::ActiveModel {
            run: Set(id),
            lineage: Set(i64::from(metric.lineage)),
            round: Set(to_db(metric.round)?),
            body: Set(metric.body.to_string()),
        })
        .on_conflict(
            OnConflict::columns([Column::Run, Column::Lineage, Column::Round])
                .update_column(Column::Body)
                .to_owned(),
        )
        .exec_without_returning(&tx)
        .await?;
        // The newest one that goes, if there are more than `keep`.
        let beyond: Option<(i64, i64)> = round_metric::Entity::find()
            .select_only()
            .columns([Column::Lineage, Column::Round])
            .filter(Column::Run.eq(id))
            .order_by_desc(Column::Lineage)
            .order_by_desc(Column::Round)
            .offset(keep)
            .limit(1)
            .into_tuple()
            .one(&tx)
            .await?;
        if let Some((lineage, round)) = beyond {
            round_metric::Entity::delete_many()
                .filter(Column::Run.eq(id))
                .filter(
                    Column::Lineage
                        .lt(lineage)
                        .or(Column::Lineage.eq(lineage).and(Column::Round.lte(round))),
                )
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// What was measured about the newest `limit` rounds of a run, oldest first.
    pub async fn round_metrics(&self, run: RunId, limit: u64) -> Result<Vec<RoundMetric>> {
        let mut rows = round_metric::Entity::find()
            .filter(round_metric::Column::Run.eq(to_db(run.0)?))
            .order_by_desc(round_metric::Column::Lineage)
            .order_by_desc(round_metric::Column::Round)
            .limit(limit)
            .all(&self.reader)
            .await?;
        rows.reverse();
        rows.into_iter()
            .map(|row| {
                Ok(RoundMetric {
                    lineage: u32::try_from(row.lineage).unwrap_or(u32::MAX),
                    round: from_db(row.round),
                    body: from_json(&row.body, || {
                        format!("the measurements of round {} of run {}", row.round, row.run)
                    })?,
                })
            })
            .collect()
    }
}
