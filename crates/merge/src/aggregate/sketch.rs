//! Sketches: each update shrunk to some thousand numbers between which lengths and angles
//! are about what they were.
//!
//! Every chunk is turned by an offset, its signs are scattered, and all are added up in one
//! place: a count sketch (Charikar et al. 2002) whose product of two updates is theirs, with
//! a standard deviation of 1/√[`WIDTH`] times their lengths. Comparing N updates of d weights
//! exactly takes N²·d steps, with sketches N·d for sums and N² for the rest.
//!
//! Offsets and signs follow from a hash over all payloads of the round: who could know them
//! beforehand could hide an update in them.

use rayon::prelude::*;

use crate::clip::Clipping;
use crate::{CHUNK, Layout, Payload};

/// Numbers in a sketch: a cosine is measured to 0.006 (one standard deviation). Nearly half
/// of a round can make the agreement of an honest update the *least* of its cosines with the
/// other honest ones, so that this has to be small beside what honest updates have in common,
/// which is 0.05 and more. A chunk touches no more of a wide sketch than of a narrow one.
const WIDTH: usize = 8 * CHUNK;

/// A sketch of each update, clipped as it will be merged.
pub(super) fn sketches(
    layout: &Layout,
    payloads: &[Payload],
    clipping: &Clipping,
) -> Vec<Vec<f32>> {
    let hashes: Vec<[u8; 32]> = payloads.par_iter().map(Payload::hash).collect();
    let mut hasher = blake3::Hasher::new_derive_key("opengpu 2026-11-22 sketch of a round");
    for hash in &hashes {
        hasher.update(hash);
    }
    let mut seed = [0; 8];
    hasher.finalize_xof().fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    payloads
        .par_iter()
        .zip(&clipping.tensor_factors)
        .map(|(payload, factors)| sketch(layout, payload, factors, seed))
        .collect()
}

fn sketch(layout: &Layout, payload: &Payload, factors: &[f32], seed: u64) -> Vec<f32> {
    let mut sketch = vec![0f32; WIDTH];
    payload.each_sent(layout, |chunk, tensor, index, value| {
        let mixed = mix(seed, chunk as u64);
        let place = (index + mixed as usize) % WIDTH;
        // The top bit of a product with an odd number: even signs, another pattern a chunk.
        let sign = (index as u32 + 1).wrapping_mul((mixed >> 32) as u32 | 1) & (1 << 31);
        let value = value * factors[tensor];
        sketch[place] += f32::from_bits(value.to_bits() ^ sign);
    });
    sketch
}

/// SplitMix64 (Steele et al. 2014): even bits from a seed and a number.
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
