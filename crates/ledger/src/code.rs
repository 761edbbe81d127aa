//! Why something was rejected or corrected, as a word that programs compare.
//!
//! A leaf has no free text: what is in the ledger can never be erased, and a sentence
//! could name a person. The sentences belong to the audit log and the pages.

use serde::{Deserialize, Serialize};

/// 1 to 64 of the characters `a` to `z`, `0` to `9` and `_`, the first one a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Code(String);

/// A text that is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code is 1 to 64 of a-z, 0-9 and _, beginning with a letter")]
pub struct NotACode;

/// Why a correction gives back what another took: an operator found that the audit was wrong.
pub const AUDIT_REVERSED: &str = "audit_reversed";

impl Code {
    /// The code with this text.
    pub fn new(text: &str) -> Result<Self, NotACode> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if begins && text.len() <= 64 && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotACode)
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Code {
    type Error = NotACode;
    fn try_from(text: String) -> Result<Self, NotACode> {
        Self::new(&text)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
