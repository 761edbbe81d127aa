//! Bytes from a node are hostile until checked.
//!
//! `OPENGPU_FUZZ_SEED` and `OPENGPU_FUZZ_CASES` choose another or a longer run; a failure
//! prints the seed of its case.

use opengpu_merge::{
    Aggregator, CHUNK, Codec, DecodeError, Layout, OuterSettings, OuterState, Weighted, add_scaled,
    check, encode, max_bytes, merge_round, subtract,
};

use crate::allocation::allocated_by;
use crate::values::{CODECS, Random, update};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// A valid payload with something done to it.
fn mutated(random: &mut Random, valid: &[u8]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    match random.below(8) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.extend((0..random.below(40)).map(|i| i as u8)),
        2 => {
            bytes = (0..random.below(400))
                .map(|_| random.next() as u8)
                .collect()
        }
        3 => {
            // A valid header before noise.
            for byte in bytes.iter_mut().skip(24) {
                *byte = random.next() as u8;
            }
        }
        4 => {
            let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
            let len = random
                .below(64)
                .min(bytes.len() - from)
                .min(bytes.len() - to);
            bytes.copy_within(from..from + len, to);
        }
        _ => {
            for _ in 0..=random.below(4) {
                let at = if random.below(3) == 0 {
                    random.below(40)
                } else {
                    random.below(bytes.len())
                };
                let at = at.min(bytes.len() - 1);
                bytes[at] = match random.below(3) {
                    0 => random.next() as u8,
                    1 => bytes[at] ^ 1 << random.below(8),
                    _ => [0, 0xFF, 0x7F, 0x80][random.below(4)],
                };
            }
        }
    }
    bytes
}

