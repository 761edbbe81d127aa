//! Which blobs go and which stay.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use opengpu_coordinator::{
    blobs::{BlobInfo, Blobs},
    retention::{GRACE, RunNeeds, collect, needed, plan},
};
use opengpu_rounds::{Hash, Run};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{long_run, samples::manifest};

fn age(path: &std::path::Path, age: Duration) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[tokio::test]
async fn only_old_blobs_that_nobody_needs_go() {
    let folder = TempDir::new().unwrap();
    let blobs = Blobs::open_folder(folder.path()).unwrap();
    let needed = blobs.put("needed").await.unwrap();
    let old = blobs.put(vec![7; 3 << 20]).await.unwrap();
    let young = blobs.put("young").await.unwrap();
    let touched = blobs.put("touched").await.unwrap();
    let sent_again = blobs.put("sent again").await.unwrap();
    blobs.manifest(old).await.unwrap();
    for hash in [needed, old, touched, sent_again] {
        age(&blobs.path(hash), 2 * GRACE);
    }
    assert!(blobs.touch(touched).await.unwrap());
    blobs.put("sent again").await.unwrap();
    // What a crash left: a blob that was being written, and one without a name yet.
    let unfinished = folder
        .path()
        .join(format!("{}#1", blobs.path(needed).display()));
    std::fs::write(&unfinished, "half").unwrap();
    std::fs::create_dir_all(folder.path().join("incoming")).unwrap();
    let nameless = folder.path().join("incoming/0190-upload");
    std::fs::write(&nameless, "half").unwrap();
    let uploading = folder.path().join("incoming/0191-upload#1");
    std::fs::write(&uploading, "still coming").unwrap();
    age(&unfinished, 2 * GRACE);
    age(&nameless, 2 * GRACE);

    let absent = Hash::of(b"absent");
    let keep = HashSet::from([needed, absent]);
    let report = collect(&blobs, &keep, GRACE).await.unwrap();
    assert_eq!((report.needed, report.young, report.deleted), (1, 3, 1));
    assert_eq!((report.deleted_bytes, report.swept), (3 << 20, 2));
    assert_eq!(report.missing, [absent]);
    for hash in [needed, young, touched, sent_again] {
        assert!(blobs.contains(hash).await.unwrap());
    }
    assert!(!blobs.contains(old).await.unwrap());
    assert!(blobs.manifest(old).await.is_err());
    assert!(uploading.exists() && !unfinished.exists() && !nameless.exists());

    // Safe to repeat.
    let again = collect(&blobs, &keep, GRACE).await.unwrap();
    assert_eq!((again.deleted, again.swept), (0, 0));
}

#[test]
fn a_run_that_is_over_keeps_its_tokenizer_and_checkpoints_but_not_its_data() {
    let tales = manifest("tales");
    let [tokenizer, training, held_out, checkpoint] =
        ["tokenizer", "training", "held out", "checkpoint"].map(|text| Hash::of(text.as_bytes()));
    let run = |over| RunNeeds {
        dataset: &tales,
        over,
        blobs: [checkpoint].into(),
    };
    let all = HashSet::from([tokenizer, training, held_out, checkpoint]);
    assert_eq!(needed(&[], [run(true)]), [tokenizer, checkpoint].into());
    assert_eq!(needed(&[], [run(false)]), all);
    assert_eq!(needed(std::slice::from_ref(&tales), [run(true)]), all);
    let alone = needed(std::slice::from_ref(&tales), []);
    assert_eq!(alone, [tokenizer, training, held_out].into());
}

/// The collector after every round of a run, with no grace for what was written before the
/// round: what a restarted coordinator and a joining node fetch is always there, and the
/// folder does not grow.
#[tokio::test]
async fn a_long_run_keeps_what_it_needs_and_no_more() {
    let rounds = 45;
    let folder = TempDir::new().unwrap();
    let blobs = Blobs::open_folder(folder.path()).unwrap();
    let tales = manifest("tales");
    for part in ["weights", "outer"] {
        blobs.put(long_run::contents(part, 0)).await.unwrap();
    }
    let mut state = Run::from_events(&long_run::first_events(rounds + 1));
    let mut most = 0;
    for round in 0..rounds {
        for contents in long_run::blobs_of(round) {
            blobs.put(contents).await.unwrap();
        }
        let (events, _) = long_run::round(round);
        let (accepted, closed) = events.split_at(events.len() - 3);
        for events in [accepted, closed] {
            for event in events {
                state.fold(event);
            }
            for blob in blobs.list().await.unwrap() {
                age(&blobs.path(blob.hash), 2 * GRACE);
            }
            // What the next events name was stored before them, a moment ago.
            for contents in long_run::blobs_of(round) {
                blobs.touch(Hash::of(contents.as_bytes())).await.unwrap();
            }
            let run = RunNeeds {
                dataset: &tales,
                over: true,
                blobs: state.blobs_needed(),
            };
            let report = collect(&blobs, &needed(&[], [run]), GRACE).await.unwrap();
            assert_eq!(report.missing, [tales.tokenizer], "after round {round}");
        }
        let checkpoint = state.checkpoint().unwrap();
        blobs.read(checkpoint.weights).await.unwrap();
        blobs.read(checkpoint.outer_state).await.unwrap();
        for merge in state.merges_since_checkpoint() {
            blobs.read(merge.merge).await.unwrap();
            assert_eq!(merge.updates.len(), 8);
            for update in &merge.updates {
                blobs.read(update.payload).await.unwrap();
            }
        }
        most = most.max(blobs.list().await.unwrap().len());
    }
    // Two checkpoints with the merges since the older, and the payloads since the newer.
    let every = usize::try_from(long_run::CHECKPOINT_EVERY).unwrap();
    assert!(
        most <= 2 * 2 + 2 * every + 8 * (every + 1) + 4,
        "{most} blobs"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn a_plan_deletes_exactly_what_is_old_and_unneeded(
        there in prop::collection::btree_map(0_u8..40, 0_u64..100, 0..40),
        needed in prop::collection::hash_set(0_u8..60, 0..30),
        grace in 0_u64..100,
    ) {
        let name = |number: u8| Hash::of(&[number]);
        let blobs: Vec<BlobInfo> = there
            .iter()
            .map(|(number, age)| BlobInfo {
                hash: name(*number),
                bytes: 1,
                age: Duration::from_secs(*age),
            })
            .collect();
        let keep: HashSet<Hash> = needed.iter().copied().map(name).collect();
        let (deletions, report) = plan(&blobs, &keep, Duration::from_secs(grace));
        let deleted: HashSet<Hash> = deletions.iter().map(|blob| blob.hash).collect();
        for (number, age) in &there {
            let goes = !needed.contains(number) && *age >= grace;
            prop_assert_eq!(deleted.contains(&name(*number)), goes);
        }
        let absent = needed.iter().filter(|number| !there.contains_key(number)).count();
        prop_assert_eq!(report.missing.len(), absent);
        prop_assert_eq!(
            report.needed + report.young + deletions.len() as u64,
            there.len() as u64
        );
    }
}
