//! Storing blobs: whole, from a file, from a stream whose hash is known or not. All writes
//! end in an atomic rename, so that a blob is there whole or not at all.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt, pin_mut};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, path::Path as Location};
use opengpu_rounds::Hash;
use tokio::io::AsyncReadExt;

use super::{BlobError, Blobs, location};

/// What is handed to the object store at once; also the most that one write holds in memory.
const PART_BYTES: usize = 1 << 20;

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// More bytes came than may come.
    #[error("more than the {max_bytes} bytes came that are allowed here")]
    TooLarge {
        /// The most that may come.
        max_bytes: u64,
    },
    /// The bytes are not those that were announced.
    #[error("the {bytes} bytes that came have hash {found}, not {expected}; send them again")]
    Mismatch {
        /// The announced hash.
        expected: Hash,
        /// Theirs.
        found: Hash,
        /// How many came.
        bytes: u64,
    },
    /// The sender failed.
    #[error("the bytes stopped coming after {bytes}")]
    Source {
        /// How many came.
        bytes: u64,
        /// Why it stopped.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file that was to be stored can't be read.
    #[error("{path} can't be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It could not be kept.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl From<object_store::Error> for PutError {
    fn from(error: object_store::Error) -> Self {
        Self::Blob(error.into())
    }
}

impl Blobs {
    /// Stores `bytes`.
    pub async fn put(&self, bytes: impl Into<Bytes>) -> Result<Hash, BlobError> {
        let bytes = bytes.into();
        let hash = Hash::of(&bytes);
        if !self.touch(hash).await? {
            self.store
                .put(&location(hash), PutPayload::from_bytes(bytes))
                .await?;
        }
        Ok(hash)
    }

    /// Stores the contents of a file, which must not change meanwhile. Returns its name and size.
    pub async fn put_file(&self, path: &Path) -> Result<(Hash, u64), PutError> {
        let failed = |source| PutError::File {
            path: path.to_owned(),
            source,
        };
        let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mut upload = Upload::start(self, incoming()).await?;
        loop {
            let mut part = Vec::with_capacity(PART_BYTES);
            (&mut file)
                .take(PART_BYTES as u64)
                .read_to_end(&mut part)
                .await
                .map_err(failed)?;
            if part.is_empty() {
                break;
            }
            upload.write(part.into()).await?;
        }
        self.finish_incoming(upload).await
    }

    /// Stores a stream of at most `max_bytes` whose hash is not known. Returns its name and size.
    pub async fn put_stream<E>(
        &self,
        stream: impl Stream<Item = Result<Bytes, E>> + Send,
        max_bytes: u64,
    ) -> Result<(Hash, u64), PutError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut upload = Upload::start(self, incoming()).await?;
        upload.write_all(stream, max_bytes).await?;
        self.finish_incoming(upload).await
    }

    /// Stores a stream of at most `max_bytes` under the hash that its sender announced, if
    /// that is its hash. Of a blob that is there already nothing is read. Returns its size.
    pub async fn put_named<E>(
        &self,
        expected: Hash,
        stream: impl Stream<Item = Result<Bytes, E>> + Send,
        max_bytes: u64,
    ) -> Result<u64, PutError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if self.touch(expected).await? {
            return Ok(self.size(expected).await?);
        }
        let mut upload = Upload::start(self, location(expected)).await?;
        upload.write_all(stream, max_bytes).await?;
        let found = upload.hash();
        if found != expected {
            let bytes = upload.bytes;
            upload.abort().await;
            return Err(PutError::Mismatch {
                expected,
                found,
                bytes,
            });
        }
        upload.complete().await
    }

    async fn finish_incoming(&self, upload: Upload) -> Result<(Hash, u64), PutError> {
        let (hash, from) = (upload.hash(), upload.location.clone());
        let bytes = upload.complete().await?;
        if self.touch(hash).await? {
            self.store.delete(&from).await?;
        } else {
            self.store.rename(&from, &location(hash)).await?;
        }
        Ok((hash, bytes))
    }
}

fn incoming() -> Location {
    Location::from(format!("incoming/{}", uuid::Uuid::now_v7()))
}

/// A blob on its way. When it is dropped unfinished, what was written is removed.
struct Upload {
    upload: Box<dyn MultipartUpload>,
    location: Location,
    hasher: blake3::Hasher,
    bytes: u64,
    /// Came, and waits for more to fill a part. Copied: pieces may be of a byte each, which
    /// would take some forty times as much.
    pending: Vec<u8>,
}

impl Upload {
    async fn start(blobs: &Blobs, location: Location) -> Result<Self, PutError> {
        Ok(Self {
            upload: blobs.store.put_multipart(&location).await?,
            location,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            pending: Vec::new(),
        })
    }

    async fn write_all<E>(
        &mut self,
        stream: impl Stream<Item = Result<Bytes, E>> + Send,
        max_bytes: u64,
    ) -> Result<(), PutError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        pin_mut!(stream);
        while let Some(bytes) = stream.next().await {
            let written = match bytes {
                Ok(bytes) if self.bytes + bytes.len() as u64 > max_bytes => {
                    Err(PutError::TooLarge { max_bytes })
                }
                Ok(bytes) => self.write(bytes).await,
                Err(error) => Err(PutError::Source {
                    bytes: self.bytes,
                    source: error.into(),
                }),
            };
            if let Err(error) = written {
                self.abort().await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), PutError> {
        self.hasher.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.pending.extend_from_slice(&bytes);
        if self.pending.len() >= PART_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), PutError> {
        let part: PutPayload = std::mem::take(&mut self.pending).into();
        self.upload.put_part(part).await?;
        Ok(())
    }

    fn hash(&self) -> Hash {
        Hash(*self.hasher.finalize().as_bytes())
    }

    async fn complete(mut self) -> Result<u64, PutError> {
        if !self.pending.is_empty() {
            self.flush().await?;
        }
        self.upload.complete().await?;
        Ok(self.bytes)
    }

    async fn abort(&mut self) {
        if let Err(error) = self.upload.abort().await {
            // The collector sweeps it.
            tracing::debug!(%error, location = %self.location, "an unfinished blob stays for now");
        }
    }
}
