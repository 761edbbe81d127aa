//! Verifying a whole ledger, offline: from its lines, its signed head, and any heads that
//! someone saved before.
//!
//! One pass; memory for the right edge of the tree, the older heads and the sums. It is not
//! checked that a correction names the node of the entry that it corrects: that entry is long
//! past. [`Entry::correction`](crate::Entry::correction) sees to it when a correction is made.

use std::io::{self, BufRead, Read};

use crate::line::{self, MAX_LINE_BYTES};
use crate::tree::{Frontier, TreeHash, leaf_hash};
use crate::{EntryError, Head, HeadError, LineError, Sums, VerifierKey};

/// A ledger that holds what its head and the older heads say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its head.
    pub head: Head,
    /// What its entries come to.
    pub sums: Sums,
}

/// Why an export does not hold. Lines and older heads are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The export's own head.
    #[error("the export's head cannot be relied on")]
    Head(#[source] HeadError),
    /// One of the saved heads.
    #[error("older head {number} cannot be relied on")]
    OlderHead {
        /// Which.
        number: usize,
        /// Why.
        source: HeadError,
    },
    /// A saved head has seen more entries than the export has.
    #[error(
        "older head {number} was signed over {older} entries, the export's head over {size}: the export is older than that head, or entries were removed"
    )]
    Shortened {
        /// Which older head.
        number: usize,
        /// Its size.
        older: u64,
        /// Size of the export's head.
        size: u64,
    },
    /// The coordinator has signed two ledgers of one size.
    #[error(
        "older head {number} was signed over {size} entries with the root {older}, the export's head over as many with {found}: there are two ledgers, and both heads together prove it"
    )]
    TwoLedgers {
        /// Which older head.
        number: usize,
        /// Size of both.
        size: u64,
        /// Root of the older head.
        older: TreeHash,
        /// Root of the export's head.
        found: TreeHash,
    },
    /// Reading failed.
    #[error("line {number} could not be read")]
    Read {
        /// Which line.
        number: u64,
        /// Why.
        source: io::Error,
    },
    /// The file ends within a line.
    #[error("line {number} has no newline at its end: the export is cut off")]
    CutOff {
        /// Which line.
        number: u64,
    },
    /// A line is no entry.
    #[error("line {number} is no entry of a ledger")]
    Line {
        /// Which line.
        number: u64,
        /// Why.
        source: LineError,
    },
    /// An entry that cannot stand at its place.
    #[error("line {number} cannot stand there")]
    Place {
        /// Which line.
        number: u64,
        /// Why.
        source: EntryError,
    },
    /// More lines than the head has signed.
    #[error("line {number} is past the {size} entries of the export's head")]
    TooManyLines {
        /// Which line.
        number: u64,
        /// Size of the export's head.
        size: u64,
    },
    /// Fewer lines than the head has signed.
    #[error("the export has {found} lines; its head was signed over {size}")]
    TooFewLines {
        /// Size of the export's head.
        size: u64,
        /// How many there are.
        found: u64,
    },
    /// The lines are others than when an older head was signed.
    #[error(
        "the first {older} lines have the root {found}; older head {number} was signed over {expected}: the ledger was rewritten"
    )]
    Rewritten {
        /// Which older head.
        number: usize,
        /// Its size.
        older: u64,
        /// Its root.
        expected: TreeHash,
        /// The root of the lines.
        found: TreeHash,
    },
    /// The lines are others than those that were signed.
    #[error("the {size} lines have the root {found}; the head was signed over {expected}")]
    WrongRoot {
        /// Size of the export's head.
        size: u64,
        /// Its root.
        expected: TreeHash,
        /// The root of the lines.
        found: TreeHash,
    },
}

/// An export on its way through: give it every line, then finish.
#[derive(Debug)]
pub struct ExportCheck {
    head: Head,
    /// Older heads with their number, the smallest last.
    older: Vec<(usize, Head)>,
    frontier: Frontier,
    sums: Sums,
}

impl ExportCheck {
    /// Opens the export's head, and older heads of the same ledger in any order.
    pub fn new(key: &VerifierKey, head: &[u8], older: &[&[u8]]) -> Result<Self, ExportError> {
        let head = Head::open(head, key).map_err(ExportError::Head)?;
        let open = |(at, signed): (usize, &&[u8])| {
            let number = at + 1;
            let older = Head::open(signed, key)
                .map_err(|source| ExportError::OlderHead { number, source })?;
            Self::compare_heads(number, &older, &head)?;
            Ok((number, older))
        };
        let older: Result<Vec<_>, _> = older.iter().enumerate().map(open).collect();
        let mut older = older?;
        older.sort_by_key(|(_, head)| std::cmp::Reverse(head.size));
        let mut check = Self {
            head,
            older,
            frontier: Frontier::new(),
            sums: Sums::new(),
        };
        check.compare_older()?;
        Ok(check)
    }

    /// Takes the next line, without its newline.
    pub fn line(&mut self, line: &[u8]) -> Result<(), ExportError> {
        let number = self.number();
        if self.frontier.size() == self.head.size {
            let size = self.head.size;
            return Err(ExportError::TooManyLines { number, size });
        }
        let entry = line::read(line).map_err(|source| ExportError::Line { number, source })?;
        entry
            .check_place(self.frontier.size())
            .map_err(|source| ExportError::Place { number, source })?;
        self.frontier.append(leaf_hash(line));
        self.sums.add(&entry);
        self.compare_older()
    }

    /// Checks that these were all lines.
    pub fn finish(self) -> Result<Verified, ExportError> {
        let (size, found) = (self.head.size, self.frontier.size());
        if found != size {
            return Err(ExportError::TooFewLines { size, found });
        }
        let (expected, found) = (self.head.root, self.frontier.root());
        if found != expected {
            return Err(ExportError::WrongRoot {
                size,
                expected,
                found,
            });
        }
        Ok(Verified {
            head: self.head,
            sums: self.sums,
        })
    }

    /// What two signed heads alone can show.
    fn compare_heads(number: usize, older: &Head, head: &Head) -> Result<(), ExportError> {
        let size = head.size;
        if older.size > size {
            let older = older.size;
            return Err(ExportError::Shortened {
                number,
                older,
                size,
            });
        }
        if older.size == size && older.root != head.root {
            let (older, found) = (older.root, head.root);
            return Err(ExportError::TwoLedgers {
                number,
                size,
                older,
                found,
            });
        }
        Ok(())
    }

    /// The next line, counted from 1.
    fn number(&self) -> u64 {
        self.frontier.size() + 1
    }

    /// Compares the lines so far with the older heads of their number.
    fn compare_older(&mut self) -> Result<(), ExportError> {
        let reached = self.frontier.size();
        while let Some((number, older)) = self.older.pop_if(|(_, head)| head.size == reached) {
            let (expected, found) = (older.root, self.frontier.root());
            if found != expected {
                return Err(ExportError::Rewritten {
                    number,
                    older: older.size,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Gives `check` all lines of an export. Each line ends with a newline, the last one too.
/// No more than [`MAX_LINE_BYTES`] of a line are ever held.
pub fn verify_export(
    mut check: ExportCheck,
    mut export: impl BufRead,
) -> Result<Verified, ExportError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let number = check.number();
        export
            .by_ref()
            .take(MAX_LINE_BYTES as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|source| ExportError::Read { number, source })?;
        if line.is_empty() {
            return check.finish();
        }
        if line.pop_if(|byte| *byte == b'\n').is_some() || line.len() > MAX_LINE_BYTES {
            check.line(&line)?;
        } else {
            return Err(ExportError::CutOff { number });
        }
    }
}
