//! Bytes that never change, named by their BLAKE3 hash: shards, tokenizers, payloads,
//! merges, checkpoints.
//!
//! A function here that stores something returns when it is durable: contents and folder
//! entry have reached the disk. So a row that names a blob may be committed right after,
//! and never before. Callers commit such a row after [`Blobs::touch`] (or one of the `put`
//! functions), which also keeps the collector from deleting the blob in between.
//!
//! The bytes go through `object_store`, so that S3 and its kin can stand behind later; a
//! folder is what there is now. Which blobs are needed is not known here but in
//! [`crate::retention`].
//!
//! ```text
//! blobs/ab/ab12…          a blob, in one of 256 folders by its first two digits
//! blobs/ab/ab12…#1        being written; swept when a crash left it behind
//! blobs/incoming/UUID     being written before its hash is known
//! blobs/manifests/ab/ab12…  hashes of a blob's MiBs, computed when first asked for
//! ```

mod listing;
mod manifest;
mod reading;
mod writing;

pub use listing::BlobInfo;
pub use manifest::MANIFEST_CHUNK_BYTES;
pub use reading::{BlobReader, ByteStream};
pub use writing::PutError;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, local::LocalFileSystem, path::Path as Location};
use opengpu_rounds::Hash;

/// The blobs of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// The folder behind `store`.
    root: Arc<PathBuf>,
    manifests: Arc<manifest::Cache>,
    /// Held while a blob's age is refreshed, and while it is looked at and deleted: so that
    /// no blob is deleted that was needed again a moment ago.
    deleting: Arc<tokio::sync::Mutex<()>>,
}

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("there is no blob {0}")]
    Missing(Hash),
    /// The blob's bytes are not those that it is named after.
    #[error("blob {0} is damaged: its bytes have hash {1}; restore it from a backup or delete it")]
    Damaged(Hash, Hash),
    /// A part was asked for that the blob does not have.
    #[error("bytes {start}..{end} of blob {hash} were asked for, which has {bytes} bytes")]
    OutOfRange {
        /// Which blob.
        hash: Hash,
        /// Its size.
        bytes: u64,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
    },
    /// The folder or the object store failed.
    #[error("the blob store failed")]
    Store(#[from] object_store::Error),
    /// The folder failed.
    #[error("the blob folder {path} failed")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// How.
        #[source]
        source: std::io::Error,
    },
}

impl Blobs {
    /// Opens the folder of blobs, making it where there is none. One process at a time may
    /// use a folder; the home's lock sees to that.
    pub fn open_folder(root: &Path) -> Result<Self, BlobError> {
        let failed = |source| BlobError::Folder {
            path: root.to_owned(),
            source,
        };
        std::fs::create_dir_all(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        // A process that was killed may have made one of the 256 folders without flushing
        // its entry; whoever finds it there would not flush it again.
        #[cfg(unix)]
        std::fs::File::open(&root)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        // `with_fsync` flushes file, rename and folders before a write returns.
        let store = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            root: Arc::new(root),
            manifests: Arc::default(),
            deleting: Arc::default(),
        })
    }

    /// The file that holds a blob: for mapping into memory and for handing to a trainer.
    /// It is never written to. Whether it is there is not looked at.
    pub fn path(&self, hash: Hash) -> PathBuf {
        let name = hash.to_string();
        self.root.join(&name[..2]).join(name)
    }
}

fn location(hash: Hash) -> Location {
    let name = hash.to_string();
    Location::from(format!("{}/{name}", &name[..2]))
}
