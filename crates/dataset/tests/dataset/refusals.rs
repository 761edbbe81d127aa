//! Bad input is refused with what is wrong, where, and what mends it.

use std::path::PathBuf;

use opengpu_dataset::Options;

use crate::{Workplace, english, small};

fn refusal(place: &Workplace) -> String {
    place.prepare().unwrap_err().to_string()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let place = Workplace::new();
    let error = place
        .prepare_only(&[place.path("nothing.txt")], &small())
        .unwrap_err();
    has(
        &error.to_string(),
        &["there is no file or folder", "nothing.txt"],
    );
}

#[test]
fn no_input_at_all_is_refused() {
    let error = Workplace::new().prepare_only(&[], &small()).unwrap_err();
    has(&error.to_string(), &["no data was given"]);
}

#[test]
fn an_empty_file_and_an_empty_folder_are_refused() {
    let place = Workplace::new()
        .with("empty.txt", "")
        .with("full.txt", "text");
    let error = place
        .prepare_only(&[place.path("full.txt"), place.path("empty.txt")], &small())
        .unwrap_err();
    has(&error.to_string(), &["empty.txt has no text in it"]);
    has(&refusal(&Workplace::new()), &["/in has no text in it"]);
    let blank_lines = Workplace::new().with("blank.jsonl", "\n\n{\"text\":\"\"}\n");
    has(&refusal(&blank_lines), &["has no text in it"]);
}

#[test]
fn a_binary_file_is_refused_with_the_byte() {
    let mut bytes = english(300_000).into_bytes();
    bytes[287_654] = 0;
    let place = Workplace::new()
        .with("good.txt", "fine")
        .with("pic.png", bytes);
    has(
        &refusal(&place),
        &[
            "pic.png is no text",
            "byte 287654 is zero",
            "iconv -f UTF-16",
        ],
    );
}

#[test]
fn bytes_that_are_no_utf8_are_refused_with_the_byte() {
    let mut bytes = english(300_000).into_bytes();
    bytes[262_144] = 0xE9;
    let place = Workplace::new().with("latin1.txt", bytes);
    has(
        &refusal(&place),
        &["latin1.txt is not UTF-8", "byte 262144 (0xe9)", "iconv"],
    );
    // The end of the file in the middle of a character.
    let place = Workplace::new().with("cut.txt", b"ab\xE6\xB0");
    has(&refusal(&place), &["byte 2 (0xe6)"]);
}

#[test]
fn characters_across_the_edge_of_a_read_are_no_error() {
    for shift in 0..3 {
        let text = "x".repeat(shift) + &"水 ".repeat(200_000);
        Workplace::new().with("text.txt", text).prepare().unwrap();
    }
}

#[test]
fn a_line_that_is_no_json_is_refused_with_line_and_byte() {
    let place = Workplace::new().with(
        "data.jsonl",
        "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\": oops}\n",
    );
    has(
        &refusal(&place),
        &["data.jsonl line 3 (byte 35) is not JSON", "expected value"],
    );
    let place = Workplace::new().with("cut.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b");
    has(&refusal(&place), &["cut.jsonl line 2", "is not JSON"]);
    let place = Workplace::new().with("bad.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\xFF\"}\n");
    has(
        &refusal(&place),
        &["bad.jsonl is not UTF-8: byte 22 (0xff)"],
    );
}

#[test]
fn a_line_without_text_is_refused_with_its_line() {
    for line in [
        "{\"txt\":\"a\"}",
        "{\"text\":7}",
        "[1]",
        "\"text\"",
        "{\"text\":null}",
    ] {
        let place = Workplace::new().with("data.jsonl", format!("{{\"text\":\"a\"}}\n{line}\n"));
        has(
            &refusal(&place),
            &[
                "data.jsonl line 2 (byte 13)",
                "a string in the field `text`",
            ],
        );
    }
}

#[test]
fn a_file_given_twice_is_refused() {
    let place = Workplace::new().with("a.txt", english(10_000));
    let inputs = [place.path("a.txt"), place.folder.path().join("in")];
    let error = place.prepare_only(&inputs, &small()).unwrap_err();
    has(&error.to_string(), &["a.txt is given twice"]);
}

#[test]
fn text_too_short_for_the_model_is_refused_with_the_numbers() {
    let place = Workplace::new().with("short.txt", english(3000));
    let prepared = place.prepare().unwrap();
    let error = prepared.check_model(128, 8).unwrap_err().to_string();
    has(
        &error,
        &[
            "the held-out part is too short: its 150 bytes",
            "context of 128 needs 129",
        ],
    );
    has(
        &error,
        &["bytes of text in all", "a preset with a shorter context"],
    );
    let error = prepared.check_model(64, 1000).unwrap_err().to_string();
    has(&error, &["the training part is too short", "needs 64001"]);
    prepared.check_model(8, 4).unwrap();
    assert_eq!(
        prepared.blocks_per_epoch(8, 4),
        (prepared.training.tokens - 1) / 8 / 4
    );
}

#[test]
fn the_advice_for_short_text_is_enough() {
    let prepare = |bytes| {
        Workplace::new()
            .with("a.txt", english(bytes))
            .prepare()
            .unwrap()
    };
    let error = prepare(3000).check_model(128, 8).unwrap_err();
    let opengpu_dataset::DatasetError::TooSmall { more_bytes, .. } = error else {
        panic!("{error}")
    };
    // The estimate knows only the bytes per token of the short text.
    prepare(more_bytes as usize * 3 / 2)
        .check_model(128, 8)
        .unwrap();
    assert!(
        prepare(more_bytes as usize / 2)
            .check_model(128, 8)
            .is_err()
    );
}

#[test]
fn text_of_a_few_bytes_is_refused() {
    for text in ["tiny", "nineteen characters"] {
        has(
            &refusal(&Workplace::new().with("a.txt", text)),
            &["the held-out part is too short"],
        );
    }
}

#[test]
fn a_vocabulary_too_small_for_bytes_is_refused() {
    let place = Workplace::new().with("a.txt", english(10_000));
    let options = Options {
        vocab_size: 256,
        ..small()
    };
    let error = place
        .prepare_only(&[place.path("a.txt")], &options)
        .unwrap_err();
    has(
        &error.to_string(),
        &["a vocabulary of 256 tokens", "257 to 1048576"],
    );
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let place = Workplace::new().with("a.txt", english(10_000));
    std::fs::write(place.folder.path().join("out"), "in the way").unwrap();
    has(&refusal(&place), &["cannot write", "/out"]);
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_neither_file_nor_folder_is_refused() {
    let place = Workplace::new();
    let error = place
        .prepare_only(&[PathBuf::from("/dev/null")], &small())
        .unwrap_err();
    has(
        &error.to_string(),
        &["/dev/null is neither a file nor a folder"],
    );
}

#[cfg(unix)]
#[test]
fn links_to_folders_are_not_followed_in_circles() {
    let place = Workplace::new().with("a.txt", english(10_000));
    std::os::unix::fs::symlink(place.folder.path().join("in"), place.path("again")).unwrap();
    assert_eq!(place.prepare().unwrap().documents, 1);
}
