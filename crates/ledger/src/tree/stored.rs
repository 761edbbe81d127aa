//! Where the hash of a complete subtree is stored: one integer for each.
//!
//! The order is that in which hashes come to be: a leaf's, then those of the subtrees that it
//! completes, smallest first. (Crosby and Wallach, *Efficient Data Structures for
//! Tamper-Evident Logging*, 2009, section 3.3; Go's checksum database stores its hashes so.)
//! So a table of hashes is only ever appended to.

/// How many hashes are stored for a ledger of `size` leaves, at most
/// [`MAX_SIZE`](super::MAX_SIZE). A leaf's own hash has this index, with the number of leaves
/// before it as `size`.
pub fn count(size: u64) -> u64 {
    // n leaves complete n/2 + n/4 + n/8 + … larger subtrees, which is n minus its one bits.
    2 * size - u64::from(size.count_ones())
}

/// The index of the `position`-th complete subtree of 2^`level` leaves.
fn index(level: u32, position: u64) -> u64 {
    let last_leaf = ((position + 1) << level) - 1;
    count(last_leaf) + u64::from(level)
}

/// Indexes of the complete subtrees that make up the leaves `start` to `end`, largest first.
/// The range must be a node of a tree of at most [`MAX_SIZE`](super::MAX_SIZE) leaves: then
/// `start` is a multiple of each of their sizes.
pub(super) fn subtrees(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let mut start = start;
    std::iter::from_fn(move || {
        let level = (end - start).checked_ilog2()?;
        let position = start >> level;
        start += 1 << level;
        Some(index(level, position))
    })
}
