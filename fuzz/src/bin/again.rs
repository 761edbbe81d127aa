//! What a node answers that was asked to train an assignment again: the progress in drawn chunks.
//!
//! First byte: for which layout. Second byte: which chunks were drawn (bits 0 to 3), whether the
//! rest are the answer as it is (bit 5) or values of which an honest one is made. What is read
//! is written as the same bytes, is not far from itself, and bytes of any other size are refused.

#![no_main]

use opengpu_fuzz::{LAYOUTS, Seed, layout};
use opengpu_merge::Layout;
use opengpu_merge::audit::Again;

opengpu_fuzz::target!(seeds, attempt);

const AS_IT_IS: u8 = 0x20;
const CLASS: &str = "opengpu 0.1.0 linux x86_64 float32 micro-batch 8";

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for choice in 0..LAYOUTS.len() as u8 {
        for flags in [0x0F, 0x02] {
            let values: Vec<u8> = (0..20u8)
                .flat_map(|i| (f32::from(i) * 0.3 - 2.0).to_le_bytes())
                .collect();
            let input = [&[choice, flags], &*values].concat();
            seeds.push((format!("values-{choice}-{flags}"), input));
            let layout = layout(choice);
            let answer = honest(&layout, &chunks(&layout, flags), &values).write();
            if answer.len() < 8000 {
                let input = [&[choice, flags | AS_IT_IS], &*answer].concat();
                seeds.push((format!("answer-{choice}-{flags}"), input));
            }
        }
    }
    seeds
}

fn honest(layout: &Layout, chunks: &[usize], bytes: &[u8]) -> Again {
    let words = bytes.as_chunks::<4>().0.iter().cycle();
    let values = words.map(|word| f32::from_le_bytes(*word).clamp(-1e6, 1e6));
    let values = values.map(|value| if value.is_nan() { 0.5 } else { value });
    let mut local: Vec<f32> = values.take(layout.len()).collect();
    local.resize(layout.len(), 0.25);
    Again::of(layout, chunks, (&vec![0.0; layout.len()], &local), CLASS)
}

fn chunks(layout: &Layout, flags: u8) -> Vec<usize> {
    let picked = (0..4).filter(|bit| flags & 1 << bit != 0);
    picked
        .filter(|chunk| *chunk < layout.chunk_count())
        .collect()
}

fn attempt(bytes: &[u8]) {
    let Some((&[choice, flags], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let layout = layout(choice);
    let chunks = chunks(&layout, flags);
    let whole = match flags & AS_IT_IS {
        0 => honest(&layout, &chunks, rest).write(),
        _ => rest.to_vec(),
    };
    let read = Again::read(&layout, &chunks, &whole);
    if flags & AS_IT_IS == 0 || whole.len() != Again::bytes_of(&layout, &chunks) {
        assert_eq!(read.is_ok(), flags & AS_IT_IS == 0, "{read:?}");
    }
    if let Ok(read) = read {
        assert_eq!(read.write(), whole, "what is read is written as it came");
        let distance = read.far_from(&read.clone());
        assert!(distance == 0.0, "{distance} far from itself");
    }
}
