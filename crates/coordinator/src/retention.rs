//! Which blobs are still needed, and the collection of those that are not.
//!
//! Everything that needs a blob says so as a set of hashes: live runs (payloads until their
//! merge is behind a durable checkpoint, merges that joiners may ask for, checkpoints that
//! can be rolled back to) and datasets. [`plan`] is a pure function of these and of what is
//! there; [`collect`] makes it so, on a timer, safe to repeat, and safe to interrupt.
//!
//! A blob is stored before the row that names it is committed, so a young blob that nothing
//! names yet is left alone: the grace period must be longer than any upload and commit take.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use opengpu_protocol::wire::DatasetManifest;
use opengpu_rounds::Hash;

use crate::blobs::{BlobError, BlobInfo, Blobs};

/// Unneeded blobs younger than this are left alone unless the caller says otherwise.
pub const GRACE: Duration = Duration::from_secs(30 * 60);

/// What a collection would do, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blobs that something needs.
    pub needed: u64,
    /// Blobs that nothing needs but that are too young to go.
    pub young: u64,
    /// Blobs deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Files of interrupted writes removed.
    pub swept: u64,
    /// Blobs that something needs and that are not there.
    pub missing: Vec<Hash>,
}

/// What a run needs. Every run that there is must be asked: a run that is left out loses its
/// checkpoints.
#[derive(Clone, Debug)]
pub struct RunNeeds<'a> {
    /// Its data, which may have been deleted since the run ended.
    pub dataset: &'a DatasetManifest,
    /// Whether it will train no more.
    pub over: bool,
    /// Its payloads, merges and checkpoints: [`opengpu_rounds::Run::blobs_needed`].
    pub blobs: BTreeSet<Hash>,
}

/// All that is needed: datasets; the data, payloads, merges and checkpoints of runs. A run
/// that is over keeps its checkpoints and its tokenizer, so that it can still be exported and
/// sampled from, but not its data.
pub fn needed<'a>(
    datasets: &[DatasetManifest],
    runs: impl IntoIterator<Item = RunNeeds<'a>>,
) -> HashSet<Hash> {
    let mut needed: HashSet<Hash> = datasets.iter().flat_map(dataset_blobs).collect();
    for run in runs {
        needed.insert(run.dataset.tokenizer);
        if !run.over {
            needed.extend(dataset_blobs(run.dataset));
        }
        needed.extend(run.blobs);
    }
    needed
}

fn dataset_blobs(dataset: &DatasetManifest) -> impl Iterator<Item = Hash> {
    [&dataset.training, &dataset.held_out]
        .into_iter()
        .flat_map(|part| part.shards.iter().map(|shard| shard.hash))
        .chain([dataset.tokenizer])
}

/// Which of the blobs that are there may go: those that nobody needs and that are not
/// younger than `younger_than`.
pub fn plan(
    there: &[BlobInfo],
    needed: &HashSet<Hash>,
    younger_than: Duration,
) -> (Vec<BlobInfo>, Report) {
    let mut report = Report::default();
    let mut deletions = Vec::new();
    for blob in there {
        if needed.contains(&blob.hash) {
            report.needed += 1;
        } else if blob.age < younger_than {
            report.young += 1;
        } else {
            deletions.push(*blob);
        }
    }
    let there: HashSet<Hash> = there.iter().map(|blob| blob.hash).collect();
    report.missing = needed.difference(&there).copied().collect();
    report.missing.sort_unstable();
    (deletions, report)
}

/// Deletes what nobody needs any more. `needed` must be complete, and must have been put
/// together after the latest event that it follows from was committed: a blob whose row was
/// committed later than that is young, because committers touch it first, and stays.
pub async fn collect(
    blobs: &Blobs,
    needed: &HashSet<Hash>,
    younger_than: Duration,
) -> Result<Report, BlobError> {
    let (deletions, mut report) = plan(&blobs.list().await?, needed, younger_than);
    for blob in deletions {
        // Looks at the age again: it may have been touched since it was listed.
        if blobs.delete_if_old(blob.hash, younger_than).await? {
            report.deleted += 1;
            report.deleted_bytes += blob.bytes;
        } else {
            report.young += 1;
        }
    }
    report.swept = blobs.sweep_unfinished(younger_than).await?;
    for hash in &report.missing {
        tracing::error!(blob = %hash, "a blob that is needed is not there; restore it from a backup");
    }
    if report.deleted + report.swept > 0 {
        tracing::info!(
            deleted = report.deleted,
            bytes = report.deleted_bytes,
            swept = report.swept,
            needed = report.needed,
            young = report.young,
            "collected blobs that nothing needs"
        );
    }
    Ok(report)
}
