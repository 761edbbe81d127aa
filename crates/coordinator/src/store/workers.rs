//! Workers: the devices that nodes have offered.

use opengpu_protocol::wire::Offer;
use opengpu_rounds::{NodeId, WorkerId};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::Expr,
};

use super::{
    Result, Store, StoreError, entities::worker, from_db, from_json, is_unique_violation, to_db,
    to_json, unix_ms,
};

/// A device of a node.
#[derive(Clone, Debug)]
pub struct WorkerRecord {
    /// Its lasting name.
    pub id: WorkerId,
    /// On which machine.
    pub node: NodeId,
    /// Which device there.
    pub device: u32,
    /// What it is, as its agent said last.
    pub offer: Offer,
}

impl Store {
    /// The worker of this device, made when it is offered first. Later offers only change
    /// its description.
    pub async fn worker_for(&self, node: NodeId, device: u32, offer: &Offer) -> Result<WorkerId> {
        let node_id = to_db(node.0)?;
        let offer = to_json("an offer", offer)?;
        for _ in 0..3 {
            let known = worker::Entity::find()
                .filter(worker::Column::Node.eq(node_id))
                .filter(worker::Column::Device.eq(i64::from(device)))
                .one(&self.reader)
                .await?;
            if let Some(known) = known {
                if known.offer != offer {
                    worker::Entity::update_many()
                        .col_expr(worker::Column::Offer, Expr::value(offer))
                        .filter(worker::Column::Id.eq(known.id))
                        .exec(&self.writer)
                        .await?;
                }
                return Ok(WorkerId(from_db(known.id)));
            }
            let inserted = worker::Entity::insert(worker::ActiveModel {
                id: NotSet,
                node: Set(node_id),
                device: Set(i64::from(device)),
                offer: Set(offer.clone()),
                created_ms: Set(unix_ms()),
            })
            .exec(&self.writer)
            .await;
            match inserted {
                Ok(inserted) => return Ok(WorkerId(from_db(inserted.last_insert_id))),
                // Offered twice at once: the other one's row is there now.
                Err(error) if is_unique_violation(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Missing(format!(
            "worker for device {device} of node {node}"
        )))
    }

    /// The workers of a node, by device.
    pub async fn workers_of(&self, node: NodeId) -> Result<Vec<WorkerRecord>> {
        let rows = worker::Entity::find()
            .filter(worker::Column::Node.eq(to_db(node.0)?))
            .order_by_asc(worker::Column::Device)
            .all(&self.reader)
            .await?;
        rows.into_iter().map(record).collect()
    }

    /// All workers, oldest first.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        let rows = worker::Entity::find()
            .order_by_asc(worker::Column::Id)
            .all(&self.reader)
            .await?;
        rows.into_iter().map(record).collect()
    }
}

fn record(row: worker::Model) -> Result<WorkerRecord> {
    Ok(WorkerRecord {
        id: WorkerId(from_db(row.id)),
        node: NodeId(from_db(row.node)),
        device: u32::try_from(row.device).unwrap_or(u32::MAX),
        offer: from_json(&row.offer, || format!("worker {}", row.id))?,
    })
}
