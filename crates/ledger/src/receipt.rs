//! What a volunteer keeps: an entry of the ledger, and the proof that it is there. The
//! format is C2SP tlog-proof, with the entry's line as its extra data.
//!
//! A receipt shows that the coordinator has signed for the entry. That the entry is still
//! there later, an export or a consistency proof to a newer head shows.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::head::decimal;
use crate::line::{self, MAX_LINE_BYTES};
use crate::tree::{
    InclusionError, MAX_PROOF_HASHES, NotATreeHash, TreeHash, leaf_hash, verify_inclusion,
};
use crate::{Entry, Head, HeadError, LineError, MAX_NOTE_BYTES, VerifierKey};

/// Longest receipt in bytes: the longest line in base64, the longest proof, the longest note,
/// and the words between.
pub const MAX_RECEIPT_BYTES: usize =
    MAX_LINE_BYTES.div_ceil(3) * 4 + MAX_PROOF_HASHES * 45 + MAX_NOTE_BYTES + 64;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// An entry's line with the proof that it is in a ledger; believed only once
/// [`verify`](Self::verify) says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The entry's line, without newline.
    pub line: Vec<u8>,
    /// Its index in the ledger.
    pub index: u64,
    /// What [`plan_inclusion`](crate::tree::plan_inclusion) makes for the head's size.
    pub proof: Vec<TreeHash>,
    /// The signed head.
    pub head: String,
}

/// What a receipt proves: this entry is the one at `index` of the ledger of this head.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipted {
    /// The entry.
    pub entry: Entry,
    /// Its index.
    pub index: u64,
    /// The head that it is under.
    pub head: Head,
}

/// Why a receipt proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Longer than any receipt.
    #[error("the receipt has {bytes} bytes; at most {MAX_RECEIPT_BYTES} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A line of the file is missing or is not what stands there.
    #[error("the receipt has no {expected} where it should be")]
    Form {
        /// What should be there.
        expected: &'static str,
    },
    /// One of the hashes is none.
    #[error("hash {number} of the receipt's proof is none")]
    Hash {
        /// Counted from 1.
        number: usize,
        /// Why.
        source: NotATreeHash,
    },
    /// The head cannot be relied on.
    #[error("the receipt's head cannot be relied on")]
    Head(#[from] HeadError),
    /// The entry is not in the head's ledger.
    #[error("the receipt's entry is not proven to be in the ledger")]
    NotIncluded(#[from] InclusionError),
    /// It is in the ledger, but is no entry that this program knows.
    #[error("the receipt's entry cannot be read")]
    Line(#[from] LineError),
}

impl Receipt {
    /// The receipt in a file. Nothing in it is believed yet.
    pub fn parse(file: &[u8]) -> Result<Self, ReceiptError> {
        if file.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::TooLong { bytes: file.len() });
        }
        let form = |expected| ReceiptError::Form { expected };
        let file = std::str::from_utf8(file).map_err(|_| form("text in UTF-8"))?;
        let (proof, head) = file
            .split_once("\n\n")
            .ok_or(form("empty line before its head"))?;
        let mut lines = proof.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(form(FIRST_LINE));
        }
        let mut word = |word, expected| {
            let line = lines.next().ok_or(form(expected))?;
            line.strip_prefix(word).ok_or(form(expected))
        };
        let line = word("extra ", "line 'extra' with the entry")?;
        let index = word("index ", "line 'index' with the entry's number")?;

        let mut hashes = Vec::new();
        for (at, hash) in lines.enumerate() {
            if at == MAX_PROOF_HASHES {
                return Err(form("empty line after as many hashes as a proof can have"));
            }
            let number = at + 1;
            let hash = hash.parse();
            hashes.push(hash.map_err(|source| ReceiptError::Hash { number, source })?);
        }
        Ok(Self {
            line: BASE64_STANDARD
                .decode(line)
                .map_err(|_| form("entry in base64"))?,
            index: decimal(index).ok_or(form("entry's number as a plain integer"))?,
            proof: hashes,
            head: head.to_owned(),
        })
    }

    /// What it proves to someone who trusts the key.
    pub fn verify(&self, key: &VerifierKey) -> Result<Receipted, ReceiptError> {
        let head = Head::open(self.head.as_bytes(), key)?;
        let leaf = leaf_hash(&self.line);
        verify_inclusion(leaf, self.index, head.size, head.root, &self.proof)?;
        Ok(Receipted {
            entry: line::read(&self.line)?,
            index: self.index,
            head,
        })
    }
}

/// The receipt's file.
impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        writeln!(f, "extra {}", BASE64_STANDARD.encode(&self.line))?;
        writeln!(f, "index {}", self.index)?;
        for hash in &self.proof {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.head)
    }
}
