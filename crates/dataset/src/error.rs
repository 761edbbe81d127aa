//! What can be wrong with a person's data: which file, which byte, and what mends it.

use std::io;
use std::path::PathBuf;

/// Why data could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// There is no such file or folder.
    #[error("there is no file or folder {}", path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// It is neither file nor folder.
    #[error("{} is neither a file nor a folder", path.display())]
    NotAFile {
        /// What was asked for.
        path: PathBuf,
    },
    /// Nothing was given.
    #[error("no data was given: name a text file, a .jsonl file, or a folder of them")]
    NothingGiven,
    /// The same file was given twice, which would put it in both parts.
    #[error("{} is given twice (once perhaps by its folder); name it once", path.display())]
    GivenTwice {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}{}", path.display(), hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}{}", path.display(), hint(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder has no text.
    #[error("{} has no text in it", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file has a zero byte, which text has not.
    #[error(
        "{} is no text: byte {byte} is zero. If it is UTF-16, convert it (`iconv -f UTF-16 -t \
         UTF-8`); if it is compressed, unpack it", path.display()
    )]
    Binary {
        /// The file.
        path: PathBuf,
        /// Where, counted from 0.
        byte: u64,
    },
    /// A file is not UTF-8.
    #[error(
        "{} is not UTF-8: byte {byte} (0x{value:02x}) does not belong there. Convert it, for \
         example with `iconv -f WINDOWS-1252 -t UTF-8`", path.display()
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where, counted from 0.
        byte: u64,
        /// What stands there.
        value: u8,
    },
    /// A line of a .jsonl file is not JSON.
    #[error("{} line {line} (byte {byte}) is not JSON: {reason}", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Where in the file, counted from 0.
        byte: u64,
        /// The parser's words.
        reason: String,
    },
    /// A line of a .jsonl file has no text.
    #[error(
        "{} line {line} (byte {byte}) must be an object with a string in the field `text`: \
         {reason}", path.display()
    )]
    NoTextField {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Where the line begins in the file, counted from 0.
        byte: u64,
        /// The parser's words.
        reason: String,
    },
    /// A line of a .jsonl file is too long to be held in memory.
    #[error("{} line {line} has more than {limit} bytes; cut the document in several", path.display())]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// The limit.
        limit: usize,
    },
    /// A file changed between two readings.
    #[error("{} changed while it was read; leave it alone and start again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A vocabulary of that size can't be made.
    #[error("a vocabulary of {asked} tokens is not possible: ask for {least} to {most}")]
    VocabularySize {
        /// What was asked for.
        asked: usize,
        /// Special token and bytes.
        least: usize,
        /// The limit.
        most: usize,
    },
    /// The text is too short for the model.
    #[error(
        "{part} is too short: its {text_bytes} bytes are {tokens} tokens, and a model with a \
         context of {context} needs {needed}. Give at least {more_bytes} bytes of text in all, or \
         choose a preset with a shorter context"
    )]
    TooSmall {
        /// "the training part" or "the held-out part".
        part: &'static str,
        /// Its text.
        text_bytes: u64,
        /// Its tokens.
        tokens: u64,
        /// The model's context (1 when there is no model yet).
        context: usize,
        /// Tokens that are needed.
        needed: u64,
        /// About how much text makes up for it.
        more_bytes: u64,
    },
    /// The tokenizer's library refused what was learned. A defect of this program.
    #[error("the tokenizer could not be made: {reason}")]
    Tokenizer {
        /// The library's words.
        reason: String,
    },
}

/// What mends the more frequent failures.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full; free some space, or choose a home on another disk with --home"
        }
        io::ErrorKind::PermissionDenied => ": this user has no permission",
        io::ErrorKind::ReadOnlyFilesystem => {
            ": the disk is read-only; choose a home on another one with --home"
        }
        _ => "",
    }
}
