//! The newest weights for people: a Hugging Face folder, or a sampled text.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use opengpu_protocol::operator::{ExportedFile, SampleRequest};
use opengpu_rounds::{Hash, Revision};
use serde::{Deserialize, Serialize};

use crate::Coordinator;
use crate::driver::{LiveRun, WeightsFile};

/// How long a request waits for a new run's first weights.
const FIRST_WEIGHTS: Duration = Duration::from_secs(120);

/// What lies in an export; written last, so that a folder with it is whole.
const MANIFEST: &str = "manifest.json";

/// Its contents.
#[derive(Serialize, Deserialize)]
struct Manifest {
    run: u64,
    name: String,
    revision: Revision,
    digest: Hash,
    files: Vec<ExportedFile>,
}

/// Writes `HOME/exports/<name>-r<revision>/` and returns its path and its files, the manifest
/// last. The folder appears whole or not at all; one that is there already for the same digest
/// is kept.
pub async fn export(
    coordinator: &Coordinator,
    run: &LiveRun,
) -> anyhow::Result<(PathBuf, Vec<ExportedFile>)> {
    let (weights, revision, digest) = newest_weights(run).await?;
    let exports = coordinator.home().join("exports");
    let lineage = if revision.lineage == 0 {
        String::new()
    } else {
        format!("l{}-", revision.lineage)
    };
    let folder = exports.join(format!(
        "{}-{lineage}r{}",
        file_name(&run.spec.name),
        revision.number
    ));
    if let Some(manifest) = manifest_in(&folder)
        && manifest.digest == digest
    {
        let files = with_manifest(manifest.files, &folder)?;
        return Ok((folder, files));
    }
    std::fs::create_dir_all(&exports)
        .with_context(|| format!("{} cannot be made", exports.display()))?;
    let temporary = exports.join(format!(".{}", uuid::Uuid::now_v7().simple()));
    let cleanup = RemoveOnDrop(temporary.clone());
    let tokenizer = coordinator.blobs().path(run.dataset.tokenizer);
    let files = coordinator
        .trainer()
        .export(&run.model, weights.path(), &tokenizer, &temporary)
        .await?;
    drop(weights);
    let mut listed = Vec::new();
    for file in files {
        listed.push(tokio::task::spawn_blocking(move || describe(file)).await??);
    }
    let manifest = Manifest {
        run: run.id.0,
        name: run.spec.name.clone(),
        revision,
        digest,
        files: listed.clone(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    let target = folder.clone();
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let path = temporary.join(MANIFEST);
        std::fs::write(&path, manifest)?;
        std::fs::File::open(&path)?.sync_all()?;
        if target.exists() {
            std::fs::remove_dir_all(&target)?;
        }
        std::fs::rename(&temporary, &target)?;
        Ok(())
    })
    .await?
    .with_context(|| format!("{} cannot be written", folder.display()))?;
    drop(cleanup);
    let files = with_manifest(listed, &folder)?;
    Ok((folder, files))
}

fn manifest_in(folder: &Path) -> Option<Manifest> {
    let text = std::fs::read(folder.join(MANIFEST)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The files that a manifest names, and itself.
fn with_manifest(mut files: Vec<ExportedFile>, folder: &Path) -> anyhow::Result<Vec<ExportedFile>> {
    files.push(describe(folder.join(MANIFEST))?);
    Ok(files)
}

/// Continues a text with the newest weights.
pub async fn sample(
    coordinator: &Coordinator,
    run: &LiveRun,
    asked: &SampleRequest,
) -> anyhow::Result<String> {
    let (weights, _, _) = newest_weights(run).await?;
    let tokenizer = coordinator.blobs().path(run.dataset.tokenizer);
    coordinator
        .trainer()
        .sample(&run.model, weights.path(), &tokenizer, asked)
        .await
}

async fn newest_weights(run: &LiveRun) -> anyhow::Result<(WeightsFile, Revision, Hash)> {
    let mut changes = run.changes();
    let made = tokio::time::timeout(FIRST_WEIGHTS, async {
        loop {
            if let Some(newest) = run.newest_recipe() {
                return Some(newest);
            }
            changes.changed().await.ok()?;
        }
    });
    let newest = made.await.ok().flatten();
    let (recipe, digest) =
        newest.context("the run has no weights yet; the coordinator's log says why")?;
    let revision = recipe.target;
    let weights = run.copy_weights(recipe).await?;
    Ok((weights, revision, digest))
}

fn describe(file: PathBuf) -> anyhow::Result<ExportedFile> {
    let mut hasher = blake3::Hasher::new();
    let mut open = std::fs::File::open(&file).with_context(|| format!("{}", file.display()))?;
    let bytes = std::io::copy(&mut open, &mut hasher)?;
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(ExportedFile {
        name,
        bytes,
        blake3: Hash(*hasher.finalize().as_bytes()),
    })
}

/// A run's name as part of a path: whatever is not a letter, digit, dot or dash is a dash,
/// and no dot comes first.
fn file_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let trimmed = safe.trim_start_matches('.');
    if trimmed.is_empty() {
        "run".to_owned()
    } else {
        trimmed.to_owned()
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // Gone already where it was renamed into place.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn a_runs_name_never_leaves_the_exports_folder() {
        assert_eq!(file_name("first run"), "first-run");
        assert_eq!(file_name("../../etc/passwd"), "-..-etc-passwd");
        assert_eq!(file_name(".."), "run");
    }
}
