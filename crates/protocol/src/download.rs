//! Verified, resumable downloads of blobs.
//!
//! A blob's manifest carries the BLAKE3 of each MiB, so that a broken or lying link is found
//! out after a MiB, not at the end, and what is on disk can be trusted again after a break.
//! The manifest itself is proved at the end: the whole must have the blob's name. What was
//! verified is read back from the partial file and hashed anew at resumption, so that no
//! second file has to be kept true to the first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, Bytes};
use opengpu_rounds::Hash;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

use crate::client::{Client, ClientError, full_jitter};
use crate::wire::BlobManifest;

/// Size of a verified range.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Breaks in a row, without a verified MiB in between, before a download gives up.
const BREAKS: u32 = 8;

impl BlobManifest {
    /// The manifest of a blob in memory.
    pub fn of(blob: &[u8]) -> Self {
        let chunks = blob.chunks(CHUNK_BYTES as usize).map(Hash::of).collect();
        Self {
            bytes: blob.len() as u64,
            chunks,
        }
    }

    /// Refuses a manifest whose parts do not fit, in a sentence with the numbers.
    pub fn check(&self, limit: u64) -> Result<(), String> {
        if self.bytes > limit {
            return Err(format!(
                "it has {} bytes, more than the {limit} expected",
                self.bytes
            ));
        }
        let expected = self.bytes.div_ceil(CHUNK_BYTES);
        if self.chunks.len() as u64 != expected {
            let found = self.chunks.len();
            return Err(format!(
                "its manifest names {found} chunks where {} bytes have {expected}",
                self.bytes
            ));
        }
        Ok(())
    }
}

/// What to download, and within which limits.
#[derive(Clone, Debug)]
pub struct Download {
    /// The blob.
    pub hash: Hash,
    /// Where it goes; until it is whole it is `<path>.partial`.
    pub path: PathBuf,
    /// Most bytes it may have.
    pub limit: u64,
    /// Reconnect when no byte came for so long.
    pub stall: Duration,
}

impl Download {
    /// With a watchdog of 20 seconds.
    pub fn new(hash: Hash, path: impl Into<PathBuf>, limit: u64) -> Self {
        Self {
            hash,
            path: path.into(),
            limit,
            stall: Duration::from_secs(20),
        }
    }

    /// Downloads, resuming what an earlier attempt left. `progress` hears (bytes verified,
    /// bytes in all). Returns the size. A file that is already there was whole when it got
    /// its name, and is taken as it is.
    pub async fn run(
        &self,
        client: &Client,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<u64, ClientError> {
        if let Ok(metadata) = tokio::fs::metadata(&self.path).await {
            return Ok(metadata.len());
        }
        let manifest = client.blob_manifest(self.hash, self.limit).await?;
        let partial = partial_path(&self.path);
        let mut sink = Sink::open(self.hash, &partial, manifest).await?;
        let (mut breaks, mut verified) = (0, sink.verified);
        while sink.verified < sink.manifest.bytes {
            progress(sink.verified, sink.manifest.bytes);
            let Err(error) = self.stream(client, &mut sink, progress).await else {
                continue;
            };
            // Damaged bytes may arrive whole the next time; a refusal or a full disk stays.
            let damaged = matches!(error, ClientError::WrongBytes { .. });
            if (error.is_final() && !damaged) || matches!(error, ClientError::File { .. }) {
                return Err(error);
            }
            breaks = if sink.verified > verified {
                1
            } else {
                breaks + 1
            };
            verified = sink.verified;
            if breaks >= BREAKS {
                return Err(error);
            }
            tracing::debug!(blob = %self.hash, verified, %error, "download broke off, resuming");
            let wait = full_jitter(breaks, Duration::from_millis(200), Duration::from_secs(10));
            tokio::time::sleep(wait).await;
            sink.rewind().await?;
        }
        progress(sink.verified, sink.manifest.bytes);
        sink.finish(&self.path).await
    }

    /// One connection's worth.
    async fn stream(
        &self,
        client: &Client,
        sink: &mut Sink,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), ClientError> {
        let from = sink.verified;
        let mut response = client.open_blob(self.hash, from, self.stall).await?;
        loop {
            let chunk = tokio::time::timeout(self.stall, response.chunk())
                .await
                .map_err(|_| client.stalled(self.hash, self.stall))?
                .map_err(|source| client.broken(self.hash, source))?;
            let Some(chunk) = chunk else { break };
            client.count_received(chunk.len());
            let before = sink.verified;
            sink.take(chunk).await?;
            if sink.verified != before {
                progress(sink.verified, sink.manifest.bytes);
            }
        }
        if sink.verified < sink.manifest.bytes && sink.verified == from {
            // An answer that ends early without an error must not be asked for for ever.
            return Err(client.stalled(self.hash, Duration::ZERO));
        }
        Ok(())
    }
}

/// The file under way.
struct Sink {
    blob: Hash,
    path: PathBuf,
    file: File,
    manifest: BlobManifest,
    /// Bytes on disk that the manifest's hashes bear out.
    verified: u64,
    /// Bytes that came since, less than a chunk.
    pending: Vec<u8>,
    whole: blake3::Hasher,
}

impl Sink {
    async fn open(blob: Hash, path: &Path, manifest: BlobManifest) -> Result<Self, ClientError> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(path).await.map_err(|e| failed("open", path, e))?;
        let (path, pending) = (path.to_owned(), Vec::new());
        let whole = blake3::Hasher::new();
        let mut sink = Self {
            blob,
            path,
            file,
            manifest,
            verified: 0,
            pending,
            whole,
        };
        sink.verify_what_is_there().await?;
        sink.rewind().await?;
        Ok(sink)
    }

