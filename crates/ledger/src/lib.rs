//! The append-only ledger of a run: accepted tokens and FLOPs, rejections, audits, trainings
//! again and corrections, as leaves of a Merkle tree with signed heads in the manner of certificate
//! transparency (RFC 6962, RFC 9162). A volunteer holds a receipt for each entry, and can
//! prove that it is in the ledger and that the ledger was never rewritten.
//!
//! Pure: no I/O of its own, no clock, no randomness. Keys, times, stored hashes and readers
//! are arguments. The formats are specified in `docs/ledger.md`.
//!
//! - [`Entry`] and its one [line](mod@line): what is hashed.
//! - [`append`] and [`tree`]: from lines to stored hashes, roots and proofs.
//! - [`Head`]: a size and a root, signed as a C2SP checkpoint; [`VerifierKey`] opens it.
//! - [`Receipt`]: an entry with its proof and a head, as a C2SP tlog-proof.
//! - [`verify_export`]: the whole ledger against a head and older heads.
//! - [`Sums`]: totals, always derived from entries.
//!
//! Deliberately absent: people (leaves name nodes; who owns a node is the coordinator's to
//! know and to forget), free text (it could name people and could never be erased), storage,
//! and the comparing of heads between volunteers, without which a coordinator could show each
//! of them a ledger of his own.

mod append;
mod code;
mod entry;
mod export;
mod finite;
mod head;
mod key;
pub mod line;
mod note;
mod origin;
mod receipt;
mod sums;
mod totals;
pub mod tree;

pub use append::{Appended, append};
pub use code::{AUDIT_REVERSED, Code, NotACode};
pub use entry::{Entry, EntryError, EntryKind, INTEGER_LIMIT};
pub use export::{ExportCheck, ExportError, Verified, verify_export};
pub use finite::{Finite, NotFinite};
pub use head::{Head, HeadError};
pub use key::{KeyError, VerifierKey};
pub use line::LineError;
pub use note::{MAX_NOTE_BYTES, NoteError};
pub use origin::{BadOrigin, Origin};
pub use receipt::{MAX_RECEIPT_BYTES, Receipt, ReceiptError, Receipted};
pub use sums::{Day, Sums};
pub use totals::Totals;
