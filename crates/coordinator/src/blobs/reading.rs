//! Reading blobs: whole and verified, in part, or as a stream.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use opengpu_rounds::Hash;

use super::{BlobError, Blobs, location};

/// Bytes as they are read.
pub type ByteStream = BoxStream<'static, Result<Bytes, BlobError>>;

/// A blob that is open for reading.
pub struct BlobReader {
    /// Size of the whole blob.
    pub bytes: u64,
    /// Which part `stream` gives.
    pub range: Range<u64>,
    /// Its bytes, in pieces.
    pub stream: ByteStream,
}

impl Blobs {
    /// Size of a blob; missing is an error.
    pub async fn size(&self, hash: Hash) -> Result<u64, BlobError> {
        let meta = self
            .store
            .head(&location(hash))
            .await
            .map_err(|error| missing(hash, error))?;
        Ok(meta.size)
    }

    /// Whether a blob is there.
    pub async fn contains(&self, hash: Hash) -> Result<bool, BlobError> {
        match self.size(hash).await {
            Ok(_) => Ok(true),
            Err(BlobError::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A whole blob, in memory, its hash checked.
    pub async fn read(&self, hash: Hash) -> Result<Bytes, BlobError> {
        let bytes = self
            .store
            .get(&location(hash))
            .await
            .map_err(|error| missing(hash, error))?
            .bytes()
            .await?;
        // Hashing 100 MB takes tens of milliseconds: not on a thread that serves requests.
        let found = if bytes.len() > 1 << 20 {
            let to_hash = bytes.clone();
            tokio::task::spawn_blocking(move || Hash::of(&to_hash))
                .await
                .map_err(object_store::Error::from)?
        } else {
            Hash::of(&bytes)
        };
        if found == hash {
            Ok(bytes)
        } else {
            Err(BlobError::Damaged(hash, found))
        }
    }

    /// Part of a blob, in memory. Its hash is not checked.
    pub async fn read_range(&self, hash: Hash, range: Range<u64>) -> Result<Bytes, BlobError> {
        let reader = self.open(hash, Some(range)).await?;
        let mut stream = reader.stream;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.into())
    }

    /// Opens a blob, or part of it, for streaming. The reader checks what it gets against the
    /// manifest or the name. A range must lie inside the blob; an empty one is refused.
    pub async fn open(
        &self,
        hash: Hash,
        range: Option<Range<u64>>,
    ) -> Result<BlobReader, BlobError> {
        if let Some(range) = &range {
            let bytes = self.size(hash).await?;
            if range.start >= range.end || range.end > bytes {
                return Err(BlobError::OutOfRange {
                    hash,
                    bytes,
                    start: range.start,
                    end: range.end,
                });
            }
        }
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let result = self
            .store
            .get_opts(&location(hash), options)
            .await
            .map_err(|error| missing(hash, error))?;
        Ok(BlobReader {
            bytes: result.meta.size,
            range: result.range.clone(),
            stream: result
                .into_stream()
                .map(|piece| piece.map_err(BlobError::from))
                .boxed(),
        })
    }
}

/// Turns the object store's "not found" into ours.
pub(super) fn missing(hash: Hash, error: object_store::Error) -> BlobError {
    match error {
        object_store::Error::NotFound { .. } => BlobError::Missing(hash),
        error => error.into(),
    }
}
