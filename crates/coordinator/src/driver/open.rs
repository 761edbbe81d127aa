//! Opening a run: becoming its owner and folding its log, from the newest snapshot on.

use anyhow::Context;
use opengpu_rounds::{Run, RunId};

use crate::store::{OwnerEpoch, Store};

/// Form of the snapshots. Raise it when the state's fields mean something else than before.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// A run that was opened.
pub struct Opened {
    /// The right to append.
    pub epoch: OwnerEpoch,
    /// Number of the newest event.
    pub head: u64,
    /// The state after it.
    pub state: Run,
    /// Number of the event up to which a snapshot is stored.
    pub snapshot: u64,
}

/// Claims a run and folds its log.
pub async fn open(store: &Store, run: RunId) -> anyhow::Result<Opened> {
    let epoch = store
        .claim(run)
        .await
        .with_context(|| format!("claiming run {run}"))?;
    let snapshot = store.latest_snapshot(run, SNAPSHOT_FORMAT).await?;
    let from_snapshot = snapshot.and_then(|snapshot| {
        // A snapshot is a cache: one that can't be read, or contradicts itself, is ignored.
        let state: Run = serde_json::from_str(&snapshot.body).ok()?;
        let usable = state.events() == snapshot.seq && state.inconsistency().is_none();
        usable.then_some((snapshot.seq, state))
    });
    let (snapshot, mut state) = from_snapshot.unwrap_or_default();
    let head = store
        .fold_events(run, snapshot, |stored| state.fold(&stored.event))
        .await
        .with_context(|| format!("reading the log of run {run}"))?;
    Ok(Opened {
        epoch,
        head,
        state,
        snapshot,
    })
}
