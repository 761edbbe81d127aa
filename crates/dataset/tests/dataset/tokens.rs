//! Shards are written whole and read back as one stream.

use std::path::PathBuf;

use opengpu_dataset::{Options, StreamError, TokenStream, blocks_per_epoch, sequences};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{Workplace, english, small, text_of, tokens_of};

fn files(folder: &TempDir, token_bytes: usize, shards: &[&[u32]]) -> Vec<PathBuf> {
    let write = |(number, tokens): (usize, &&[u32])| {
        let path = folder.path().join(number.to_string());
        let bytes = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes()[..token_bytes].to_vec());
        std::fs::write(&path, bytes.collect::<Vec<u8>>()).unwrap();
        path
    };
    shards.iter().enumerate().map(write).collect()
}

#[test]
fn a_read_crosses_shards() {
    let folder = tempfile::tempdir().unwrap();
    for token_bytes in [2, 4] {
        let shards: [&[u32]; 5] = [&[1, 2, 3], &[4], &[], &[5, 6], &[700]];
        let files = files(&folder, token_bytes, &shards);
        let mut stream = TokenStream::open(&files, token_bytes as u8, 7).unwrap();
        let all = [1, 2, 3, 4, 5, 6, 700];
        for start in 0..=7 {
            for end in start..=7 {
                let mut out = vec![0; end - start];
                stream.read(start as u64, &mut out).unwrap();
                assert_eq!(out, all[start..end]);
            }
        }
    }
}

