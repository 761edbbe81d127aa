//! Writing tokens: little-endian integers of 2 or 4 bytes in files named by their BLAKE3.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::DatasetError;

/// One file of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// BLAKE3 of its bytes.
    #[serde(serialize_with = "as_hex")]
    pub hash: [u8; 32],
    /// Its size.
    pub bytes: u64,
}

/// A file's hash as people write it.
pub(crate) fn as_hex<S: serde::Serializer>(
    hash: &[u8; 32],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&blake3::Hash::from_bytes(*hash))
}

/// Cuts a stream of tokens in shards.
pub(crate) struct ShardWriter<'f> {
    folder: &'f Path,
    token_bytes: u8,
    shard_bytes: u64,
    shards: Vec<Shard>,
    tokens: u64,
    open: Option<FileInWriting>,
    buffer: Vec<u8>,
}

impl<'f> ShardWriter<'f> {
    /// A shard is as long as `shard_bytes` allows, at least one token.
    pub(crate) fn new(folder: &'f Path, token_bytes: u8, shard_bytes: u64) -> Self {
        let token = u64::from(token_bytes);
        Self {
            folder,
            token_bytes,
            shard_bytes: (shard_bytes / token).max(1) * token,
            shards: Vec::new(),
            tokens: 0,
            open: None,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(crate) fn push(&mut self, mut tokens: &[u32]) -> Result<(), DatasetError> {
        self.tokens += tokens.len() as u64;
        while !tokens.is_empty() {
            if self.open.is_none() {
                self.open = Some(FileInWriting::create(self.folder)?);
            }
            let Some(file) = &mut self.open else { break };
            let room = (self.shard_bytes - file.bytes) / u64::from(self.token_bytes);
            let (now, later) = tokens.split_at(tokens.len().min(room as usize));
            self.buffer.clear();
            match self.token_bytes {
                2 => self
                    .buffer
                    .extend(now.iter().flat_map(|&token| (token as u16).to_le_bytes())),
                _ => self
                    .buffer
                    .extend(now.iter().flat_map(|token| token.to_le_bytes())),
            }
            file.write(&self.buffer)?;
            if file.bytes == self.shard_bytes {
                self.close()?;
            }
            tokens = later;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), DatasetError> {
        if let Some(file) = self.open.take() {
            let bytes = file.bytes;
            let folder = self.folder;
            let (path, hash) = file.finish(|hash| folder.join(format!("{hash}.tokens")))?;
            self.shards.push(Shard { path, hash, bytes });
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<(Vec<Shard>, u64), DatasetError> {
        self.close()?;
        Ok((std::mem::take(&mut self.shards), self.tokens))
    }
}

/// Writes a small file whole, named by its hash and `ending`.
pub(crate) fn write_file(
    folder: &Path,
    ending: &str,
    contents: &[u8],
) -> Result<(PathBuf, [u8; 32]), DatasetError> {
    let mut file = FileInWriting::create(folder)?;
    file.write(contents)?;
    file.finish(|hash| folder.join(format!("{hash}.{ending}")))
}

/// A file under a name that says it is not whole; it goes away unless it is finished.
struct FileInWriting {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    finished: bool,
}

impl FileInWriting {
    /// Under a name of its own, so that two programs may prepare data in the same folder.
    fn create(folder: &Path) -> Result<Self, DatasetError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::create_at(folder.join(format!("{}-{number}.part", std::process::id())))
    }

    fn create_at(path: PathBuf) -> Result<Self, DatasetError> {
        let file = File::create(&path).map_err(|source| write_error(&path, source))?;
        Ok(Self {
            path,
            file,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            finished: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DatasetError> {
        self.file
            .write_all(bytes)
            .map_err(|source| write_error(&self.path, source))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// On disk before it has its name.
    fn finish(
        mut self,
        name: impl FnOnce(blake3::Hash) -> PathBuf,
    ) -> Result<(PathBuf, [u8; 32]), DatasetError> {
        self.file
            .sync_all()
            .map_err(|source| write_error(&self.path, source))?;
        let hash = self.hasher.finalize();
        let path = name(hash);
        std::fs::rename(&self.path, &path).map_err(|source| write_error(&path, source))?;
        self.finished = true;
        Ok((path, *hash.as_bytes()))
    }
}

impl Drop for FileInWriting {
    fn drop(&mut self) {
        if !self.finished {
            // There is an error already, which matters more than what this leaves behind.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(crate) fn write_error(path: &Path, source: io::Error) -> DatasetError {
    DatasetError::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_reported_with_the_file_and_what_mends_it() {
        // A link to the device that is always full stands where the file would be written.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard.part");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut file = FileInWriting::create_at(path.clone()).unwrap();
        let error = file.write(b"tokens").unwrap_err().to_string();
        for part in ["cannot write", "shard.part", "the disk is full", "--home"] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        drop(file);
        assert!(
            path.symlink_metadata().is_err(),
            "half a file was left behind"
        );
    }
}