#[test]
fn damaged_payloads_neither_panic_nor_allocate_nor_change_weights() {
    let first_seed = number("OPENGPU_FUZZ_SEED", 1);
    let cases = number("OPENGPU_FUZZ_CASES", 40_000);
    let layout = Layout::new([500, 1, 0, 4096 + 33]);
    let valid: Vec<(Codec, Vec<u8>)> = CODECS
        .map(|codec| {
            (
                codec,
                encode(codec, &layout, &mut update(3, &layout)).unwrap(),
            )
        })
        .into();
    let weights = update(4, &layout);
    let (mut accepted, mut refused) = (0, 0);
    for seed in first_seed..first_seed + cases {
        let mut random = Random(seed);
        let (codec, payload) = &valid[random.below(valid.len())];
        let bytes = mutated(&mut random, payload);
        let case = || {
            let mut outcome = Ok(());
            let allocated = allocated_by(|| outcome = check(*codec, &layout, &bytes));
            assert!(
                allocated <= 8 * layout.chunk_count(),
                "allocated {allocated} bytes"
            );
            let mut after = weights.clone();
            let applied = subtract(&layout, &bytes, &mut after);
            if outcome.is_ok() {
                applied.clone().unwrap();
            }
            match applied {
                Ok(()) => {
                    assert!(after.iter().all(|weight| weight.is_finite()));
                    add_scaled(&layout, &bytes, 1.0, &mut after).unwrap();
                    true
                }
                Err(_) => {
                    assert!(after == weights, "a refused payload changed weights");
                    false
                }
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case));
        match result {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(panic) => {
                eprintln!("OPENGPU_FUZZ_SEED={seed} OPENGPU_FUZZ_CASES=1 reproduces this");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The mutations reach both sides of the checks.
    assert!(
        cases < 1000 || (accepted > cases / 50 && refused > cases / 5),
        "{accepted} {refused}"
    );
}

#[test]
fn a_merge_with_damaged_payloads_ends_in_an_error_or_in_finite_weights() {
    let first_seed = number("OPENGPU_FUZZ_SEED", 1);
    let layout = Layout::new([700, 4096 + 33]);
    for seed in first_seed..first_seed + number("OPENGPU_FUZZ_CASES", 40_000) / 40 {
        let mut random = Random(seed);
        let codec = CODECS[random.below(CODECS.len())];
        let good = encode(codec, &layout, &mut update(seed, &layout)).unwrap();
        let bad = mutated(&mut random, &good);
        let settings = OuterSettings {
            down: CODECS[random.below(CODECS.len())],
            down_feedback_decay: 1.0,
            tau: 0.0,
            outer_rate: 1000.0,
            outer_momentum: [0.0, 0.999][random.below(2)],
            nesterov: random.below(2) == 0,
            clip_to_median_norm: random.below(2) == 0,
            aggregator: Aggregator::Mean,
            direction: false,
        };
        let mut state = OuterState::new(&layout, &settings);
        let mut weights = update(0, &layout);
        let (state_before, weights_before) = (state.clone(), weights.clone());
        let updates = [&good, &bad].map(|payload| Weighted {
            record: None,
            payload,
            weight: f32::MIN_POSITIVE * 2.0,
        });
        match merge_round(&layout, &settings, &updates, &mut state, &mut weights) {
            Ok(_) => assert!(
                weights.iter().all(|weight| weight.is_finite()),
                "seed {seed}"
            ),
            Err(_) => assert!(
                (state, weights) == (state_before, weights_before),
                "seed {seed}"
            ),
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let layout = Layout::new([600, 33]);
    for codec in CODECS {
        let payload = encode(codec, &layout, &mut update(3, &layout)).unwrap();
        for length in 0..payload.len() {
            let error = check(codec, &layout, &payload[..length]).unwrap_err();
            let DecodeError::TooShort { needed, got } = error else {
                panic!("{codec:?} cut to {length}: {error}")
            };
            assert!(got == length && needed > length && needed <= payload.len());
        }
        let mut longer = payload;
        longer.push(0);
        let error = check(codec, &layout, &longer).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooLong { .. }),
            "{codec:?}: {error}"
        );
    }
}

#[test]
fn what_a_payload_says_of_itself_does_not_size_an_allocation() {
    // A model of 10 weights, a payload that speaks of 2^60 with k = 4096.
    let layout = Layout::new([10]);
    let mut payload = encode(Codec::Sparse { k: 4096 }, &layout, &mut [1.0; 10]).unwrap();
    payload[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes());
    let allocated = allocated_by(|| {
        check(Codec::Sparse { k: 4096 }, &layout, &payload).unwrap_err();
    });
    assert_eq!(allocated, 0);
    // A payload far longer than the codec can make is refused by its length.
    let huge = [
        &payload[..8],
        &10u64.to_le_bytes(),
        &payload[16..],
        &vec![0; 1 << 20],
    ]
    .concat();
    let limit = max_bytes(Codec::Sparse { k: 4096 }, &layout);
    let error = check(Codec::Sparse { k: 4096 }, &layout, &huge).unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLong {
            limit,
            got: huge.len()
        }
    );
}

/// A sparse payload for one chunk of 100 weights, written by hand.
fn by_hand(head: u16, levels: [u16; 2], body: &[u8]) -> (Layout, Vec<u8>) {
    let layout = Layout::new([100]);
    let mut bytes = encode(Codec::Sparse { k: 8 }, &layout, &mut [0.0; 100]).unwrap();
    bytes.truncate(24);
    bytes.extend(head.to_le_bytes());
    bytes.extend(levels[0].to_le_bytes());
    bytes.extend(levels[1].to_le_bytes());
    bytes.extend(body);
    (layout, bytes)
}

#[test]
fn each_lie_in_a_record_is_refused_for_what_it_is() {
    const ONE: u16 = 0x3F80;
    let refusal = |head, levels, body: &[u8]| {
        let (layout, bytes) = by_hand(head, levels, body);
        check(Codec::Sparse { k: 8 }, &layout, &bytes).unwrap_err()
    };
    let plain = |count: u16| 12 << 12 | (count - 1);
    // Two indices of 12 bits: 5 and 6 are fine.
    let (layout, bytes) = by_hand(plain(2), [ONE, ONE], &[0, 0x05, 0x60, 0x00]);
    check(Codec::Sparse { k: 8 }, &layout, &bytes).unwrap();

    let twice = refusal(plain(2), [ONE, ONE], &[0, 0x05, 0x50, 0x00]);
    assert_eq!(twice, DecodeError::IndexOrder { chunk: 0 });
    let falling = refusal(plain(2), [ONE, ONE], &[0, 0x06, 0x50, 0x00]);
    assert_eq!(falling, DecodeError::IndexOrder { chunk: 0 });
    let beyond = refusal(plain(2), [ONE, ONE], &[0, 0x05, 0x40, 0x06]);
    assert_eq!(beyond, DecodeError::IndexRange { chunk: 0, len: 100 });
    let too_many = refusal(plain(9), [ONE, ONE], &[0; 14]);
    assert_eq!(
        too_many,
        DecodeError::Count {
            chunk: 0,
            found: 9,
            limit: 8
        }
    );
    for tag in [13, 14, 15] {
        let unknown = refusal(tag << 12 | 1, [ONE, ONE], &[0, 5, 0x60, 0]);
        assert_eq!(
            unknown,
            DecodeError::Tag {
                chunk: 0,
                tag: tag as u8
            }
        );
    }
    let long_gap = refusal(0, [ONE, ONE], &[&[0u8][..], &[0; 12], &[0x10]].concat());
    assert_eq!(long_gap, DecodeError::IndexRange { chunk: 0, len: 100 });
    let only_zeros = refusal(0, [ONE, ONE], &[0; 8]);
    assert!(
        matches!(only_zeros, DecodeError::TooShort { .. }),
        "{only_zeros}"
    );
    let code_padding = refusal(plain(2), [ONE, ONE], &[0x10, 0x05, 0x60, 0x00]);
    assert_eq!(code_padding, DecodeError::Padding { chunk: 0 });
    let index_padding = refusal(plain(1), [ONE, ONE], &[0, 0x05, 0x10]);
    assert_eq!(index_padding, DecodeError::Padding { chunk: 0 });
    // Not a number, infinite, negative, above 2^64, the lower above the upper.
    for levels in [
        [0x7FC0, 0x7FC0],
        [ONE, 0x7F80],
        [0xBF80, ONE],
        [ONE, 0x5F81],
        [ONE, 0x3F7F],
    ] {
        let scale = refusal(plain(2), levels, &[0, 0x05, 0x60, 0x00]);
        assert_eq!(scale, DecodeError::Scale { chunk: 0 }, "{levels:x?}");
    }
}

#[test]
fn integers_that_no_encoder_writes_are_refused() {
    let layout = Layout::new([CHUNK + 3]);
    for (codec, at, byte) in [
        (Codec::Int8, 24 + 2 + 7, 0x80),
        (Codec::Int4, 24 + 2 + 7, 0x08),
        (Codec::Int4, 24 + 2 + 7, 0x80),
    ] {
        let mut payload = encode(codec, &layout, &mut update(1, &layout)).unwrap();
        payload[at] = byte;
        assert_eq!(
            check(codec, &layout, &payload),
            Err(DecodeError::Value { chunk: 0 })
        );
    }
    let mut payload = encode(Codec::Float32, &layout, &mut update(1, &layout)).unwrap();
    for bad in [f32::NAN, f32::INFINITY, -2e19] {
        payload[24 + 4 * CHUNK..][..4].copy_from_slice(&bad.to_le_bytes());
        let error = check(Codec::Float32, &layout, &payload).unwrap_err();
        assert_eq!(error, DecodeError::Value { chunk: 1 });
    }
    for codec in [Codec::Int4, Codec::Int2] {
        let mut payload = encode(codec, &layout, &mut update(1, &layout)).unwrap();
        *payload.last_mut().unwrap() |= 0x40;
        assert_eq!(
            check(codec, &layout, &payload),
            Err(DecodeError::Padding { chunk: 1 })
        );
    }
}
