//! What can go wrong between a client and the coordinator.

use std::path::PathBuf;

use opengpu_rounds::Hash;

/// An operation that the coordinator did not carry out, or whose answer is unusable. Each
/// variant says which operation on what; the cause is in `source`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is no `http` or `https` URL.
    #[error("{address:?} is no server address; give one like http://127.0.0.1:8470")]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// The HTTP client could not be set up.
    #[error("could not set up the HTTP client")]
    Setup {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer, after all attempts.
    #[error("could not {operation}: no answer from {server}")]
    Unreachable {
        /// What was tried, on what.
        operation: String,
        /// Where.
        server: String,
        /// Why the last attempt failed.
        #[source]
        source: reqwest::Error,
    },
    /// The coordinator answered, but not for too long.
    #[error("could not {operation}: {server} sent nothing for {seconds} s")]
    Stalled {
        /// What was tried, on what.
        operation: String,
        /// Where.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The coordinator said no.
    #[error("could not {operation}: {message} ({code}, HTTP {status})")]
    Refused {
        /// What was tried, on what.
        operation: String,
        /// HTTP status.
        status: u16,
        /// For a program.
        code: String,
        /// The coordinator's sentence.
        message: String,
    },
    /// The answer is not what this version understands.
    #[error("could not {operation}: the answer of {server} is no {expected}")]
    BadAnswer {
        /// What was tried, on what.
        operation: String,
        /// Where.
        server: String,
        /// What it should have been.
        expected: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than the caller admits.
    #[error("could not {operation}: the answer has more than the {limit} bytes expected")]
    TooLarge {
        /// What was tried, on what.
        operation: String,
        /// Bytes admitted.
        limit: u64,
    },
    /// Bytes are not the blob they should be.
    #[error("could not fetch blob {blob}: {problem}")]
    WrongBytes {
        /// Which blob.
        blob: Hash,
        /// What is wrong.
        problem: String,
    },
    /// A local file failed.
    #[error("could not {operation} {path}")]
    File {
        /// What was done with the file.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ClientError {
    /// HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the same request can never succeed: the coordinator understood and refused.
    /// Else trying again later may help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => {
                (400..500).contains(status)
                    && !matches!(status, 408 | 425 | 429)
                    && !matches!(
                        code.as_str(),
                        "clock_off" | "counter_too_low" | "stalled" | "broken_body"
                    )
            }
            Self::BadAddress { .. } | Self::TooLarge { .. } | Self::WrongBytes { .. } => true,
            _ => false,
        }
    }
}
