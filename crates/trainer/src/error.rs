//! Why a request failed, for the program that sent it and for a person.

use std::path::{Path, PathBuf};

use opengpu_dataset::StreamError;
use opengpu_trainer_protocol::ErrorCode;

/// A failed request; the trainer goes on.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The request asks for something that can't be done with what was loaded.
    #[error("{0}")]
    BadRequest(String),
    /// A file is missing, too short or not what it should be.
    #[error("{}: {problem}", .path.display())]
    BadFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it and what mends it.
        problem: String,
    },
    /// The token files are missing, or not what the request says.
    #[error(transparent)]
    Tokens(#[from] StreamError),
    /// Numbers have left the range of float32.
    #[error("{0}")]
    NotFinite(String),
    /// Not even the smallest part of a batch fits.
    #[error("{0}")]
    OutOfMemory(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, TrainerError>;

impl TrainerError {
    /// A complaint about a file.
    pub fn file(path: &Path, problem: impl ToString) -> Self {
        Self::BadFile {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// The reply's code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadRequest(_)
            | Self::Tokens(StreamError::TokenBytes { .. } | StreamError::PastTheEnd { .. }) => {
                ErrorCode::BadRequest
            }
            Self::BadFile { .. } | Self::Tokens(_) => ErrorCode::BadFile,
            Self::NotFinite(_) => ErrorCode::NotFinite,
            Self::OutOfMemory(_) => ErrorCode::OutOfMemory,
            Self::Failed(_) => ErrorCode::Failed,
        }
    }
}
