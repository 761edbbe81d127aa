//! From a proof's nodes to stored hashes: which to read, and how to join them.
//!
//! Nodes at the right edge of a tree are incomplete, change as it grows, and are therefore
//! not stored; they are joined from the complete subtrees below them.

use super::hash::node_hash;
use super::{TreeHash, stored};

/// A proof to be made: read the hashes at [`indexes`](Self::indexes), then
/// [`fill`](Self::fill).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofPlan {
    indexes: Vec<u64>,
    /// How many of the indexes each hash of the proof is joined from.
    joined: Vec<usize>,
}

/// Why there is no such proof or tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Larger than any ledger.
    #[error("a ledger has at most 2^52 entries, not {size}")]
    TooLarge {
        /// What was asked.
        size: u64,
    },
    /// The entry is not in that tree.
    #[error("entry {index} is not among the first {size}")]
    NoSuchEntry {
        /// Which entry.
        index: u64,
        /// Of how many.
        size: u64,
    },
    /// The older tree is the larger one.
    #[error("a ledger of {newer} entries cannot go on one of {older}")]
    WrongOrder {
        /// Size of the older head.
        older: u64,
        /// Size of the newer head.
        newer: u64,
    },
    /// Other hashes were read than asked for.
    #[error("{expected} stored hashes were asked for, and {found} were given")]
    WrongCount {
        /// How many indexes there were.
        expected: usize,
        /// How many hashes came.
        found: usize,
    },
}

impl ProofPlan {
    /// A proof of these nodes, each named by the leaves under it.
    pub(super) fn of(nodes: &[(u64, u64)]) -> Self {
        let mut plan = Self {
            indexes: Vec::new(),
            joined: Vec::with_capacity(nodes.len()),
        };
        for &(start, end) in nodes {
            let before = plan.indexes.len();
            plan.indexes.extend(stored::subtrees(start, end));
            plan.joined.push(plan.indexes.len() - before);
        }
        plan
    }

    /// Indexes of the stored hashes to read, in this order.
    pub fn indexes(&self) -> &[u64] {
        &self.indexes
    }

    /// The proof, from the hashes at the indexes.
    pub fn fill(&self, hashes: &[TreeHash]) -> Result<Vec<TreeHash>, PlanError> {
        if hashes.len() != self.indexes.len() {
            return Err(PlanError::WrongCount {
                expected: self.indexes.len(),
                found: hashes.len(),
            });
        }
        let mut rest = hashes;
        let mut proof = Vec::with_capacity(self.joined.len());
        for &count in &self.joined {
            let (these, others) = rest.split_at(count);
            rest = others;
            let joined = these.iter().copied().rev();
            proof.extend(joined.reduce(|right, left| node_hash(left, right)));
        }
        Ok(proof)
    }
}
