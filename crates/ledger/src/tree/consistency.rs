//! Proofs that one tree goes on another: that nothing in it was changed, moved or removed
//! (RFC 9162, section 2.1.4).

use super::hash::node_hash;
use super::inclusion::left_leaves;
use super::{EMPTY_ROOT, MAX_SIZE, PlanError, ProofPlan, TreeHash};

/// Why a tree is not proven to go on an older one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsistencyError {
    /// There are no such two trees.
    #[error("the proof is for no possible pair of heads")]
    Impossible(#[source] PlanError),
    /// The proof is too short or too long.
    #[error("the proof from {older} entries to {newer} has {found} hashes instead of {expected}")]
    WrongLength {
        /// Size of the older tree.
        older: u64,
        /// Size of the newer tree.
        newer: u64,
        /// How many hashes prove it.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// Nothing hashes to this.
    #[error("the root of a ledger without entries is {EMPTY_ROOT}, not {found}")]
    NotEmptyRoot {
        /// What a head of size 0 says.
        found: TreeHash,
    },
    /// The proof does not begin at the older root.
    #[error("the proof leads to the root {found} at {older} entries instead of {expected}")]
    WrongOlderRoot {
        /// Size of the older tree.
        older: u64,
        /// The older head's root.
        expected: TreeHash,
        /// The computed one.
        found: TreeHash,
    },
    /// The proof does not end at the newer root.
    #[error("the proof leads to the root {found} at {newer} entries instead of {expected}")]
    WrongNewerRoot {
        /// Size of the newer tree.
        newer: u64,
        /// The newer head's root.
        expected: TreeHash,
        /// The computed one.
        found: TreeHash,
    },
}

/// What proves that the tree of `newer` leaves begins with the tree of `older` leaves.
pub fn plan_consistency(older: u64, newer: u64) -> Result<ProofPlan, PlanError> {
    Ok(ProofPlan::of(&nodes(older, newer)?))
}

/// Checks that the tree of `newer` leaves with `newer_root` begins with that of `older`
/// leaves with `older_root`. Every tree goes on the empty one, which needs no hashes.
pub fn verify_consistency(
    (older, older_root): (u64, TreeHash),
    (newer, newer_root): (u64, TreeHash),
    proof: &[TreeHash],
) -> Result<(), ConsistencyError> {
    let nodes = nodes(older, newer).map_err(ConsistencyError::Impossible)?;
    if proof.len() != nodes.len() {
        return Err(ConsistencyError::WrongLength {
            older,
            newer,
            expected: nodes.len(),
            found: proof.len(),
        });
    }
    for (size, found) in [(older, older_root), (newer, newer_root)] {
        if size == 0 && found != EMPTY_ROOT {
            return Err(ConsistencyError::NotEmptyRoot { found });
        }
    }
    if older == 0 {
        return Ok(());
    }
    let mut hashes = nodes.iter().zip(proof).peekable();
    // The largest subtree that ends where the older tree ends. If it is all of the older
    // tree, the verifier knows its hash and the proof leaves it out.
    let (mut to_older, mut to_newer) = (older_root, older_root);
    if let Some((_, &seed)) = hashes.next_if(|((_, end), _)| *end == older) {
        (to_older, to_newer) = (seed, seed);
    }
    for (&(start, _), &hash) in hashes {
        if start >= older {
            to_newer = node_hash(to_newer, hash);
        } else {
            to_older = node_hash(hash, to_older);
            to_newer = node_hash(hash, to_newer);
        }
    }
    if to_older != older_root {
        return Err(ConsistencyError::WrongOlderRoot {
            older,
            expected: older_root,
            found: to_older,
        });
    }
    if to_newer != newer_root {
        return Err(ConsistencyError::WrongNewerRoot {
            newer,
            expected: newer_root,
            found: to_newer,
        });
    }
    Ok(())
}

/// The nodes of the proof, from the lowest up, each by the leaves under it.
fn nodes(older: u64, newer: u64) -> Result<Vec<(u64, u64)>, PlanError> {
    if newer > MAX_SIZE {
        return Err(PlanError::TooLarge { size: newer });
    }
    if older > newer {
        return Err(PlanError::WrongOrder { older, newer });
    }
    let mut nodes = Vec::new();
    if older == 0 {
        return Ok(nodes);
    }
    let (mut start, mut end) = (0, newer);
    while older != end {
        let middle = start + left_leaves(end - start);
        if older <= middle {
            nodes.push((middle, end));
            end = middle;
        } else {
            nodes.push((start, middle));
            start = middle;
        }
    }
    if start > 0 {
        nodes.push((start, end));
    }
    nodes.reverse();
    Ok(nodes)
}
