//! Documents: which files, in which order, how they are joined and where they are parted.

use opengpu_dataset::held_out_text;
use serde_json::json;

use crate::{Workplace, english, small, text_of, tokens_of};

const END: &str = "<|endoftext|>";

#[test]
fn files_of_a_folder_come_sorted_and_recursively_without_hidden_ones() {
    let place = Workplace::new()
        .with("b.txt", "second ".repeat(40))
        .with("a/z.md", "first ".repeat(40))
        .with("a/.hidden", "never")
        .with(".git/config", "never")
        .with("empty.txt", "")
        .with("c.JSONL", "{\"text\": \"third\"}\n");
    let prepared = place.prepare().unwrap();
    let all = text_of(&prepared, &prepared.training) + &text_of(&prepared, &prepared.held_out);
    let expected = "first ".repeat(40) + END + &"second ".repeat(40) + END + "third";
    assert_eq!(all, expected);
    assert_eq!(prepared.documents, 3);
}

#[test]
fn inputs_keep_the_order_in_which_they_are_given() {
    let place = Workplace::new()
        .with("a.txt", "alpha ".repeat(30))
        .with("b.txt", "beta ".repeat(30));
    let inputs = [place.path("b.txt"), place.path("a.txt")];
    let prepared = place.prepare_only(&inputs, &small()).unwrap();
    assert!(text_of(&prepared, &prepared.training).starts_with("beta "));
}

#[test]
fn each_json_line_is_a_document_and_other_fields_are_ignored() {
    let mut lines = String::new();
    for number in 0..50 {
        let line = json!({"id": number, "text": format!("line {number}\nwith é and \u{1F600} in it"), "meta": {"text": 1}});
        lines += &format!("{line}\r\n\n");
    }
    let place = Workplace::new().with("data.ndjson", format!("\u{feff}{lines}"));
    let prepared = place.prepare().unwrap();
    assert_eq!(prepared.documents, 50);
    let all = text_of(&prepared, &prepared.training) + &text_of(&prepared, &prepared.held_out);
    assert!(
        all.starts_with(&format!("line 0\nwith é and \u{1F600} in it{END}line 1\n")),
        "{all}"
    );
    assert_eq!(all.matches(END).count(), 49);
    // Separators are no text.
    let text_bytes = prepared.training.text_bytes + prepared.held_out.text_bytes;
    assert_eq!(text_bytes as usize, all.len() - 49 * END.len());
}

#[test]
fn a_twentieth_rounded_down_is_held_out_from_the_character_on() {
    // 2-byte characters: a boundary at an odd byte moves back by one.
    for characters in 200..240 {
        let text = "é".repeat(characters);
        let place = Workplace::new().with("text.txt", &text);
        let prepared = place.prepare().unwrap();
        let total = text.len() as u64;
        let asked = total / 20;
        let held_out = asked + asked % 2;
        assert_eq!(
            prepared.held_out.text_bytes, held_out,
            "{characters} characters"
        );
        assert_eq!(prepared.training.text_bytes, total - held_out);
        assert_eq!(
            text_of(&prepared, &prepared.training),
            "é".repeat(characters - held_out as usize / 2)
        );
    }
}

#[test]
fn a_document_begun_in_the_training_part_ends_in_the_held_out_part_without_a_mark() {
    let place = Workplace::new().with("one.txt", english(10_000));
    let prepared = place.prepare().unwrap();
    assert!(!tokens_of(&prepared, &prepared.training).contains(&0));
    assert!(!tokens_of(&prepared, &prepared.held_out).contains(&0));
}

#[test]
fn text_that_looks_like_the_mark_is_text() {
    let text = format!("before {END} after ").repeat(100);
    let place = Workplace::new().with("text.txt", &text);
    let prepared = place.prepare().unwrap();
    assert!(!tokens_of(&prepared, &prepared.training).contains(&0));
    let all = text_of(&prepared, &prepared.training) + &text_of(&prepared, &prepared.held_out);
    assert_eq!(all, text);
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let make = || {
        let place = Workplace::new()
            .with("a.txt", english(400_000))
            .with("b.jsonl", format!("{}\n", json!({"text": english(50_000)})));
        let prepared = place.prepare().unwrap();
        let json = std::fs::read(&prepared.tokenizer).unwrap();
        let shards = [&prepared.training, &prepared.held_out].map(|part| {
            part.shards
                .iter()
                .map(|shard| shard.hash)
                .collect::<Vec<_>>()
        });
        (json, shards)
    };
    let first = make();
    for _ in 0..3 {
        assert!(make() == first);
    }
}

#[test]
fn cutting_a_corpus_in_pieces_changes_no_token() {
    // Long enough for many pieces, with white space runs and long words at their edges.
    let mut text = String::new();
    for number in 0..30_000 {
        text += &format!("word{number}{}don't\u{3000}", " \n".repeat(number % 7));
    }
    text += &"x".repeat(700_000);
    text += &" tail".repeat(100_000);
    let place = Workplace::new().with("text.txt", &text);
    let prepared = place.prepare().unwrap();
    let training = &text[..prepared.training.text_bytes as usize];
    let whole = crate::library(&prepared).encode(training, false).unwrap();
    assert!(whole.get_ids() == tokens_of(&prepared, &prepared.training));
}

#[test]
fn the_held_out_text_of_several_documents_is_the_text_behind_the_boundary() {
    let place = Workplace::new().with("a.txt", english(1000)).with(
        "b.jsonl",
        (0..30)
            .map(|n| format!("{}\n", json!({"text": format!("<{n}é>")})))
            .collect::<String>(),
    );
    let prepared = place.prepare().unwrap();
    let text = held_out_text(&[place.folder.path().join("in")], 1 << 20).unwrap();
    assert_eq!(text.len() as u64, prepared.held_out.text_bytes);
    let expected = text_of(&prepared, &prepared.held_out).replace(END, "");
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}
