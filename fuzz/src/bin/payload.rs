//! An update or a merge: bytes that a stranger sends and that everybody applies.
//!
//! First byte: for which layout (the highest bit: leave the header as it is). The rest is the
//! payload.

#![no_main]

use opengpu_fuzz::{LAYOUTS, Seed, layout, with_header, within};
use opengpu_merge::{Codec, DecodeError, Layout, Payload, check, encode, max_bytes};

opengpu_fuzz::target!(seeds, attempt);

const KEEP_HEADER: u8 = 0x80;

fn seeds() -> Vec<Seed> {
    let codecs = [
        Codec::Sparse { k: 1 },
        Codec::Sparse { k: 64 },
        Codec::Sparse { k: 1500 },
        Codec::Int8,
        Codec::Int4,
        Codec::Int2,
        Codec::Float32,
    ];
    let mut seeds = Vec::new();
    for choice in 0..LAYOUTS.len() as u8 {
        let layout = layout(choice);
        for codec in codecs {
            if max_bytes(codec, &layout) > 5000 {
                continue;
            }
            let wave = |i: usize| (i as f32 * 0.7).sin() * (i % 5) as f32;
            let mut values: Vec<f32> = (0..layout.len()).map(wave).collect();
            let payload = encode(codec, &layout, &mut values).expect("the values are finite");
            let name = format!("{codec:?}-for-{choice}").replace([' ', '{', '}', ':'], "");
            seeds.push((
                format!("{name}-as-it-is"),
                [&[choice | KEEP_HEADER], &*payload].concat(),
            ));
            seeds.push((name, [&[choice], &*payload].concat()));
        }
    }
    seeds
}

fn attempt(bytes: &[u8]) {
    let Some((&choice, payload)) = bytes.split_first() else {
        return;
    };
    let layout = layout(choice & !KEEP_HEADER);
    let patched;
    let payload = if choice & KEEP_HEADER == 0 {
        patched = with_header(&layout, payload);
        &patched[..]
    } else {
        payload
    };
    let before: Vec<f32> = (0..layout.len()).map(|i| 1.0 - i as f32).collect();
    let mut weights = before.clone();

    // What reading a payload holds depends on the layout: 8 bytes for each 64 chunks and a
    // norm for each tensor.
    let most = 64 * (layout.chunk_count() + layout.tensors().len()) + 1024;
    match within(most, || Payload::parse_with_norms(&layout, payload)) {
        Ok((parsed, norms)) => applies(&layout, payload, &parsed, &norms, &before),
        Err(_) => {
            opengpu_merge::subtract(&layout, payload, &mut weights)
                .expect_err("what was refused is not applied");
            assert_eq!(weights, before, "a refused payload changed weights");
        }
    }
}

/// What must hold of every payload that is accepted.
fn applies(layout: &Layout, bytes: &[u8], parsed: &Payload, norms: &[f64], before: &[f32]) {
    let codec = parsed.codec();
    assert_eq!(check(codec, layout, bytes), Ok(()));
    let other = if codec == Codec::Int8 {
        Codec::Int4
    } else {
        Codec::Int8
    };
    assert!(matches!(
        check(other, layout, bytes),
        Err(DecodeError::WrongCodec { .. })
    ));
    assert!(bytes.len() <= max_bytes(codec, layout));

    // It ends where it ends.
    assert!(Payload::parse(layout, &bytes[..bytes.len() - 1]).is_err());
    assert!(Payload::parse(layout, &[bytes, &[0]].concat()).is_err());

    // Two ways to the same bits.
    let mut subtracted = before.to_vec();
    parsed
        .subtract(layout, &mut subtracted)
        .expect("it was read");
    let mut added = before.to_vec();
    parsed
        .add_scaled(layout, -1.0, &mut added)
        .expect("it was read");
    assert!(same_bits(&subtracted, &added));
    assert!(subtracted.iter().all(|weight| weight.is_finite()));

    // The norms are those of what it says.
    let mut values = vec![0.0; layout.len()];
    parsed
        .add_scaled(layout, 1.0, &mut values)
        .expect("it was read");
    let mut rest = &values[..];
    for (&length, &norm) in layout.tensors().iter().zip(norms) {
        let (tensor, others) = rest.split_at(length);
        rest = others;
        let squares = tensor.iter().map(|value| f64::from(*value).powi(2));
        let expected = squares.sum::<f64>().sqrt();
        assert!(
            norm.is_finite() && (norm - expected).abs() <= 1e-9 * expected,
            "{norm} {expected}"
        );
    }

    // What was read can be sent on. Exact values come back as they were.
    let again = encode(codec, layout, &mut values.clone()).expect("all values are finite");
    assert_eq!(check(codec, layout, &again), Ok(()));
    if codec == Codec::Float32 {
        let plain = |bytes: &[u8]| bytes[24..].to_vec();
        assert_eq!(plain(&again).len(), plain(bytes).len());
        let mut twice = vec![0.0; layout.len()];
        opengpu_merge::add_scaled(layout, &again, 1.0, &mut twice).expect("it was checked");
        assert!(same_bits(&twice, &values));
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter()
        .map(|x| x.to_bits())
        .eq(b.iter().map(|x| x.to_bits()))
}
