//! What can go wrong with a trainer, in sentences for the person whose machine it is.

use std::path::PathBuf;

use crate::{ErrorCode, VERSION};

/// Why a trainer could not be started or a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The program could not be started.
    #[error("cannot start the trainer {}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its log could not be opened.
    #[error("cannot write the trainer's log {}", path.display())]
    Log {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It speaks another version.
    #[error(
        "the trainer speaks version {theirs} of the trainer protocol, this program version \
         {VERSION}; install both from the same release"
    )]
    Version {
        /// Its version.
        theirs: u32,
    },
    /// It answered that the request failed. It goes on; all other errors mean it is gone.
    #[error("the trainer refused {doing}: {message}")]
    Refused {
        /// The request.
        doing: &'static str,
        /// For a program.
        code: ErrorCode,
        /// For a person.
        message: String,
    },
    /// It ended by itself.
    #[error("the trainer {why} during {doing}{log}")]
    Exited {
        /// The request.
        doing: &'static str,
        /// Exit status or signal.
        why: String,
        /// Where its log is and how it ends.
        log: LastLines,
    },
    /// It hung and was killed.
    #[error("the trainer gave no sign of life for {seconds} s during {doing} and was killed{log}")]
    Silent {
        /// The request.
        doing: &'static str,
        /// For how long.
        seconds: f64,
        /// Where its log is and how it ends.
        log: LastLines,
    },
    /// Its output was no reply, and it was killed.
    #[error("the trainer was killed for what it wrote during {doing}: {what}{log}")]
    Nonsense {
        /// The request.
        doing: &'static str,
        /// What is wrong with it.
        what: String,
        /// Where its log is and how it ends.
        log: LastLines,
    },
}

impl TrainerError {
    /// Whether the child is gone and a new one is needed.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// The trainer's own code, if it gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The end of a trainer's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastLines {
    /// The whole log.
    pub path: PathBuf,
    /// Its last lines since this trainer started; may be empty.
    pub lines: Vec<String>,
}

impl std::fmt::Display for LastLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.lines.is_empty() {
            return write!(f, " (its log {} says nothing)", self.path.display());
        }
        write!(f, "; the last lines of its log {}:", self.path.display())?;
        self.lines
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}
