//! The examples of the format document are what the code writes.

use crate::values::{Ledger, story, verifier_key};

const DOCUMENT: &str = include_str!("../../../../docs/ledger.md");

/// The block of text after a heading.
fn block(heading: &str) -> &'static str {
    let (_, text) = DOCUMENT.split_once(heading).expect("the heading is there");
    let (_, text) = text.split_once("```text\n").expect("a block follows");
    text.split_once("```").expect("the block ends").0
}

#[test]
fn the_examples_are_what_is_written() {
    let ledger = Ledger::of(story());
    let size = ledger.lines.len() as u64;
    assert_eq!(block("## An entry is a line"), ledger.export(1));
    assert_eq!(block("## A head"), ledger.signed(size));
    assert_eq!(block("### The key"), format!("{}\n", verifier_key()));
    assert_eq!(block("## A receipt"), ledger.receipt(2, size).to_string());
}
