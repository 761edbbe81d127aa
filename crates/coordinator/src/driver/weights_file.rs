//! Weights in a file for the trainer, removed when nobody needs them any more.

use std::path::{Path, PathBuf};

/// A file with flat weights.
#[derive(Debug)]
pub enum WeightsFile {
    /// A checkpoint's blob, which stays.
    Blob(PathBuf),
    /// A copy made for this use.
    Copy(PathBuf),
}

impl WeightsFile {
    /// Where.
    pub fn path(&self) -> &Path {
        match self {
            Self::Blob(path) | Self::Copy(path) => path,
        }
    }
}

impl Drop for WeightsFile {
    fn drop(&mut self) {
        if let Self::Copy(path) = self
            && let Err(error) = std::fs::remove_file(&*path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a copy of weights could not be removed");
        }
    }
}
