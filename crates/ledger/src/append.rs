//! Adding an entry: its line, its index, and the hashes that a store must keep with it.
//!
//! The store writes the line and the hashes in one transaction, and signs a head later.

use crate::tree::{Frontier, TreeHash, leaf_hash};
use crate::{Entry, EntryError, line};

/// What a store keeps of an appended entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The entry's index, from 0.
    pub index: u64,
    /// Its line, without newline.
    pub line: String,
    /// Hashes with their stored index (see [`tree::stored`](crate::tree::stored)), rising;
    /// fewer than two for each entry on average.
    pub hashes: Vec<(u64, TreeHash)>,
}

/// Appends an entry to the ledger that `frontier` stands for. On an error nothing was
/// changed.
pub fn append(frontier: &mut Frontier, entry: &Entry) -> Result<Appended, EntryError> {
    let index = frontier.size();
    entry.check_place(index)?;
    let line = line::write(entry)?;
    let hashes = frontier.append(leaf_hash(line.as_bytes()));
    Ok(Appended {
        index,
        line,
        hashes,
    })
}
