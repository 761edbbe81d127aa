//! The name of a ledger, which stands in every head and so ties it to one run of one
//! coordinator.

use opengpu_rounds::RunId;

/// Longest origin in bytes.
const MAX_BYTES: usize = 255;

/// A ledger's name, and that of the key that signs it: 1 to 255 bytes without white space,
/// control characters and `+` (C2SP tlog-checkpoint and signed-note).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

/// A text that cannot name a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ledger's name has 1 to {MAX_BYTES} bytes, no white space, no control characters and no '+'"
)]
pub struct BadOrigin;

impl Origin {
    /// The origin with this text.
    pub fn new(text: &str) -> Result<Self, BadOrigin> {
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if text.is_empty() || text.len() > MAX_BYTES || text.contains(forbidden) {
            return Err(BadOrigin);
        }
        Ok(Self(text.to_owned()))
    }

    /// The ledger of a run: `HOST/run/ID`, with the coordinator's public name as `HOST`.
    pub fn of_run(host: &str, run: RunId) -> Result<Self, BadOrigin> {
        Self::new(&format!("{host}/run/{run}"))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
