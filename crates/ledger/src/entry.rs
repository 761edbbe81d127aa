//! What the ledger remembers, entry by entry. Entries are never edited: a mistake is mended
//! by a later entry that says what to add and what to take away.
//!
//! Versioned: a variant or field is never renamed, retyped or removed. A field that is added
//! has a default and is left out while it has it, so that a newer program writes an older
//! entry as the same bytes.
//!
//! Not here: whether an entry is just. That is decided before it is written.

use opengpu_rounds::{AssignmentId, AuditOutcome, Hash, NodeId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{Code, Finite};

/// Integers of an entry are below this (and above minus this): exact in every JSON reader
/// and in every database.
pub const INTEGER_LIMIT: u64 = 1 << 53;

/// One line of the ledger of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was decided: milliseconds since 1970 on the coordinator's clock.
    pub at_unix_ms: u64,
    /// Whose work it is about; of a training again, who did it.
    pub node: NodeId,
    /// Which of the node's workers.
    pub worker: WorkerId,
    /// Which assignment, and with it which update.
    pub assignment: AssignmentId,
    /// The round that the assignment belonged to.
    pub round: u64,
    /// What was decided.
    #[serde(flatten)]
    pub kind: EntryKind,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EntryKind {
    /// An update was accepted: this is the credit.
    Accepted {
        /// Blocks completed.
        blocks: u64,
        /// Tokens trained on.
        tokens: u64,
        /// Millions of floating-point operations, as a count, not a rate. In millions,
        /// because one update of a large model passes 2^53 of them.
        megaflops: u64,
        /// The payload's BLAKE3.
        payload: Hash,
    },
    /// An update was refused for good.
    Rejected {
        /// Which check refused it.
        code: Code,
        /// What the check measured, in its own unit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measured: Option<Finite>,
        /// What it would have allowed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allowed: Option<Finite>,
    },
    /// The assignment was trained again elsewhere and compared.
    Audited {
        /// What came out.
        outcome: AuditOutcome,
        /// Which node trained it again; the coordinator's own trainer if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<NodeId>,
        /// The difference that was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measured: Option<Finite>,
        /// The largest difference that passes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allowed: Option<Finite>,
    },
    /// An audited assignment was trained again, and what came of it stands: credit for that work,
    /// as for an update. Assignment and round are those of the audited update.
    TrainedAgain {
        /// Blocks of the audited update.
        blocks: u64,
        /// Its tokens.
        tokens: u64,
        /// Its millions of floating-point operations.
        megaflops: u64,
    },
    /// An accepted update gets more credit or less. Made by [`Entry::correction`].
    Corrected {
        /// Index of the accepted entry in the ledger.
        of: u64,
        /// Tokens to add.
        tokens: i64,
        /// Millions of floating-point operations to add.
        megaflops: i64,
        /// Why.
        reason: Code,
    },
}

/// Why an entry cannot be in the ledger, or not at this place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A number is too large for some readers of JSON.
    #[error("{field} is {value}; numbers in the ledger are below 2^53 in magnitude")]
    TooLarge {
        /// Which number.
        field: &'static str,
        /// How large.
        value: i128,
    },
    /// A correction must point back.
    #[error("entry {index} corrects entry {of}; it can only correct an earlier one")]
    CorrectsNoEarlier {
        /// What it names.
        of: u64,
        /// Where it would stand.
        index: u64,
    },
    /// Only the credit of accepted updates is corrected.
    #[error("entry {of} is not an accepted update; only those are corrected")]
    CorrectsNoCredit {
        /// What was to be corrected.
        of: u64,
    },
}

impl Entry {
    /// A correction of `accepted`, which is entry `of` of the ledger: it names the same node
    /// and assignment, so that no one else's credit can be touched by mistake. Several
    /// corrections of one entry add up.
    pub fn correction(
        of: u64,
        accepted: &Entry,
        at_unix_ms: u64,
        tokens: i64,
        megaflops: i64,
        reason: Code,
    ) -> Result<Self, EntryError> {
        if !matches!(accepted.kind, EntryKind::Accepted { .. }) {
            return Err(EntryError::CorrectsNoCredit { of });
        }
        Ok(Self {
            at_unix_ms,
            kind: EntryKind::Corrected {
                of,
                tokens,
                megaflops,
                reason,
            },
            ..accepted.clone()
        })
    }

    /// Whether it can stand at `index` of a ledger: corrections point back. (That its
    /// integers are in bounds is checked wherever a line is written or read.)
    pub fn check_place(&self, index: u64) -> Result<(), EntryError> {
        match self.kind {
            EntryKind::Corrected { of, .. } if of >= index => {
                Err(EntryError::CorrectsNoEarlier { of, index })
            }
            _ => Ok(()),
        }
    }

    /// Whether all readers of JSON can read its integers.
    pub(crate) fn check_integers(&self) -> Result<(), EntryError> {
        let check = |field: &'static str, value: i128| {
            if value.unsigned_abs() < u128::from(INTEGER_LIMIT) {
                Ok(())
            } else {
                Err(EntryError::TooLarge { field, value })
            }
        };
        check("at_unix_ms", self.at_unix_ms.into())?;
        check("node", self.node.0.into())?;
        check("worker", self.worker.0.into())?;
        check("assignment", self.assignment.0.into())?;
        check("round", self.round.into())?;
        match &self.kind {
            EntryKind::Accepted {
                blocks,
                tokens,
                megaflops,
                payload: _,
            } => {
                check("blocks", (*blocks).into())?;
                check("tokens", (*tokens).into())?;
                check("megaflops", (*megaflops).into())
            }
            EntryKind::TrainedAgain {
                blocks,
                tokens,
                megaflops,
            } => {
                check("blocks", (*blocks).into())?;
                check("tokens", (*tokens).into())?;
                check("megaflops", (*megaflops).into())
            }
            EntryKind::Rejected { .. } => Ok(()),
            EntryKind::Audited { by, .. } => check("by", by.map_or(0, |node| node.0).into()),
            EntryKind::Corrected {
                of,
                tokens,
                megaflops,
                reason: _,
            } => {
                check("of", (*of).into())?;
                check("tokens", (*tokens).into())?;
                check("megaflops", (*megaflops).into())
            }
        }
    }
}
