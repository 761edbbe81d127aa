//! Who asks: nodes by signature, the operator by token.

mod signatures;

pub use signatures::Signatures;

/// The operator's token, kept as its hash.
#[derive(Clone, Copy, Debug)]
pub struct OperatorToken(blake3::Hash);

impl OperatorToken {
    /// Keeps the hash of `token`.
    pub fn new(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }

    /// Whether this is the token. Comparing hashes takes as long wherever they differ
    /// (`blake3::Hash` compares in constant time), and hides the token's length too.
    pub fn admits(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_admits() {
        let token = OperatorToken::new("abcdef");
        assert!(token.admits("abcdef"));
        for wrong in ["", "abcde", "abcdefg", "Abcdef"] {
            assert!(!token.admits(wrong), "{wrong}");
        }
    }
}
