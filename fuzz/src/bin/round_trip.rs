//! Any numbers through every codec: what a decoder reads and what the sender keeps are the
//! number, to the last bit. A coordinator encodes what strangers' updates add up to.
//!
//! First byte: which layout, second: which codec; then k, and the values as float32, repeated
//! as often as needed.

#![no_main]

use opengpu_fuzz::{Input, LAYOUTS, Seed, layout};
use opengpu_merge::{Codec, check, encode, max_bytes, subtract};

opengpu_fuzz::target!(seeds, attempt);

fn seeds() -> Vec<Seed> {
    let numbers = [1.0, -0.5, 0.0, 3e38, -2e-40, 1e19, 7.25, f32::NAN];
    let mut seeds = Vec::new();
    for layout in 0..LAYOUTS.len() as u8 {
        for codec in 0..5 {
            for numbers in [&numbers[..], &numbers[..7], &numbers[..1]] {
                let values: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                let name = format!("codec-{codec}-layout-{layout}-{}", numbers.len());
                seeds.push((name, [&[layout, codec, 3, 0], &*values].concat()));
            }
        }
    }
    seeds
}

fn attempt(bytes: &[u8]) {
    let mut input = Input(bytes);
    let layout = layout(input.byte());
    let number = input.byte() % 5;
    let k = input.u16();
    let codec = match number {
        0 => Codec::Sparse { k },
        1 => Codec::Int8,
        2 => Codec::Int4,
        3 => Codec::Int2,
        _ => Codec::Float32,
    };
    let given = input.0.as_chunks::<4>().0;
    if given.is_empty() {
        return;
    }
    let given = given.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let values: Vec<f32> = given.cycle().take(layout.len()).collect();

    let mut kept = values.clone();
    let Ok(payload) = encode(codec, &layout, &mut kept) else {
        let finite = values.iter().all(|value| value.is_finite());
        assert!(!codec.is_valid() || !finite, "good values were refused");
        assert!(same_bits(&kept, &values), "a refused call changed values");
        return;
    };
    assert_eq!(check(codec, &layout, &payload), Ok(()));
    assert!(payload.len() <= max_bytes(codec, &layout));
    let mut left = values;
    subtract(&layout, &payload, &mut left).expect("it was checked");
    assert!(same_bits(&left, &kept), "sender and reader disagree");
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter()
        .map(|x| x.to_bits())
        .eq(b.iter().map(|x| x.to_bits()))
}
