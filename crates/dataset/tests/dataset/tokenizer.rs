//! What the tokenizer learns, and that it loses nothing.

use std::collections::HashSet;

use opengpu_dataset::Options;
use proptest::prelude::*;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::{Workplace, english, library, small, text_of};

#[test]
fn nothing_of_the_held_out_part_is_learned() {
    let marker = "zyqqyzxv";
    let place = Workplace::new().with(
        "a.txt",
        english(190_000) + &format!(" {marker}").repeat(1000),
    );
    let prepared = place.prepare().unwrap();
    let held_out = text_of(&prepared, &prepared.held_out);
    assert!(held_out.contains(marker));
    assert!(!text_of(&prepared, &prepared.training).contains(marker));
    let tokens: HashSet<String> = library(&prepared).get_vocab(true).into_keys().collect();
    for length in 2..=marker.len() {
        for start in 0..=marker.len() - length {
            let part = &marker[start..start + length];
            assert!(!tokens.contains(part), "{part} was learned");
        }
    }
    // The same text earlier is learned, so the test would notice.
    let place = Workplace::new().with(
        "a.txt",
        format!(" {marker}").repeat(1000) + &english(190_000),
    );
    let vocabulary = library(&place.prepare().unwrap()).get_vocab(true);
    assert!(vocabulary.contains_key(&format!("Ġ{marker}")));
}

#[test]
fn it_learns_what_the_tokenizers_librarys_trainer_learns() {
    let text = english(600_000);
    let place = Workplace::new().with("a.txt", &text);
    let options = Options {
        vocab_size: 2000,
        ..Options::default()
    };
    let prepared = place
        .prepare_only(&[place.path("a.txt")], &options)
        .unwrap();

    let bytes = ByteLevel::new(false, true, true);
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(2000)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .build();
    let mut theirs = Tokenizer::new(BPE::default());
    theirs
        .with_pre_tokenizer(Some(bytes))
        .with_decoder(Some(bytes));
    let training = &text[..prepared.training.text_bytes as usize];
    theirs
        .train(&mut TrainerWrapper::from(trainer), [training].into_iter())
        .unwrap();

    let written = std::fs::read_to_string(&prepared.tokenizer).unwrap();
    let ours: serde_json::Value = serde_json::from_str(&written).unwrap();
    let theirs: serde_json::Value =
        serde_json::from_str(&theirs.to_string(false).unwrap()).unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(ours["model"]["vocab"].as_object().unwrap().len(), 2000);
}

#[test]
fn little_text_gives_a_smaller_vocabulary() {
    let place = Workplace::new().with("a.txt", "abc ".repeat(100));
    let prepared = place
        .prepare_only(&[place.path("a.txt")], &Options::default())
        .unwrap();
    assert!(
        (258..270).contains(&prepared.vocab_size),
        "{}",
        prepared.vocab_size
    );
    let ids = library(&prepared).get_vocab(true);
    assert_eq!(ids.len(), prepared.vocab_size);
    assert_eq!(ids["<|endoftext|>"], 0);
}

#[test]
fn a_large_text_is_sampled_evenly() {
    // Only the second half has the word; a sample from the start alone would not know it.
    let text = "alpha beta ".repeat(60_000) + &"gamma delta ".repeat(60_000);
    let place = Workplace::new().with("a.txt", text);
    let options = Options {
        learn_from_bytes: 300_000,
        ..small()
    };
    let prepared = place
        .prepare_only(&[place.path("a.txt")], &options)
        .unwrap();
    let vocabulary = library(&prepared).get_vocab(true);
    assert!(vocabulary.contains_key("Ġalpha") && vocabulary.contains_key("Ġgamma"));
}

#[test]
fn any_text_comes_back_as_it_was() {
    let tokenizer = {
        let place = Workplace::new().with("a.txt", english(100_000));
        library(&place.prepare().unwrap())
    };
    proptest!(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() }, |(text in ".{0,200}|[\\PC\\s]{0,200}")| {
        let encoded = tokenizer.encode(text.as_str(), false).unwrap();
        prop_assert_eq!(tokenizer.decode(encoded.get_ids(), false).unwrap(), text);
    });
}

#[test]
fn any_text_goes_through_a_dataset_unchanged() {
    proptest!(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() }, |(text in "(?s).{120,400}")| {
        let text = text.replace('\0', "0");
        let place = Workplace::new().with("a.txt", &text);
        let prepared = place.prepare().unwrap();
        let all = text_of(&prepared, &prepared.training) + &text_of(&prepared, &prepared.held_out);
        prop_assert_eq!(all, text);
    });
}
