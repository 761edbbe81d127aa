//! Openings of an audited update: bytes that a stranger sends to prove what it sent before.
//!
//! First byte: for which layout. Second byte: which chunks are opened (bits 0 to 3), whether
//! there is an update before (bit 4), whether the rest are openings as they are (bit 5) or values
//! that an honest worker accumulated. Both ways a worker's honest openings prove its claim, and
//! no others do.

#![no_main]

use opengpu_fuzz::{LAYOUTS, Seed, layout};
use opengpu_merge::audit::{
    Before, Claim, check_openings, commitment, openings_bytes, write_openings,
};
use opengpu_merge::{Codec, Layout, encode, feedback};

opengpu_fuzz::target!(seeds, attempt);

const HAS_BEFORE: u8 = 0x10;
const AS_IT_IS: u8 = 0x20;
const CODEC: Codec = Codec::Sparse { k: 3 };
const DECAY: f32 = 0.5;

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for choice in 0..LAYOUTS.len() as u8 {
        for flags in [0x0F, 0x01, HAS_BEFORE | 0x0F, HAS_BEFORE | 0x02] {
            let values: Vec<u8> = (0..40u8)
                .flat_map(|i| (f32::from(i) * 0.3 - 4.0).to_le_bytes())
                .collect();
            let input = [&[choice, flags], &*values].concat();
            seeds.push((format!("values-{choice}-{flags}"), input));
            let story = Story::of(&layout(choice), &values);
            let honest = story.openings(&chunks(&layout(choice), flags), flags & HAS_BEFORE != 0);
            if honest.len() < 8000 {
                let input = [&[choice, flags | AS_IT_IS], &*honest].concat();
                seeds.push((format!("openings-{choice}-{flags}"), input));
            }
        }
    }
    seeds
}

/// What an honest worker did in two rounds.
struct Story {
    layout: Layout,
    accumulated: [Vec<f32>; 2],
    payloads: [Vec<u8>; 2],
}

impl Story {
    fn of(layout: &Layout, bytes: &[u8]) -> Self {
        let words = bytes.as_chunks::<4>().0.iter().cycle();
        let values = words.map(|word| f32::from_le_bytes(*word).clamp(-1e6, 1e6));
        let values = values.map(|value| if value.is_nan() { 0.5 } else { value });
        let mut local: Vec<f32> = values.take(layout.len()).collect();
        local.resize(layout.len(), 0.25);
        let global = vec![0.0; layout.len()];
        let mut unsent = vec![0.0; layout.len()];
        let mut round = || {
            feedback::accumulate(CODEC, layout, DECAY, &mut unsent, &global, &local)
                .expect("the values are finite");
            let accumulated = unsent.clone();
            let payload = encode(CODEC, layout, &mut unsent).expect("the values are finite");
            (accumulated, payload)
        };
        let (first, sent_first) = round();
        let (second, sent_second) = round();
        Self {
            layout: layout.clone(),
            accumulated: [first, second],
            payloads: [sent_first, sent_second],
        }
    }

    fn openings(&self, chunks: &[usize], has_before: bool) -> Vec<u8> {
        let [first, second] = &self.accumulated;
        match has_before {
            true => write_openings(&self.layout, chunks, second, Some(first)),
            false => write_openings(&self.layout, chunks, first, None),
        }
    }

    fn proves(&self, chunks: &[usize], has_before: bool, openings: &[u8]) -> bool {
        let [first, second] = &self.accumulated;
        let claim = Claim {
            codec: CODEC,
            decay: DECAY,
            payload: &self.payloads[usize::from(has_before)],
            root: commitment(&self.layout, if has_before { second } else { first }),
            before: has_before.then(|| Before {
                root: commitment(&self.layout, first),
                payload: &self.payloads[0],
                given_back: Vec::new(),
            }),
            chunks,
        };
        check_openings(&self.layout, &claim, openings).is_ok()
    }
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
    if layout.len() > 1 << 16 {
        return;
    }
    let (chunks, has_before) = (chunks(&layout, flags), flags & HAS_BEFORE != 0);
    let honest = |story: &Story| story.openings(&chunks, has_before);
    if flags & AS_IT_IS == 0 {
        let story = Story::of(&layout, rest);
        let openings = honest(&story);
        assert_eq!(openings.len(), openings_bytes(&layout, &chunks, has_before));
        assert!(story.proves(&chunks, has_before, &openings));
        return;
    }
    let values: Vec<u8> = (0..40u8)
        .flat_map(|i| (f32::from(i) * 0.3 - 4.0).to_le_bytes())
        .collect();
    let story = Story::of(&layout, &values);
    assert_eq!(
        story.proves(&chunks, has_before, rest),
        rest == honest(&story),
        "only the honest openings prove the claim"
    );
}
