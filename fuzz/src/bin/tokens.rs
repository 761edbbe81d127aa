//! Shards of a dataset: they have no header, but sizes, tokens and places in them are whatever
//! a dataset's author wants. And the order of an epoch, whose length comes from a run file.
//!
//! Two bytes each: bytes of a token, vocabulary, place to read, how many tokens, length of the
//! first shard; eight bytes each: an order's seed, epoch, length and place. The rest are the
//! shards.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use opengpu_dataset::{Permutation, TokenStream, blocks_per_epoch, sequences};
use opengpu_fuzz::{Input, Seed, within};

opengpu_fuzz::target!(seeds, attempt);

/// In the folder for temporary files, which `run.sh` clears.
static FILES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let folder = std::env::temp_dir();
    ["a", "b"].map(|name| folder.join(format!("fuzz-{}-{name}.tokens", std::process::id())))
});

fn seeds() -> Vec<Seed> {
    let seed = |name: &str, choices: [u16; 5], order: [u64; 4]| {
        let mut bytes: Vec<u8> = choices.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend(order.iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend((0..200).map(|i| if i % 2 == 0 { i as u8 } else { 0 }));
        (name.to_owned(), bytes)
    };
    vec![
        seed("two-bytes", [2, 1024, 40, 30, 100], [7, 3, 1000, 5]),
        seed(
            "four-bytes",
            [4, 65_535, 0, 50, 100],
            [1, 0, 1 << 40, 1 << 39],
        ),
        seed("outside", [2, 50, 60, 30, 0], [0, 0, 1, 0]),
    ]
}

fn attempt(bytes: &[u8]) {
    let mut input = Input(bytes);
    let token_bytes = input.u16() as u8;
    let vocabulary = usize::from(input.u16());
    let (start, count, cut) = (input.u16(), input.u16(), input.u16());
    let (seed, epoch, length, place) = (input.u64(), input.u64(), input.u64(), input.u64());
    if length > 0 {
        let order = Permutation::new(seed, epoch, length);
        assert!(order.at(place % length) < length);
    }

    let (first, second) = input.0.split_at(usize::from(cut).min(input.0.len()));
    for (path, bytes) in FILES.iter().zip([first, second]) {
        std::fs::write(path, bytes).expect("a temporary file is written");
    }
    let tokens = input.0.len() as u64 / u64::from(token_bytes).max(1);
    assert!(blocks_per_epoch(tokens, vocabulary, cut.into()) <= sequences(tokens, vocabulary));
    let opened = within(4096, || TokenStream::open(&*FILES, token_bytes, tokens));
    let Ok(stream) = opened else {
        return;
    };
    let mut stream = stream.with_vocabulary(vocabulary);
    let mut out = vec![0; count.into()];
    // It holds the bytes of the part that it reads.
    let most = 4 * out.len() + 4096;
    if within(most, || stream.read(start.into(), &mut out)).is_ok() {
        assert!(out.iter().all(|&token| (token as usize) < vocabulary));
        let from = usize::from(start) * usize::from(token_bytes);
        for (token, bytes) in out.iter().zip(input.0[from..].chunks(token_bytes.into())) {
            let mut whole = [0; 4];
            whole[..bytes.len()].copy_from_slice(bytes);
            assert_eq!(*token, u32::from_le_bytes(whole));
        }
    }
}