    async fn verify_what_is_there(&mut self) -> Result<(), ClientError> {
        let mut buffer = Vec::new();
        for index in 0..self.manifest.chunks.len() {
            buffer.clear();
            let length = self.chunk_length(index);
            let read = (&mut self.file).take(length).read_to_end(&mut buffer).await;
            read.map_err(|e| failed("read", &self.path, e))?;
            if buffer.len() as u64 != length || Hash::of(&buffer) != self.manifest.chunks[index] {
                break;
            }
            self.whole.update(&buffer);
            self.verified += length;
        }
        Ok(())
    }

    fn chunk_length(&self, index: usize) -> u64 {
        (self.manifest.bytes - index as u64 * CHUNK_BYTES).min(CHUNK_BYTES)
    }

    /// Forgets what was not verified.
    async fn rewind(&mut self) -> Result<(), ClientError> {
        self.pending.clear();
        let cut = self.file.set_len(self.verified).await;
        cut.map_err(|e| failed("cut", &self.path, e))?;
        let moved = self.file.seek(SeekFrom::Start(self.verified)).await;
        moved.map_err(|e| failed("position", &self.path, e))?;
        Ok(())
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<(), ClientError> {
        while bytes.has_remaining() {
            let index = (self.verified / CHUNK_BYTES) as usize;
            let Some(expected) = self.manifest.chunks.get(index).copied() else {
                return Err(self.wrong(format!("more than its {} bytes came", self.manifest.bytes)));
            };
            let length = self.chunk_length(index) as usize;
            let part = bytes.split_to(bytes.len().min(length - self.pending.len()));
            self.pending.extend_from_slice(&part);
            if self.pending.len() < length {
                return Ok(());
            }
            if Hash::of(&self.pending) != expected {
                return Err(self.wrong(format!("MiB {index} is not what the manifest says")));
            }
            let written = self.file.write_all(&self.pending).await;
            written.map_err(|e| failed("write", &self.path, e))?;
            self.whole.update(&self.pending);
            self.pending.clear();
            self.verified += length as u64;
        }
        Ok(())
    }

    /// Proves the whole, makes it durable and gives it its name.
    async fn finish(mut self, path: &Path) -> Result<u64, ClientError> {
        let found = Hash(*self.whole.finalize().as_bytes());
        if found != self.blob {
            drop(self.file);
            // Nothing of it can be trusted, the manifest was wrong.
            let removed = tokio::fs::remove_file(&self.path).await;
            removed.map_err(|e| failed("remove", &self.path, e))?;
            let problem = format!("the bytes fit the manifest, but their hash is {found}");
            return Err(ClientError::WrongBytes {
                blob: self.blob,
                problem,
            });
        }
        self.file
            .flush()
            .await
            .map_err(|e| failed("write", &self.path, e))?;
        self.file
            .sync_all()
            .await
            .map_err(|e| failed("sync", &self.path, e))?;
        let renamed = tokio::fs::rename(&self.path, path).await;
        renamed.map_err(|e| failed("rename", &self.path, e))?;
        sync_folder(path).await?;
        Ok(self.manifest.bytes)
    }

    fn wrong(&self, problem: String) -> ClientError {
        ClientError::WrongBytes {
            blob: self.blob,
            problem,
        }
    }
}

/// Makes a rename durable where folders can be synced.
async fn sync_folder(path: &Path) -> Result<(), ClientError> {
    if cfg!(unix)
        && let Some(folder) = path.parent()
    {
        let folder = File::open(folder)
            .await
            .map_err(|e| failed("open the folder of", path, e))?;
        folder
            .sync_all()
            .await
            .map_err(|e| failed("sync the folder of", path, e))?;
    }
    Ok(())
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn failed(operation: &'static str, path: &Path, source: std::io::Error) -> ClientError {
    ClientError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}
