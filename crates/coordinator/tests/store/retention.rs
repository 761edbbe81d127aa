//! Which blobs go and which stay.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use opengpu_coordinator::{
    blobs::{BlobInfo, Blobs},
    retention::{GRACE, collect, needed_by_datasets, plan},
};
use opengpu_rounds::Hash;
use proptest::prelude::*;
use tempfile::TempDir;

use super::samples::manifest;

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
fn a_dataset_needs_its_tokenizer_and_all_its_shards() {
    let tales = manifest("tales");
    let needed = needed_by_datasets([&tales]);
    assert_eq!(
        needed,
        HashSet::from([
            Hash::of(b"tokenizer"),
            Hash::of(b"training"),
            Hash::of(b"held out")
        ])
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
