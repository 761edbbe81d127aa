//! The right edge of a tree: all that is needed to append, and to know the root.

use super::hash::node_hash;
use super::{EMPTY_ROOT, MAX_SIZE, PlanError, TreeHash, stored};

/// The complete subtrees of a tree, largest first: one for each one bit of its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<TreeHash>,
}

impl Frontier {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Indexes of the stored hashes that [`restore`](Self::restore) needs, fewer than 53.
    pub fn stored_indexes(size: u64) -> Result<Vec<u64>, PlanError> {
        if size > MAX_SIZE {
            return Err(PlanError::TooLarge { size });
        }
        Ok(stored::subtrees(0, size).collect())
    }

    /// The tree of `size` leaves, of the hashes at [`stored_indexes`](Self::stored_indexes).
    pub fn restore(size: u64, hashes: Vec<TreeHash>) -> Result<Self, PlanError> {
        let expected = Self::stored_indexes(size)?.len();
        if hashes.len() != expected {
            let found = hashes.len();
            return Err(PlanError::WrongCount { expected, found });
        }
        Ok(Self {
            size,
            subtrees: hashes,
        })
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf. Answers with the hashes to store, each with its index.
    pub fn append(&mut self, leaf: TreeHash) -> Vec<(u64, TreeHash)> {
        let first = stored::count(self.size);
        let mut hash = leaf;
        let mut new = vec![(first, hash)];
        // Each trailing one bit of the size is a subtree that this leaf pairs up.
        for above in 1..=u64::from(self.size.trailing_ones()) {
            let left = self.subtrees.pop().expect("one subtree for each one bit");
            hash = node_hash(left, hash);
            new.push((first + above, hash));
        }
        self.subtrees.push(hash);
        self.size += 1;
        new
    }

    /// The root of the tree.
    pub fn root(&self) -> TreeHash {
        let joined = |right, left: &TreeHash| node_hash(*left, right);
        match self.subtrees.split_last() {
            Some((smallest, rest)) => rest.iter().rev().fold(*smallest, joined),
            None => EMPTY_ROOT,
        }
    }
}
