//! How the weights of a revision are made that is not the newest.

use opengpu_protocol::wire::{CheckpointRef, History, MergeRef};
use opengpu_rounds::{MergeRecord, Revision, Run};

/// The newest kept checkpoint up to a revision, and the merges that lead from there to it. None:
/// it is not on the way to the newest weights, or what it is made of is gone.
pub fn way_to(state: &Run, revision: Revision) -> Option<History> {
    if !state.is_live(revision) {
        return None;
    }
    let start = state.checkpoint_up_to(revision.number)?;
    let between = start.revision.number + 1..=revision.number;
    let merges = state.merges();
    let merges: Vec<MergeRef> = merges
        .filter(|merge| between.contains(&merge.revision.number))
        .map(merge_ref)
        .collect();
    let checkpoint = CheckpointRef {
        revision: start.revision,
        weights: start.weights,
    };
    let whole = merges.len() as u64 == revision.number - start.revision.number;
    whole.then_some(History { checkpoint, merges })
}

/// A merge as it goes over the wire.
pub fn merge_ref(merge: &MergeRecord) -> MergeRef {
    MergeRef {
        revision: merge.revision,
        merge: merge.merge,
        bytes: merge.merge_bytes,
        digest: merge.digest,
    }
}
