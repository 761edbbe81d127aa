//! A head: how many entries a ledger has and what they hash to, signed by its coordinator.
//! Its text is a C2SP tlog-checkpoint: name, size and root, a line each.
//!
//! A head has no time. Its newest entry says when it is from.

use ed25519_dalek::SigningKey;

use crate::tree::{ConsistencyError, MAX_SIZE, TreeHash, verify_consistency};
use crate::{NoteError, Origin, VerifierKey, note};

/// A ledger at one size. Whoever signs two with one size and different roots is convicted
/// by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which ledger.
    pub origin: Origin,
    /// How many entries, at most [`MAX_SIZE`].
    pub size: u64,
    /// Root of the tree of their lines.
    pub root: TreeHash,
}

/// Why a head cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not signed as it must be.
    #[error("the head's signature cannot be relied on")]
    Note(#[from] NoteError),
    /// Signed, but no head.
    #[error("the head's text is not a name, a size and a root, a line each")]
    Form,
    /// Of a ledger that the key is not for.
    #[error("the head is of the ledger {found}; the key is for {expected}")]
    OtherLedger {
        /// The key's.
        expected: Origin,
        /// The head's.
        found: String,
    },
    /// Larger than any ledger.
    #[error("the head has {size} entries; a ledger has at most 2^52")]
    TooLarge {
        /// Its size.
        size: u64,
    },
}

impl Head {
    /// The head as signed text, for [`open`](Self::open) and for other readers of
    /// checkpoints.
    pub fn sign(&self, key: &SigningKey) -> String {
        let text = format!("{}\n{}\n{}\n", self.origin, self.size, self.root);
        note::sign(&text, &self.origin, key)
    }

    /// Reads a signed head, which must be of the key's ledger and signed by it.
    pub fn open(signed: &[u8], key: &VerifierKey) -> Result<Self, HeadError> {
        let text = note::open(signed, key)?;
        // No more lines than show that there are too many: a note can be one of empty lines.
        let lines: Vec<&str> = text.splitn(5, '\n').collect();
        let [origin, size, root, ""] = lines[..] else {
            return Err(HeadError::Form);
        };
        if origin != key.origin().as_str() {
            return Err(HeadError::OtherLedger {
                expected: key.origin().clone(),
                found: origin.to_owned(),
            });
        }
        let size = decimal(size).ok_or(HeadError::Form)?;
        if size > MAX_SIZE {
            return Err(HeadError::TooLarge { size });
        }
        Ok(Self {
            origin: key.origin().clone(),
            size,
            root: root.parse().map_err(|_| HeadError::Form)?,
        })
    }

    /// Checks that the ledger of this head goes on that of `older`: nothing in it was
    /// changed or removed. Both must have been opened with one key.
    pub fn goes_on(&self, older: &Head, proof: &[TreeHash]) -> Result<(), ConsistencyError> {
        verify_consistency((older.size, older.root), (self.size, self.root), proof)
    }
}

/// An integer without sign and leading zeroes.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
