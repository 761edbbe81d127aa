//! Blobs in a folder.

use std::{io, path::Path};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use opengpu_coordinator::blobs::{BlobError, Blobs, MANIFEST_CHUNK_BYTES, PutError};
use opengpu_rounds::Hash;
use tempfile::TempDir;

fn blobs() -> (TempDir, Blobs) {
    let folder = TempDir::with_prefix("opengpu-blobs-").unwrap();
    let blobs = Blobs::open_folder(&folder.path().join("blobs")).unwrap();
    (folder, blobs)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new_derive_key("opengpu test noise")
        .finalize_xof()
        .fill(&mut noise);
    noise
}

fn pieces(bytes: &[u8], piece: usize) -> Vec<Result<Bytes, io::Error>> {
    bytes
        .chunks(piece)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect()
}

/// Files anywhere under a folder.
fn files_under(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}

#[tokio::test]
async fn a_blob_is_read_back_whole_in_part_and_as_a_stream() {
    let (_folder, blobs) = blobs();
    let bytes = noise(3_000_000);
    let hash = blobs.put(bytes.clone()).await.unwrap();
    assert_eq!(hash, Hash::of(&bytes));
    assert_eq!(blobs.read(hash).await.unwrap(), bytes);
    assert_eq!(blobs.size(hash).await.unwrap(), 3_000_000);
    assert!(blobs.contains(hash).await.unwrap());
    let part = blobs.read_range(hash, 1_000_000..1_000_010).await.unwrap();
    assert_eq!(part, bytes[1_000_000..1_000_010]);
    let reader = blobs.open(hash, Some(5..2_999_999)).await.unwrap();
    assert_eq!((reader.bytes, reader.range), (3_000_000, 5..2_999_999));
    let streamed: Vec<Bytes> = reader.stream.try_collect().await.unwrap();
    assert_eq!(streamed.concat(), bytes[5..2_999_999]);
    assert_eq!(std::fs::read(blobs.path(hash)).unwrap(), bytes);
    let name = hash.to_string();
    assert!(blobs.path(hash).ends_with(format!("{}/{name}", &name[..2])));
}

#[tokio::test]
async fn all_ways_of_storing_give_the_same_blob() {
    let (folder, blobs) = blobs();
    for bytes in [vec![], noise(1), noise(1 << 20), noise((5 << 20) + 7)] {
        let hash = Hash::of(&bytes);
        let size = bytes.len() as u64;
        let file = folder.path().join("file");
        std::fs::write(&file, &bytes).unwrap();
        let path = blobs.path(hash);

        assert_eq!(blobs.put(bytes.clone()).await.unwrap(), hash);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(blobs.put_file(&file).await.unwrap(), (hash, size));
        std::fs::remove_file(&path).unwrap();
        let stream = stream::iter(pieces(&bytes, 100_000));
        assert_eq!(blobs.put_stream(stream, size).await.unwrap(), (hash, size));
        // Once more, although it is there.
        let stream = stream::iter(pieces(&bytes, 99_999));
        assert_eq!(blobs.put_stream(stream, size).await.unwrap(), (hash, size));
        std::fs::remove_file(&path).unwrap();
        let stream = stream::iter(pieces(&bytes, 100_000));
        assert_eq!(blobs.put_named(hash, stream, size).await.unwrap(), size);
        assert_eq!(blobs.read(hash).await.unwrap(), bytes);
    }
    assert_eq!(files_under(&folder.path().join("blobs")).len(), 4);
}

#[tokio::test]
async fn a_named_blob_that_is_there_is_not_read_again() {
    let (_folder, blobs) = blobs();
    let hash = blobs.put(noise(10)).await.unwrap();
    let stream = stream::iter([Err(io::Error::other("must not be read"))]);
    assert_eq!(blobs.put_named(hash, stream, 0).await.unwrap(), 10);
}

