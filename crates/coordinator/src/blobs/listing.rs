//! What is there and how old it is; and taking it away.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use opengpu_rounds::Hash;

use super::{BlobError, Blobs, location, manifest::manifest_location};

/// A blob that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub hash: Hash,
    /// Its size.
    pub bytes: u64,
    /// Since when it was last stored or touched.
    pub age: Duration,
}

impl Blobs {
    /// All blobs.
    pub async fn list(&self) -> Result<Vec<BlobInfo>, BlobError> {
        let now = SystemTime::now();
        let mut blobs = Vec::new();
        let mut listing = self.store.list(None);
        while let Some(meta) = listing.try_next().await? {
            // Manifests and unfinished blobs lie elsewhere.
            let Some(hash) = meta
                .location
                .filename()
                .and_then(|name| name.parse::<Hash>().ok())
                .filter(|hash| location(*hash) == meta.location)
            else {
                continue;
            };
            let modified = SystemTime::from(meta.last_modified);
            blobs.push(BlobInfo {
                hash,
                bytes: meta.size,
                // A clock that stepped back makes blobs young, which deletes nothing.
                age: now.duration_since(modified).unwrap_or_default(),
            });
        }
        Ok(blobs)
    }

    /// Makes a blob young again, so that it survives until the row that names it is there.
    /// False: there is no such blob.
    pub async fn touch(&self, hash: Hash) -> Result<bool, BlobError> {
        let _deleting = self.deleting.lock().await;
        let path = self.path(hash);
        let touched = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                std::fs::File::options()
                    .append(true)
                    .open(path)?
                    .set_modified(SystemTime::now())
            })
            .await
            .map_err(object_store::Error::from)?
        };
        match touched {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(BlobError::Folder { path, source }),
        }
    }

    /// Deletes a blob. False: there was none.
    pub async fn delete(&self, hash: Hash) -> Result<bool, BlobError> {
        let _deleting = self.deleting.lock().await;
        self.delete_held(hash).await
    }

    /// Deletes a blob unless it is younger than `younger_than` by now.
    pub(crate) async fn delete_if_old(
        &self,
        hash: Hash,
        younger_than: Duration,
    ) -> Result<bool, BlobError> {
        let _deleting = self.deleting.lock().await;
        let meta = match self.store.head(&location(hash)).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let age = SystemTime::now()
            .duration_since(meta.last_modified.into())
            .unwrap_or_default();
        if age < younger_than {
            return Ok(false);
        }
        self.delete_held(hash).await
    }

    async fn delete_held(&self, hash: Hash) -> Result<bool, BlobError> {
        self.manifests.forget(hash).await;
        match self.store.delete(&manifest_location(hash)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match self.store.delete(&location(hash)).await {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what writes left behind that were cut off at least `older_than` ago. Returns
    /// how many files that were.
    pub async fn sweep_unfinished(&self, older_than: Duration) -> Result<u64, BlobError> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || sweep_folder(&root, older_than))
            .await
            .map_err(object_store::Error::from)?
            .map_err(|source| BlobError::Folder {
                path: self.root.to_path_buf(),
                source,
            })
    }
}

/// The object store hides its unfinished files from its own listing, so the folder is
/// walked: `NAME#NUMBER` anywhere, and everything under `incoming`.
fn sweep_folder(folder: &Path, older_than: Duration) -> std::io::Result<u64> {
    let mut swept = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Ok(meta) = entry.metadata() else {
            // Gone since it was listed.
            continue;
        };
        if meta.is_dir() {
            swept += sweep_folder(&path, older_than)?;
            continue;
        }
        let unfinished = folder.ends_with("incoming")
            || entry
                .file_name()
                .to_str()
                .and_then(|name| name.split_once('#'))
                .is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
        let old = meta
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok())
            .is_some_and(|age| age >= older_than);
        if unfinished && old && std::fs::remove_file(&path).is_ok() {
            swept += 1;
        }
    }
    Ok(swept)
}
