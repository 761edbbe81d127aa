//! The corpus that comes with the repository.

use std::path::Path;

use opengpu_dataset::{Options, held_out_text};

use crate::{Workplace, bundled_corpus, library, text_of, tokens_of};

const HELD_OUT_BYTES: usize = 252_825;

#[test]
fn it_is_the_file_that_its_readme_describes() {
    let bytes = std::fs::read(bundled_corpus()).unwrap();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    assert_eq!(bytes.len(), 5_056_502);
    let hash = blake3::hash(&bytes).to_string();
    assert!(readme.contains(&hash), "README.md must name {hash}");
    assert!(bytes.is_ascii());
}

#[test]
fn exactly_the_last_252825_bytes_are_held_out() {
    let place = Workplace::new();
    let corpus = std::fs::read_to_string(bundled_corpus()).unwrap();
    let prepared = place
        .prepare_only(&[bundled_corpus()], &Options::default())
        .unwrap();
    let (training, held_out) = corpus.split_at(corpus.len() - HELD_OUT_BYTES);
    assert_eq!(prepared.training.text_bytes, training.len() as u64);
    assert_eq!(prepared.held_out.text_bytes, HELD_OUT_BYTES as u64);
    assert_eq!(prepared.documents, 1);
    assert_eq!(prepared.vocab_size, 1024);
    assert!(
        text_of(&prepared, &prepared.training) == training,
        "training part"
    );
    assert!(
        text_of(&prepared, &prepared.held_out) == held_out,
        "held-out part"
    );
    prepared.check_model(128, 8).unwrap();
}

#[test]
fn its_tokens_are_those_that_the_tokenizers_library_makes_of_the_whole() {
    let place = Workplace::new();
    let corpus = std::fs::read_to_string(bundled_corpus()).unwrap();
    let prepared = place
        .prepare_only(&[bundled_corpus()], &Options::default())
        .unwrap();
    let held_out = &corpus[corpus.len() - HELD_OUT_BYTES..];
    // One call for each, so that no piece is cut; the training part in the middle, where many
    // pieces meet, is enough: the library takes seconds for all of it.
    let encoded = library(&prepared).encode(held_out, false).unwrap();
    assert!(encoded.get_ids() == tokens_of(&prepared, &prepared.held_out));
    let training = library(&prepared)
        .encode(&corpus[..1_000_000], false)
        .unwrap();
    let ids = training.get_ids();
    let ids = &ids[..ids.len() - 1];
    assert!(ids == &tokens_of(&prepared, &prepared.training)[..ids.len()]);
}

#[test]
fn its_held_out_text_is_handed_out_for_comparisons() {
    let corpus = std::fs::read(bundled_corpus()).unwrap();
    let held_out = &corpus[corpus.len() - HELD_OUT_BYTES..];
    let all = held_out_text(&[bundled_corpus()], 1 << 20).unwrap();
    assert!(all == held_out);
    let some = held_out_text(&[bundled_corpus()], 200_000).unwrap();
    assert!(some == held_out[..200_000]);
    assert!(held_out_text(&[bundled_corpus()], 0).unwrap().is_empty());
}
