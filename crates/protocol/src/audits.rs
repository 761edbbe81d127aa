//! What a node that an operator vouches for is told of an assignment that it is to train again,
//! and what it answers: the progress in the drawn chunks (`opengpu_merge::audit::Again`) to
//! `PUT /v1/runs/{run}/audits/{number}/{hash}`, or [`AuditDeclined`].
//!
//! Whose assignment it is, and what was sent for it, is not among it.

use opengpu_rounds::{BlockRange, Hash, Revision};
use serde::{Deserialize, Serialize};

use crate::wire::History;

/// An assignment to be trained again, as a pure function of these fields and of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditPlan {
    /// Names it, and means nothing.
    pub number: u64,
    /// The weights to start from: `GET /v1/runs/{run}/history?lineage=L&to=N` says how to make
    /// them where they are not at hand.
    pub base: Revision,
    /// Digest of those weights.
    pub digest: Hash,
    /// All blocks of the assignment, in training order.
    pub blocks: Vec<BlockRange>,
    /// How many of them are to be trained.
    pub blocks_completed: u64,
    /// Progress of the run (0 to 1) at the first step.
    pub progress_from: f64,
    /// Progress of the run when all blocks are done.
    pub progress_to: f64,
    /// The chunks of which the progress is asked for, rising.
    pub chunks: Vec<u32>,
}

/// `POST /v1/runs/{run}/audits/{number}` (signed): the node can't train it again. Somebody else
/// is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditDeclined {
    /// Why, for a person.
    pub reason: String,
}

impl History {
    /// Digest of the weights that it leads to from the checkpoint.
    pub fn digest(&self) -> Hash {
        let last = self.merges.last();
        last.map_or(self.checkpoint.weights, |merge| merge.digest)
    }
}