#[test]
fn a_read_past_the_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = TokenStream::open(&files(&folder, 2, &[&[1, 2, 3]]), 2, 3).unwrap();
    for (start, len) in [(0, 4), (3, 1), (4, 0), (u64::MAX, 1), (u64::MAX - 1, 3)] {
        let error = stream.read(start, &mut vec![0; len]).unwrap_err();
        assert!(
            matches!(error, StreamError::PastTheEnd { tokens: 3, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_where_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder, 2, &[&[1, 2], &[3, 1024, 5]]);
    let mut stream = TokenStream::open(&files, 2, 5)
        .unwrap()
        .with_vocabulary(1024);
    stream.read(0, &mut [0; 3]).unwrap();
    let error = stream.read(2, &mut [0; 3]).unwrap_err().to_string();
    assert!(error.contains("token 1 is 1024"), "{error}");
    stream.read(4, &mut [0; 1]).unwrap();
}

#[test]
fn shards_that_are_not_what_was_announced_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = files(&folder, 2, &[&[1, 2, 3]]);
    let error = TokenStream::open(&good, 2, 4).unwrap_err().to_string();
    assert!(error.contains("3 tokens in all, not 4"), "{error}");
    assert!(matches!(
        TokenStream::open(&good, 3, 3),
        Err(StreamError::TokenBytes { token_bytes: 3 })
    ));
    assert!(matches!(
        TokenStream::open(&good, 4, 1),
        Err(StreamError::CutToken { bytes: 6, .. })
    ));
    let error = TokenStream::open(&[folder.path().join("none")], 2, 0).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    assert!(TokenStream::open(&[], 2, 0).unwrap().is_empty());
}

#[test]
fn shards_are_named_by_their_contents_and_cut_at_the_size() {
    let place = Workplace::new().with("a.txt", english(100_000));
    let options = Options {
        vocab_size: 300,
        shard_bytes: 10_001,
        ..Options::default()
    };
    let prepared = place
        .prepare_only(&[place.path("a.txt")], &options)
        .unwrap();
    let part = &prepared.training;
    let mut bytes = 0;
    for shard in &part.shards {
        let contents = std::fs::read(&shard.path).unwrap();
        assert_eq!(blake3::hash(&contents).as_bytes(), &shard.hash);
        assert_eq!(contents.len() as u64, shard.bytes);
        let name = format!("{}.tokens", blake3::hash(&contents));
        assert_eq!(shard.path.file_name().unwrap().to_str().unwrap(), name);
        bytes += shard.bytes;
    }
    assert_eq!(bytes, part.tokens * 2);
    let (last, full) = part.shards.split_last().unwrap();
    assert!(full.len() > 5 && full.iter().all(|shard| shard.bytes == 10_000));
    assert!(last.bytes <= 10_000);
    // Nothing else is left in the folder.
    let left = std::fs::read_dir(place.folder.path().join("out"))
        .unwrap()
        .count();
    assert_eq!(left, part.shards.len() + prepared.held_out.shards.len() + 1);

    let whole = place.prepare_only(
        &[place.path("a.txt")],
        &Options {
            vocab_size: 300,
            ..Options::default()
        },
    );
    let whole = whole.unwrap();
    assert_eq!(whole.training.shards.len(), 1);
    assert_eq!(
        tokens_of(&prepared, part),
        tokens_of(&whole, &whole.training)
    );
}

#[test]
fn a_vocabulary_past_65536_takes_four_bytes() {
    // Distinct words enough for so many merges: each number is a word of its own.
    let text: String = (0..60_000u64)
        .map(|n| format!("{} ", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).repeat(2))
        .collect();
    let place = Workplace::new().with("a.txt", &text);
    let options = Options {
        vocab_size: 70_000,
        ..Options::default()
    };
    let prepared = place
        .prepare_only(&[place.path("a.txt")], &options)
        .unwrap();
    assert_eq!(prepared.vocab_size, 70_000);
    assert_eq!(prepared.token_bytes, 4);
    assert!(
        tokens_of(&prepared, &prepared.training)
            .iter()
            .any(|&token| token > 65_535)
    );
    assert_eq!(
        text_of(&prepared, &prepared.held_out),
        text[text.len() - text.len() / 20..]
    );
}

#[test]
fn sequences_overlap_by_one_token() {
    assert_eq!(sequences(0, 4), 0);
    assert_eq!(sequences(4, 4), 0);
    assert_eq!(sequences(5, 4), 1);
    assert_eq!(sequences(8, 4), 1);
    assert_eq!(sequences(9, 4), 2);
    assert_eq!(blocks_per_epoch(41, 4, 3), 3);
    assert_eq!(blocks_per_epoch(10, 0, 0), 9);
}

proptest! {
    #[test]
    fn every_cut_of_a_stream_reads_the_same(
        tokens in prop::collection::vec(0u32..65_536, 1..200),
        cuts in prop::collection::vec(0usize..200, 0..6),
        start in 0usize..200,
        len in 0usize..200,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(tokens.len())).collect();
        cuts.extend([0, tokens.len()]);
        cuts.sort_unstable();
        let shards: Vec<&[u32]> = cuts.windows(2).map(|cut| &tokens[cut[0]..cut[1]]).collect();
        let mut stream = TokenStream::open(&files(&folder, 2, &shards), 2, tokens.len() as u64).unwrap();
        let start = start.min(tokens.len());
        let end = (start + len).min(tokens.len());
        let mut out = vec![0; end - start];
        stream.read(start as u64, &mut out).unwrap();
        prop_assert_eq!(&out, &tokens[start..end]);
    }
}

#[test]
fn two_datasets_may_be_made_in_one_folder_at_once() {
    let place = Workplace::new()
        .with("a.txt", english(300_000))
        .with("b.txt", english(200_000));
    std::thread::scope(|threads| {
        let make = |name| {
            let place = &place;
            threads.spawn(move || {
                for _ in 0..3 {
                    let prepared = place.prepare_only(&[place.path(name)], &small()).unwrap();
                    let text = std::fs::read_to_string(place.path(name)).unwrap();
                    let found = text_of(&prepared, &prepared.training)
                        + &text_of(&prepared, &prepared.held_out);
                    assert!(found == text, "{name}");
                }
            })
        };
        let (a, b) = (make("a.txt"), make("b.txt"));
        a.join().unwrap();
        b.join().unwrap();
    });
}
