//! Proofs that a leaf is in a tree (RFC 9162, section 2.1.3; "audit path" in RFC 6962).

use super::hash::node_hash;
use super::{MAX_SIZE, PlanError, ProofPlan, TreeHash};

/// Why a leaf is not proven to be in a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InclusionError {
    /// There is no such entry, or no such tree.
    #[error("the proof is for no possible entry")]
    Impossible(#[source] PlanError),
    /// The proof is too short or too long.
    #[error("the proof of entry {index} of {size} has {found} hashes instead of {expected}")]
    WrongLength {
        /// Which entry.
        index: u64,
        /// Of how many.
        size: u64,
        /// How many hashes prove it.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// The leaf, its place or the proof is another than the head's.
    #[error("entry {index} and its proof lead to the root {found} instead of {expected}")]
    WrongRoot {
        /// Which entry.
        index: u64,
        /// The head's root.
        expected: TreeHash,
        /// The computed one.
        found: TreeHash,
    },
}

/// What proves that leaf `index` is in the tree of the first `size` leaves.
pub fn plan_inclusion(index: u64, size: u64) -> Result<ProofPlan, PlanError> {
    Ok(ProofPlan::of(&path(index, size)?))
}

/// Checks that `leaf` is at `index` in the tree of `size` leaves with this root.
pub fn verify_inclusion(
    leaf: TreeHash,
    index: u64,
    size: u64,
    root: TreeHash,
    proof: &[TreeHash],
) -> Result<(), InclusionError> {
    let path = path(index, size).map_err(InclusionError::Impossible)?;
    if proof.len() != path.len() {
        return Err(InclusionError::WrongLength {
            index,
            size,
            expected: path.len(),
            found: proof.len(),
        });
    }
    let mut hash = leaf;
    for (&(start, _), &sibling) in path.iter().zip(proof) {
        hash = if start > index {
            node_hash(hash, sibling)
        } else {
            node_hash(sibling, hash)
        };
    }
    if hash == root {
        Ok(())
    } else {
        Err(InclusionError::WrongRoot {
            index,
            expected: root,
            found: hash,
        })
    }
}

/// The siblings of the nodes from the leaf up to the root, each by the leaves under it.
fn path(index: u64, size: u64) -> Result<Vec<(u64, u64)>, PlanError> {
    if size > MAX_SIZE {
        return Err(PlanError::TooLarge { size });
    }
    if index >= size {
        return Err(PlanError::NoSuchEntry { index, size });
    }
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + left_leaves(end - start);
        if index < middle {
            siblings.push((middle, end));
            end = middle;
        } else {
            siblings.push((start, middle));
            start = middle;
        }
    }
    siblings.reverse();
    Ok(siblings)
}

/// Leaves left of where a tree of `size > 1` leaves parts: the largest power of two below
/// its size.
pub(super) fn left_leaves(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}
