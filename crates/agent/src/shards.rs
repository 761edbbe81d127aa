//! Dataset shards on disk, by hash, shared by all devices of the node.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use opengpu_protocol::wire::DatasetManifest;
use opengpu_protocol::{Client, Download};
use opengpu_trainer_protocol::TokenFiles;
use tokio::sync::Mutex;

use crate::home::NodeHome;

/// How long a shard is kept that no run here used.
const KEPT_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Fetches shards, one at a time: two devices never write one file.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    home: NodeHome,
    client: Client,
    turn: Arc<Mutex<()>>,
}

impl Shards {
    pub(crate) fn new(home: NodeHome, client: Client) -> Self {
        Self {
            home,
            client,
            turn: Arc::default(),
        }
    }

    /// The training tokens of a dataset, fetched if they are not here.
    pub(crate) async fn training(
        &self,
        dataset: &DatasetManifest,
        progress: &(dyn Fn(String) + Sync),
    ) -> anyhow::Result<TokenFiles> {
        let _turn = self.turn.lock().await;
        let mut files = Vec::new();
        for (index, shard) in dataset.training.shards.iter().enumerate() {
            let of = dataset.training.shards.len();
            let say = |bytes| {
                let whole = shard.bytes;
                progress(format!(
                    "fetching dataset shard {} of {of} ({bytes} of {whole} bytes)",
                    index + 1
                ));
            };
            let path = self.fetch(shard.hash, shard.bytes, &say);
            files.push(
                path.await
                    .with_context(|| format!("shard {} of dataset {}", index + 1, dataset.name))?,
            );
        }
        self.forget_unused(&files);
        Ok(TokenFiles {
            files,
            token_bytes: dataset.token_bytes,
            tokens: dataset.training.tokens,
            text_bytes: dataset.training.text_bytes,
        })
    }

    /// Marks what is used, and removes shards of runs that nobody here worked for in a long
    /// time: a volunteer's disk must not fill up with them.
    fn forget_unused(&self, used: &[PathBuf]) {
        for path in used {
            let marked = File::options().append(true).open(path);
            let marked = marked.and_then(|file| file.set_modified(SystemTime::now()));
            if let Err(error) = marked {
                tracing::debug!(path = %path.display(), %error, "could not mark a shard as used");
            }
        }
        let all = std::fs::read_dir(self.home.blobs());
        for file in all.into_iter().flatten().flatten() {
            let used = file.metadata().and_then(|metadata| metadata.modified());
            if used.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT_UNUSED)) {
                // What can't be removed now is tried again the next time.
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    async fn fetch(
        &self,
        hash: opengpu_rounds::Hash,
        bytes: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> anyhow::Result<PathBuf> {
        let path = self.home.blob(hash);
        if path.exists() {
            return Ok(path);
        }
        let download = Download::new(hash, &path, bytes);
        let size = download
            .run(&self.client, &|done, _| progress(done))
            .await?;
        self.home.count_written(size);
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_was_not_used_for_long_goes_and_what_is_used_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = NodeHome::open(folder.path()).unwrap();
        std::fs::create_dir_all(home.blobs()).unwrap();
        let long_ago = SystemTime::now() - 2 * KEPT_UNUSED;
        let [used, recent, old] = ["used", "recent", "old"].map(|name| home.blobs().join(name));
        for path in [&used, &recent, &old] {
            let file = File::create(path).unwrap();
            if path != &recent {
                file.set_modified(long_ago).unwrap();
            }
        }
        let client = Client::anonymous("http://127.0.0.1:1").unwrap();
        Shards::new(home, client).forget_unused(std::slice::from_ref(&used));
        assert!(used.exists() && recent.exists() && !old.exists());
    }
}
