//! Files that every build on every platform must read to the same bits.
//!
//! `tests/golden/NAME.bin` are payloads; `digests.txt` has, for each, the BLAKE3 of the
//! payload, of the weights after applying it, and of what encoding left. Inputs come from
//! `values::update` with the seeds below. `OPENGPU_REGENERATE_GOLDENS=1` writes the files
//! anew, which a released format version never needs: a new encoder may change what is
//! written, never how an old payload is read.

use std::fmt::Write;
use std::path::PathBuf;

use opengpu_merge::{
    Aggregator, Codec, Layout, OuterSettings, OuterState, Payload, Weighted, digest, encode,
    merge_round, subtract,
};

use crate::values::{CODECS, update};

/// Encoded are the values of this seed, applied to the weights of the other.
const VALUES_SEED: u64 = 2026;
const WEIGHTS_SEED: u64 = 1121;

/// Tails, a tensor of one weight, an empty one, one of exactly a chunk.
fn layout() -> Layout {
    Layout::new([5000, 130, 4096, 1, 33, 0, 9000])
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn name(codec: Codec) -> String {
    match codec {
        Codec::Sparse { k } => format!("sparse-{k}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn regenerating() -> bool {
    std::env::var("OPENGPU_REGENERATE_GOLDENS").is_ok_and(|value| value == "1")
}

/// What is written for a codec: the payload and what was left.
fn encoded(codec: Codec) -> (Vec<u8>, Vec<f32>) {
    let mut values = update(VALUES_SEED, &layout());
    let payload = encode(codec, &layout(), &mut values).unwrap();
    (payload, values)
}

const AGGREGATORS: [(&str, Aggregator); 5] = [
    ("merge", Aggregator::Mean),
    ("merge-trimmed-mean", Aggregator::TrimmedMean { part: 0.25 }),
    ("merge-geometric-median", Aggregator::GeometricMedian),
    ("merge-centred-clipping", Aggregator::CentredClipping),
    ("merge-trust-weighted", Aggregator::TrustWeighted),
];

/// A merge of updates in three codecs, with everything switched on.
fn merged(aggregator: Aggregator) -> (Vec<u8>, Vec<f32>, Vec<u8>) {
    let layout = layout();
    let payloads: Vec<_> = [
        Codec::Sparse { k: 64 },
        Codec::Int4,
        Codec::Sparse { k: 128 },
    ]
    .into_iter()
    .zip(VALUES_SEED..)
    .map(|(codec, seed)| encode(codec, &layout, &mut update(seed, &layout)).unwrap())
    .collect();
    let updates: Vec<_> = payloads
        .iter()
        .zip([1.0, 2.0, 0.7])
        .map(|(payload, weight)| Weighted {
            payload,
            weight,
            record: None,
        })
        .collect();
    let settings = OuterSettings {
        down: Codec::Sparse { k: 512 },
        down_feedback_decay: 0.9,
        tau: 0.25,
        outer_rate: 1.5,
        outer_momentum: 0.5,
        nesterov: true,
        clip_to_median_norm: true,
        aggregator,
        direction: false,
    };
    let mut state = OuterState::new(&layout, &settings);
    let mut weights = update(WEIGHTS_SEED, &layout);
    let mut merge = Vec::new();
    for _ in 0..2 {
        merge = merge_round(&layout, &settings, &updates, &mut state, &mut weights)
            .unwrap()
            .bytes;
    }
    (merge, weights, state.to_bytes(&layout))
}

/// The lines of `digests.txt` that reading the golden payloads must give.
fn digests(payload_of: impl Fn(&str) -> Vec<u8>) -> String {
    let mut lines = String::new();
    let hex = |bytes: &[u8]| blake3::hash(bytes).to_hex();
    for codec in CODECS {
        let payload = payload_of(&name(codec));
        let mut weights = update(WEIGHTS_SEED, &layout());
        subtract(&layout(), &payload, &mut weights).unwrap();
        let applied = blake3::Hash::from_bytes(digest(&weights));
        let mut rest = update(VALUES_SEED, &layout());
        Payload::parse(&layout(), &payload)
            .unwrap()
            .subtract(&layout(), &mut rest)
            .unwrap();
        let rest = blake3::Hash::from_bytes(digest(&rest));
        writeln!(lines, "{} {} {applied} {rest}", name(codec), hex(&payload)).unwrap();
    }
    for (name, aggregator) in AGGREGATORS {
        let (merge, weights, state) = merged(aggregator);
        let applied = blake3::Hash::from_bytes(digest(&weights));
        writeln!(lines, "{name} {} {applied} {}", hex(&merge), hex(&state)).unwrap();
    }
    lines
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.bin"))).unwrap()
}

#[test]
fn goldens_are_read_and_written_to_the_same_bits_on_every_platform() {
    if regenerating() {
        std::fs::create_dir_all(folder()).unwrap();
        for codec in CODECS {
            std::fs::write(
                folder().join(format!("{}.bin", name(codec))),
                encoded(codec).0,
            )
            .unwrap();
        }
        std::fs::write(folder().join("merge.bin"), merged(Aggregator::Mean).0).unwrap();
        std::fs::write(folder().join("digests.txt"), digests(read)).unwrap();
    }
    let expected = std::fs::read_to_string(folder().join("digests.txt")).unwrap();
    assert_eq!(digests(read), expected);
    // The encoder is deterministic too: a restarted coordinator recomputes its merges.
    for codec in CODECS {
        let (payload, rest) = encoded(codec);
        assert!(
            payload == read(&name(codec)),
            "{codec:?} is written differently"
        );
        let mut decoded_rest = update(VALUES_SEED, &layout());
        subtract(&layout(), &payload, &mut decoded_rest).unwrap();
        assert!(rest == decoded_rest, "{codec:?}");
    }
    assert!(
        merged(Aggregator::Mean).0 == read("merge"),
        "the merge is written differently"
    );
}
