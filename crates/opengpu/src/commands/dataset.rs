//! `opengpu dataset …`: tokenise text on this machine and hand it to the coordinator.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use opengpu_dataset::{Options, Prepared, PreparedPart, Stage};
use opengpu_protocol::{
    Client, ClientError,
    wire::{DatasetManifest, ShardRef, TokenShards},
};
use opengpu_rounds::Hash;
use tempfile::TempDir;

use crate::{
    cli::DatasetCommand,
    home::Home,
    output::{bytes, count, show, table},
    remote,
};

/// After so long nobody writes to a staged dataset any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Carries out a `dataset` command.
pub async fn run(home: &Home, json: bool, command: DatasetCommand) -> Result<()> {
    match command {
        DatasetCommand::Add {
            name,
            files,
            vocab,
            remote,
        } => {
            let client = remote::operator(home, &remote)?;
            let prepared = prepare(home, files, vocab as usize, json).await?;
            let manifest = upload(&client, &name, &prepared).await?;
            drop(prepared);
            show(json, &manifest, |manifest| {
                list(std::slice::from_ref(manifest))
            })
        }
        DatasetCommand::List { remote } => {
            let datasets = remote::operator(home, &remote)?.datasets().await?;
            show(json, &datasets, |datasets| list(datasets))
        }
        DatasetCommand::Show { name, remote } => {
            let dataset = remote::operator(home, &remote)?.dataset(&name).await?;
            show(json, &dataset, |dataset| {
                list(std::slice::from_ref(dataset))
            })
        }
        DatasetCommand::Remove { name, remote } => {
            remote::operator(home, &remote)?
                .remove_dataset(&name)
                .await?;
            show(json, &serde_json::json!({ "removed": name }), |_| {
                println!("removed {name}");
            })
        }
    }
}

/// What was prepared, in a folder of its own that goes with it.
pub struct Staged {
    prepared: Prepared,
    _folder: TempDir,
}

impl std::ops::Deref for Staged {
    type Target = Prepared;
    fn deref(&self) -> &Prepared {
        &self.prepared
    }
}

/// Makes tokenizer and shards in the home's staging folder, off the async threads.
pub async fn prepare(
    home: &Home,
    files: Vec<PathBuf>,
    vocabulary: usize,
    quiet: bool,
) -> Result<Staged> {
    let staging = home.staging();
    tokio::task::spawn_blocking(move || {
        // Two commands on one home must not write each other's files.
        std::fs::create_dir_all(&staging)
            .with_context(|| format!("cannot make the folder {}", staging.display()))?;
        remove_abandoned(&staging);
        let folder = tempfile::tempdir_in(&staging)
            .with_context(|| format!("cannot make a folder in {}", staging.display()))?;
        let options = Options {
            vocab_size: vocabulary,
            ..Options::default()
        };
        let bar = bar(quiet);
        let mut stage: Option<Stage> = None;
        let prepared = opengpu_dataset::prepare(&files, folder.path(), &options, &mut |progress| {
            if stage != Some(progress.stage) {
                stage = Some(progress.stage);
                bar.set_message(progress.stage.to_string());
            }
            bar.set_length(progress.of);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        Ok(Staged {
            prepared: prepared?,
            _folder: folder,
        })
    })
    .await?
}

/// Removes what commands left that were killed long ago.
fn remove_abandoned(staging: &Path) {
    let Ok(folders) = std::fs::read_dir(staging) else {
        return;
    };
    for folder in folders.flatten() {
        let changed = folder.metadata().and_then(|metadata| metadata.modified());
        let old = changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED_AFTER));
        if old {
            // What can't be removed now is in nobody's way.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

fn bar(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:24} {bar:30.cyan/blue} {percent}%")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// Sends tokenizer and shards, then the manifest that names them. What took so long that the
/// coordinator has thrown its beginning away is sent again.
pub async fn upload(client: &Client, name: &str, prepared: &Prepared) -> Result<DatasetManifest> {
    match upload_once(client, name, prepared).await {
        Err(error) if is_missing_blob(&error) => upload_once(client, name, prepared).await,
        done => done,
    }
}

fn is_missing_blob(error: &anyhow::Error) -> bool {
    let client = error.downcast_ref::<ClientError>();
    client.and_then(ClientError::code) == Some("missing_blob")
}

async fn upload_once(client: &Client, name: &str, prepared: &Prepared) -> Result<DatasetManifest> {
    let tokenizer = upload_file(client, &prepared.tokenizer).await?;
    let manifest = DatasetManifest {
        name: name.to_owned(),
        tokenizer,
        vocab_size: prepared.vocab_size,
        token_bytes: prepared.token_bytes,
        training: upload_part(client, &prepared.training).await?,
        held_out: upload_part(client, &prepared.held_out).await?,
    };
    client.add_dataset(&manifest).await?;
    Ok(manifest)
}

async fn upload_part(client: &Client, part: &PreparedPart) -> Result<TokenShards> {
    let mut shards = Vec::with_capacity(part.shards.len());
    for shard in &part.shards {
        shards.push(ShardRef {
            hash: upload_file(client, &shard.path).await?,
            bytes: shard.bytes,
        });
    }
    Ok(TokenShards {
        shards,
        tokens: part.tokens,
        text_bytes: part.text_bytes,
    })
}

async fn upload_file(client: &Client, path: &Path) -> Result<Hash> {
    let bytes = tokio::fs::read(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(client.upload_blob(bytes.into()).await?)
}

fn list(datasets: &[DatasetManifest]) {
    if datasets.is_empty() {
        println!("no datasets yet; add one with: opengpu dataset add NAME FILE…");
        return;
    }
    let rows: Vec<Vec<String>> = datasets
        .iter()
        .map(|dataset| {
            vec![
                dataset.name.clone(),
                dataset.vocab_size.to_string(),
                count(dataset.training.tokens as f64),
                bytes(dataset.training.text_bytes),
                count(dataset.held_out.tokens as f64),
                bytes(dataset.held_out.text_bytes),
            ]
        })
        .collect();
    table(
        &["NAME", "VOCABULARY", "TOKENS", "TEXT", "HELD OUT", "TEXT"],
        &rows,
    );
}
