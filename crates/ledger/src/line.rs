//! An entry as bytes: one line of JSON. These bytes, without the newline, are the leaf that
//! is hashed, and an export is these lines one after the other.
//!
//! An entry has one line and no other: no spaces, fields in the order of [`Entry`], numbers
//! in their shortest form. Anything else is refused, because readers of JSON differ over it.
//! (Of two fields with one name some take the first, some the last, and a line that says two
//! things proves nothing.)

use crate::{Entry, EntryError};

/// Longest line in bytes, without the newline. The longest of today has about 350.
pub const MAX_LINE_BYTES: usize = 1024;

/// Why bytes are no line of a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Longer than any entry.
    #[error("the line has more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not JSON, or not an entry.
    #[error("the line is no ledger entry that this program knows")]
    Unreadable(#[source] serde_json::Error),
    /// An entry with an impossible value.
    #[error("the line's entry is impossible")]
    Impossible(#[source] EntryError),
    /// An entry, but not as it is written.
    #[error(
        "the line differs from the only form of its entry at byte {at}; that form is {expected}; a newer program may know a field that this one does not"
    )]
    OtherForm {
        /// Where they differ.
        at: usize,
        /// How this entry is written.
        expected: String,
    },
}

/// The line of an entry, without newline.
pub fn write(entry: &Entry) -> Result<String, EntryError> {
    entry.check_integers()?;
    Ok(json(entry))
}

/// The entry of a line, without newline. Exact: [`write()`] gives back the same bytes.
pub fn read(line: &[u8]) -> Result<Entry, LineError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(LineError::TooLong);
    }
    let entry: Entry = serde_json::from_slice(line).map_err(LineError::Unreadable)?;
    let expected = write(&entry).map_err(LineError::Impossible)?;
    if expected.as_bytes() == line {
        return Ok(entry);
    }
    let same = |(ours, theirs): &(&u8, &u8)| ours == theirs;
    let at = expected.as_bytes().iter().zip(line).take_while(same);
    Err(LineError::OtherForm {
        at: at.count(),
        expected,
    })
}

fn json(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("an entry has string keys and finite numbers only")
}
