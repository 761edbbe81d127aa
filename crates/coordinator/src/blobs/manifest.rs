//! The hashes of a blob's MiBs, which let a reader verify ranges as they arrive and resume
//! after a break. Computed when first asked for, since most blobs (payloads, merges) are
//! never fetched in parts, and then kept beside the blobs and, for the latest, in memory.

use std::{collections::VecDeque, sync::Arc};

use futures::StreamExt;
use object_store::{ObjectStoreExt, PutPayload, path::Path as Location};
use opengpu_protocol::wire::BlobManifest;
use opengpu_rounds::Hash;
use tokio::sync::{Mutex, OnceCell};

use super::{BlobError, Blobs};

/// Bytes behind each hash of a manifest; the last has fewer.
pub const MANIFEST_CHUNK_BYTES: usize = 1 << 20;

/// How many manifests stay in memory. That of a 4 GB checkpoint has 128 KiB.
const IN_MEMORY: usize = 64;

type Cell = Arc<OnceCell<Arc<BlobManifest>>>;

/// The latest manifests. A cell is entered before it is filled, so that a hundred agents
/// that ask for a new checkpoint's manifest at once cause one reading of it.
#[derive(Default)]
pub(super) struct Cache(Mutex<VecDeque<(Hash, Cell)>>);

impl Cache {
    async fn cell(&self, hash: Hash) -> Cell {
        let mut cells = self.0.lock().await;
        let cell = match cells.iter().position(|(name, _)| *name == hash) {
            Some(place) => cells.remove(place).map(|(_, cell)| cell),
            None => None,
        }
        .unwrap_or_default();
        if cells.len() >= IN_MEMORY {
            cells.pop_front();
        }
        cells.push_back((hash, cell.clone()));
        cell
    }

    pub(super) async fn forget(&self, hash: Hash) {
        self.0.lock().await.retain(|(name, _)| *name != hash);
    }
}

impl Blobs {
    /// The manifest of a blob.
    pub async fn manifest(&self, hash: Hash) -> Result<Arc<BlobManifest>, BlobError> {
        let cell = self.manifests.cell(hash).await;
        cell.get_or_try_init(|| async {
            if let Some(kept) = self.kept_manifest(hash).await? {
                return Ok(Arc::new(kept));
            }
            let manifest = self.compute_manifest(hash).await?;
            if manifest.chunks.len() > 1 {
                self.keep_manifest(hash, &manifest).await;
            }
            Ok(Arc::new(manifest))
        })
        .await
        .cloned()
    }

    async fn kept_manifest(&self, hash: Hash) -> Result<Option<BlobManifest>, BlobError> {
        let bytes = self.size(hash).await?;
        let kept = match self.store.get(&manifest_location(hash)).await {
            Ok(kept) => kept.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let chunks = bytes.div_ceil(MANIFEST_CHUNK_BYTES as u64);
        // One that is damaged is computed again.
        Ok(serde_json::from_slice::<BlobManifest>(&kept)
            .ok()
            .filter(|kept| kept.bytes == bytes && kept.chunks.len() as u64 == chunks))
    }

    async fn keep_manifest(&self, hash: Hash, manifest: &BlobManifest) {
        let kept = match serde_json::to_vec(manifest) {
            Ok(json) => {
                self.store
                    .put(&manifest_location(hash), PutPayload::from(json))
                    .await
            }
            Err(_) => return,
        };
        if let Err(error) = kept {
            tracing::warn!(%error, blob = %hash, "the manifest could not be kept; it will be computed again");
        }
    }

    /// Reads the whole blob, checking that its bytes are those it is named after: a manifest
    /// of damaged bytes would make every reader trust them.
    async fn compute_manifest(&self, hash: Hash) -> Result<BlobManifest, BlobError> {
        let reader = self.open(hash, None).await?;
        let mut stream = reader.stream;
        let mut whole = blake3::Hasher::new();
        let mut chunk = blake3::Hasher::new();
        let mut room = MANIFEST_CHUNK_BYTES;
        let mut chunks = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            let mut piece = &piece[..];
            whole.update(piece);
            while !piece.is_empty() {
                let (now, later) = piece.split_at(piece.len().min(room));
                chunk.update(now);
                room -= now.len();
                piece = later;
                if room == 0 {
                    chunks.push(Hash(*chunk.finalize().as_bytes()));
                    chunk.reset();
                    room = MANIFEST_CHUNK_BYTES;
                }
            }
        }
        if room < MANIFEST_CHUNK_BYTES {
            chunks.push(Hash(*chunk.finalize().as_bytes()));
        }
        let found = Hash(*whole.finalize().as_bytes());
        if found != hash {
            return Err(BlobError::Damaged(hash, found));
        }
        Ok(BlobManifest {
            bytes: reader.bytes,
            chunks,
        })
    }
}

pub(super) fn manifest_location(hash: Hash) -> Location {
    let name = hash.to_string();
    Location::from(format!("manifests/{}/{name}", &name[..2]))
}
