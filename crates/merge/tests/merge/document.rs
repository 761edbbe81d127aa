//! The worked example of the format document is what the code writes.

use opengpu_merge::{Codec, Layout, encode, subtract};

const DOCUMENT: &str = include_str!("../../../../docs/codec.md");

/// The bytes of the block of code after a heading; what follows `#` is for the reader.
fn bytes_after(heading: &str) -> Vec<u8> {
    let (_, text) = DOCUMENT.split_once(heading).expect("the heading is there");
    let (_, text) = text.split_once("```text\n").expect("a block follows");
    let (block, _) = text.split_once("```").expect("the block ends");
    block
        .lines()
        .flat_map(|line| {
            line.split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace()
        })
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect()
}

#[test]
fn the_worked_sparse_example_is_what_is_written_and_read() {
    let layout = Layout::new([10, 3]);
    let values = [
        0.1, -2.0, 0.0, 0.5, 0.0, 0.0, 6.0, -0.5, 0.0, 0.25, 0.0, 0.0, -1.0,
    ];
    let mut rest = values;
    let payload = encode(Codec::Sparse { k: 4 }, &layout, &mut rest).unwrap();
    assert_eq!(
        payload,
        bytes_after("### Worked example: sparse"),
        "{payload:02x?}"
    );
    let mut weights = [1.0; 13];
    subtract(&layout, &payload, &mut weights).unwrap();
    let sent = [
        0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 6.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0,
    ];
    for i in 0..13 {
        assert_eq!(weights[i], 1.0 - sent[i]);
        assert_eq!(rest[i], values[i] - sent[i]);
    }
}

#[test]
fn the_worked_dense_example_is_what_is_written_and_read() {
    let layout = Layout::new([3]);
    let payload = encode(Codec::Int8, &layout, &mut [127.0, -1.0, 63.6]).unwrap();
    assert_eq!(
        payload,
        bytes_after("### Worked example: dense"),
        "{payload:02x?}"
    );
    let mut weights = [0.0; 3];
    subtract(&layout, &payload, &mut weights).unwrap();
    assert_eq!(weights, [-127.0, 1.0, -64.0]);
}
