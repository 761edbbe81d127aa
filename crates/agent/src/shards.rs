//! Dataset shards on disk, by hash, shared by all devices of the node.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use opengpu_protocol::wire::DatasetManifest;
use opengpu_protocol::{Client, Download};
use opengpu_trainer_protocol::TokenFiles;
use tokio::sync::Mutex;

use crate::home::NodeHome;

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
        Ok(TokenFiles {
            files,
            token_bytes: dataset.token_bytes,
            tokens: dataset.training.tokens,
            text_bytes: dataset.training.text_bytes,
        })
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
