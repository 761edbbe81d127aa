//! A text with signatures, in the format of Go's checksum database and of C2SP signed-note:
//! the text, an empty line, and for each signature a line `— NAME BASE64`, whose bytes are the
//! key's id and the signature of the text.
//!
//! Signatures of other keys are passed over, as the format demands, so that witnesses can
//! add theirs to a head.

use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey};

use crate::{Origin, VerifierKey};

/// Longest note in bytes: room for 16 signatures of witnesses, of any kind that there is.
pub const MAX_NOTE_BYTES: usize = 128 * 1024;

/// Why a note cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than any note.
    #[error("the note has {bytes} bytes; at most {MAX_NOTE_BYTES} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not UTF-8, or with control characters.
    #[error("the note is not plain text in UTF-8")]
    NotText,
    /// No empty line between text and signatures, or nothing after it.
    #[error("the note has no signatures after an empty line")]
    NoSignatures,
    /// A signature's line is not of the form.
    #[error("signature {number} of the note is not of the form '— NAME BASE64'")]
    BadLine {
        /// Counted from 1.
        number: usize,
    },
    /// Signed by others only.
    #[error("the note is not signed by the key of {origin}")]
    NotSigned {
        /// Whose signature was looked for.
        origin: Origin,
    },
    /// Text or signature were changed, or another key signed.
    #[error("the note's signature by {origin} does not fit its text and the key")]
    BadSignature {
        /// Whose signature it claims to be.
        origin: Origin,
    },
}

/// `text`, which ends with a newline, signed by `key` under the ledger's name.
pub(crate) fn sign(text: &str, origin: &Origin, key: &SigningKey) -> String {
    let verifier = VerifierKey::new(origin.clone(), key.verifying_key());
    let mut bytes = verifier.id().to_vec();
    bytes.extend_from_slice(&key.sign(text.as_bytes()).to_bytes());
    format!("{text}\n— {origin} {}\n", BASE64_STANDARD.encode(bytes))
}

/// The text of a note, if `key` signed it.
pub(crate) fn open<'a>(note: &'a [u8], key: &VerifierKey) -> Result<&'a str, NoteError> {
    let bytes = note.len();
    if bytes > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong { bytes });
    }
    if note.iter().any(|&byte| byte < b' ' && byte != b'\n') {
        return Err(NoteError::NotText);
    }
    let note = std::str::from_utf8(note).map_err(|_| NoteError::NotText)?;
    // The text keeps the first of the two newlines.
    let parted = note.rfind("\n\n").ok_or(NoteError::NoSignatures)? + 1;
    let (text, signatures) = (&note[..parted], &note[parted + 1..]);
    let lines = signatures
        .strip_suffix('\n')
        .ok_or(NoteError::NoSignatures)?;

    let mut signed = false;
    for (index, line) in lines.split('\n').enumerate() {
        let number = index + 1;
        let (name, bytes) = parse(line).ok_or(NoteError::BadLine { number })?;
        let (id, signature) = bytes
            .split_at_checked(4)
            .ok_or(NoteError::BadLine { number })?;
        if name != key.origin().as_str() || id != key.id() {
            continue;
        }
        let verified = Signature::from_slice(signature)
            .is_ok_and(|signature| key.key().verify_strict(text.as_bytes(), &signature).is_ok());
        if !verified {
            let origin = key.origin().clone();
            return Err(NoteError::BadSignature { origin });
        }
        signed = true;
    }
    if signed {
        Ok(text)
    } else {
        let origin = key.origin().clone();
        Err(NoteError::NotSigned { origin })
    }
}

/// Name and bytes of a signature's line.
fn parse(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, bytes) = line.strip_prefix("— ")?.split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(bytes).ok()?;
    (!name.is_empty()).then_some((name, bytes))
}