#[tokio::test]
async fn bytes_that_are_wrong_too_many_or_cut_off_leave_nothing() {
    let (folder, blobs) = blobs();
    let bytes = noise(2_500_000);
    let hash = Hash::of(&bytes);

    let mut wrong = bytes.clone();
    wrong[2_400_000] ^= 1;
    let stored = blobs.put_named(hash, stream::iter(pieces(&wrong, 65_536)), 3_000_000);
    let error = stored.await.unwrap_err();
    assert!(
        matches!(error, PutError::Mismatch { expected, bytes: 2_500_000, .. } if expected == hash),
        "{error}"
    );

    let stored = blobs.put_named(hash, stream::iter(pieces(&bytes, 65_536)), 2_499_999);
    let error = stored.await.unwrap_err();
    assert!(
        matches!(
            error,
            PutError::TooLarge {
                max_bytes: 2_499_999
            }
        ),
        "{error}"
    );

    // Nothing beyond the limit is asked for.
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; 4096])));
    let error = blobs.put_stream(endless, 1 << 21).await.unwrap_err();
    assert!(matches!(error, PutError::TooLarge { .. }), "{error}");

    let mut cut = pieces(&bytes[..2_000_000], 65_536);
    cut.push(Err(io::Error::other("the line went dead")));
    let error = blobs
        .put_named(hash, stream::iter(cut), 3_000_000)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PutError::Source {
                bytes: 2_000_000,
                ..
            }
        ),
        "{error}"
    );

    assert!(!blobs.contains(hash).await.unwrap());
    assert!(blobs.list().await.unwrap().is_empty());
    // Removing an abandoned file happens in the background.
    for _ in 0..100 {
        if files_under(folder.path()).is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("left behind: {:?}", files_under(folder.path()));
}

#[tokio::test]
async fn two_senders_of_one_blob_do_not_disturb_each_other() {
    let (_folder, blobs) = blobs();
    let bytes = noise(4_000_000);
    let hash = Hash::of(&bytes);
    let send = || {
        let stream = stream::iter(pieces(&bytes, 10_000)).then(|piece| async {
            tokio::task::yield_now().await;
            piece
        });
        blobs.put_named(hash, stream, 4_000_000)
    };
    let (one, two, three) = tokio::join!(send(), send(), send());
    assert_eq!(
        (one.unwrap(), two.unwrap(), three.unwrap()),
        (4_000_000, 4_000_000, 4_000_000)
    );
    assert_eq!(blobs.read(hash).await.unwrap(), bytes);
}

#[tokio::test]
async fn what_is_not_there_or_outside_is_refused() {
    let (_folder, blobs) = blobs();
    let nothing = Hash::of(b"nothing");
    assert!(matches!(
        blobs.read(nothing).await,
        Err(BlobError::Missing(_))
    ));
    assert!(matches!(
        blobs.size(nothing).await,
        Err(BlobError::Missing(_))
    ));
    assert!(matches!(
        blobs.manifest(nothing).await,
        Err(BlobError::Missing(_))
    ));
    assert!(!blobs.touch(nothing).await.unwrap());
    assert!(!blobs.delete(nothing).await.unwrap());
    let hash = blobs.put(noise(10)).await.unwrap();
    for range in [(0, 11), (10, 10), (11, 12), (5, 4), (0, u64::MAX)] {
        let refused = blobs.read_range(hash, range.0..range.1).await;
        assert!(
            matches!(refused, Err(BlobError::OutOfRange { bytes: 10, .. })),
            "{range:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_damaged_blob_is_noticed() {
    let (_folder, blobs) = blobs();
    let hash = blobs.put(noise(2 << 20)).await.unwrap();
    let mut bytes = std::fs::read(blobs.path(hash)).unwrap();
    bytes[1_500_000] ^= 0x10;
    std::fs::write(blobs.path(hash), bytes).unwrap();
    assert!(matches!(
        blobs.read(hash).await,
        Err(BlobError::Damaged(..))
    ));
    assert!(matches!(
        blobs.manifest(hash).await,
        Err(BlobError::Damaged(..))
    ));
}

#[tokio::test]
async fn a_manifest_has_the_hash_of_each_mib_and_is_kept() {
    let (folder, blobs) = blobs();
    for size in [
        0,
        1,
        MANIFEST_CHUNK_BYTES,
        MANIFEST_CHUNK_BYTES + 1,
        5_000_000,
    ] {
        let bytes = noise(size);
        let hash = blobs.put(bytes.clone()).await.unwrap();
        let expected: Vec<Hash> = bytes.chunks(MANIFEST_CHUNK_BYTES).map(Hash::of).collect();
        let (one, two) = tokio::join!(blobs.manifest(hash), blobs.manifest(hash));
        assert_eq!(one.unwrap().chunks, expected);
        assert_eq!(two.unwrap().bytes, size as u64);

        // Another process finds it beside the blob, and mends it when it is damaged.
        let name = hash.to_string();
        let root = folder.path().join("blobs");
        let kept = root.join(format!("manifests/{}/{name}", &name[..2]));
        assert_eq!(kept.exists(), expected.len() > 1);
        if kept.exists() {
            std::fs::write(&kept, "{\"bytes\":").unwrap();
        }
        let reopened = Blobs::open_folder(&root).unwrap();
        assert_eq!(reopened.manifest(hash).await.unwrap().chunks, expected);
    }
    assert_eq!(blobs.list().await.unwrap().len(), 5);
}
