//! Whether a log tells a secret.

use std::path::PathBuf;

use anyhow::{Context, Result};
use opengpu_protocol::SigningKey;

use super::attacker::Attacker;
use super::honest::Honest;
use super::signatures::GUESS;
use crate::installation::Installation;

/// Digits of a signature; nothing else that is logged has so many.
const SIGNATURE_DIGITS: usize = 128;

/// Secrets by name.
pub fn of(
    installation: &Installation,
    honest: &Honest,
    attacker: &Attacker,
) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        (
            "the operator's token",
            installation.secret("operator.token")?,
        ),
        (
            "the machine's own token",
            installation.secret("join.token")?,
        ),
        ("the enrolment token", honest.invitation.clone()),
        ("the honest node's key", hex(&honest.key)),
        ("the attacker's key", hex(&attacker.key)),
        (
            "the key of the attacker's worker",
            hex(&attacker.worker_key),
        ),
        (
            "the key of the attacker's auditor",
            hex(&attacker.auditor_key),
        ),
        ("a token that somebody tried", GUESS.to_owned()),
    ])
}

/// The names of those that stand in one of these files; signatures among them.
pub fn told(logs: &[PathBuf], secrets: &[(&'static str, String)]) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for log in logs {
        let bytes = std::fs::read(log).with_context(|| format!("reading {}", log.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let file = log.display();
        for (name, secret) in secrets {
            if text.contains(secret.as_str()) {
                told.push(format!("{name} in {file}"));
            }
        }
        if has_signature(&text) {
            told.push(format!("a signature in {file}"));
        }
    }
    Ok(told)
}

fn has_signature(text: &str) -> bool {
    let mut words = text.split(|letter: char| !letter.is_ascii_hexdigit());
    words.any(|word| word.len() >= SIGNATURE_DIGITS)
}

fn hex(key: &SigningKey) -> String {
    let digits = key.to_bytes().map(|byte| format!("{byte:02x}"));
    digits.concat()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    #[test]
    fn secrets_and_signatures_are_found_in_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let secrets = [("the token", "s3cret".to_owned())];
        let told = |text: String| {
            std::fs::write(&log, text).unwrap();
            super::told(std::slice::from_ref(&log), &secrets).unwrap()
        };
        assert!(told(format!("hash {}", "ab".repeat(32))).is_empty());
        assert!(told("Bearer s3cret".to_owned())[0].starts_with("the token in "));
        assert!(told(format!("\"{}\"", "ab".repeat(64)))[0].starts_with("a signature in "));
    }
}
