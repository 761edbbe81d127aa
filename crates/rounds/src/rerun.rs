//! Who trains an audited assignment again, and whom to believe when two trainings differ. How two
//! trainings are compared is no matter of this crate (`opengpu_merge::audit`).
//!
//! Nobody trains again what is his own: neither a node its updates nor an account those of its
//! nodes. The choice follows from a number that was drawn after the worker had committed itself,
//! so that it can't know who will look. And nobody is believed alone: who contradicts a worker is
//! contradicted or confirmed by somebody else before anything follows.

use serde::{Deserialize, Serialize};

use crate::{NodeId, WorkerId};

/// Audits that one worker is asked for at once: one that it makes, and the next.
pub const MOST_ASKED: usize = 2;

/// One training again of an audited assignment, as it compares with what its worker claims.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rerun {
    /// Which node did it; None: the coordinator's own trainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<NodeId>,
    /// Which of its workers. Not kept in logs from before nodes were credited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Whether it differs from the training that decided.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuted: bool,
    /// How far the worker's progress is from it; None: farther than any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// The largest distance that passes between these two.
    pub allowed: f64,
}

impl Rerun {
    /// By a node's worker, or by the coordinator's own trainer. A distance that is no finite
    /// number is farther than any.
    pub fn new(by: Option<(NodeId, WorkerId)>, measured: f64, allowed: f64) -> Self {
        Self {
            by: by.map(|(node, _)| node),
            worker: by.map(|(_, worker)| worker),
            refuted: false,
            measured: measured.is_finite().then_some(measured),
            allowed,
        }
    }

    /// Whether the worker's progress is the same within what is allowed.
    pub fn agrees(&self) -> bool {
        self.measured
            .is_some_and(|measured| measured <= self.allowed)
    }
}

/// Who has to do with an audit: whose assignment it is, and who trained it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Involved {
    /// The worker's node.
    pub node: NodeId,
    /// The account that the node belongs to.
    pub account: Option<u64>,
}

/// A worker that may train an assignment again: an operator vouches for its node, it is there, and
/// it has the run's model and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub worker: WorkerId,
    /// On which node.
    pub node: NodeId,
    /// The account that the node belongs to.
    pub account: Option<u64>,
    /// Whether its device is of the audited worker's numerics class.
    pub same_class: bool,
    /// Audits that it is asked for already.
    pub asked: usize,
}

/// Who is to train an assignment again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This worker of this node.
    Ask(WorkerId, NodeId),
    /// There are nodes that may; all of them have enough to do.
    Wait,
    /// No node may.
    Nobody,
}

impl Involved {
    /// Whether this worker is of another node, and of another account if both have one.
    fn is_other_than(&self, candidate: &Candidate) -> bool {
        let same_account = self.account.is_some() && self.account == candidate.account;
        candidate.node != self.node && !same_account
    }
}

/// Who trains an assignment of the first of `involved` again; the others are those who did so
/// before. Numerics classes first, for in one class the same work gives the same bytes; then who is
/// asked for least; then by the draw.
pub fn choose_auditor(involved: &[Involved], candidates: &[Candidate], draw: u64) -> Choice {
    let may = |candidate: &&Candidate| involved.iter().all(|one| one.is_other_than(candidate));
    let may: Vec<&Candidate> = candidates.iter().filter(may).collect();
    let free = may.iter().filter(|one| one.asked < MOST_ASKED);
    let best = free.min_by_key(|one| (!one.same_class, one.asked, mixed(draw, one.worker)));
    match best {
        Some(best) => Choice::Ask(best.worker, best.node),
        None if may.is_empty() => Choice::Nobody,
        None => Choice::Wait,
    }
}

/// A number for each worker that nobody can tell without the draw.
fn mixed(draw: u64, worker: WorkerId) -> u64 {
    // The finalizer of SplitMix64.
    let mut mixed = draw ^ worker.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Whom to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// The worker: whoever contradicted it is contradicted by the third.
    Worker,
    /// Who contradicted the worker: the third does so too, and gets the same.
    Auditor,
    /// The third is too coarse to tell the two apart. Nobody is to blame.
    Both,
    /// All three differ.
    Nobody,
}

/// Whom to believe, after a second training contradicted the worker, by whether a third agrees
/// with either: two of three.
pub fn believe(third_and_worker: bool, third_and_second: bool) -> Belief {
    match (third_and_worker, third_and_second) {
        (true, false) => Belief::Worker,
        (false, true) => Belief::Auditor,
        (true, true) => Belief::Both,
        (false, false) => Belief::Nobody,
    }
}
