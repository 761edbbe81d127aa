//! Whether an update is what training gives, from what is public and what its worker committed
//! to. The other half of an audit is training the assignment again, which happens elsewhere.
//!
//! A worker accumulates `a = decay · e + Δ`, where `Δ` is its progress and `e` what it has not
//! sent yet, and sends what the codec keeps of `a`. Progress is a pure function of public data;
//! `e` is private. So with each update comes the Merkle root of `a`, and when chunks were drawn
//! after that, the worker opens them in this `a` and in the one before it. Then:
//!
//! - `e` must follow exactly from the `a` before: minus what was sent of it, plus what verdicts
//!   gave back. Where there is no `a` before, `e` is zero.
//! - the payload's record of the chunk must be exactly what the codec makes of `a`.
//! - `a − decay · e` must be the progress that training again gives, within a tolerance for
//!   different hardware: [`Opened::distance`]. Whoever trains it again elsewhere sends its own
//!   progress in those chunks: [`Again`].
//!
//! Exact is meant bit for bit: all of it is float32 arithmetic in a fixed order.
//!
//! What it can't see: chunks that were not drawn, and updates that were not audited. Both only
//! make a lie in one place less likely to be found, by (1 − q)^n.

mod again;
mod openings;
mod tree;

pub use again::{Again, BadAgain, CLASS_BYTES};
pub use openings::{Openings, openings_bytes, write_openings};
pub use tree::commitment;

use crate::encode::Encoder;
use crate::{Codec, DecodeError, Layout, Payload};

/// Why openings don't prove what they should. All but the first are lies or broken memory.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WrongOpening {
    /// Not the bytes of openings for these chunks.
    #[error("the openings have {got} bytes, not {expected}")]
    Size {
        /// For the chunks that were drawn.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// The values are not what was committed to.
    #[error("chunk {chunk} is not in the buffer that was committed to")]
    Path {
        /// Which.
        chunk: usize,
    },
    /// A value is not finite.
    #[error("chunk {chunk} has a value that is no finite number")]
    NotFinite {
        /// Which.
        chunk: usize,
    },
    /// More is left unsent than honest rounds leave.
    #[error("chunk {chunk} has {times:.0} times the usual progress left unsent")]
    TooMuchUnsent {
        /// Which.
        chunk: usize,
        /// How many times the length of its progress.
        times: f64,
    },
    /// What was sent is not the codec's record of what was accumulated.
    #[error("chunk {chunk} of the payload is not what the codec makes of the accumulated progress")]
    NotItsRecord {
        /// Which.
        chunk: usize,
    },
    /// A payload that belongs to the proof can't be read.
    #[error(transparent)]
    Payload(#[from] DecodeError),
}

/// What is known of an update that is audited.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// How it was compressed.
    pub codec: Codec,
    /// Decay of the worker's error feedback.
    pub decay: f32,
    /// What was sent.
    pub payload: &'a [u8],
    /// Root of what was accumulated ([`commitment`]).
    pub root: [u8; 32],
    /// The worker's update before; None if its error feedback began at zero.
    pub before: Option<Before<'a>>,
    /// Which chunks were drawn, rising.
    pub chunks: &'a [usize],
}

/// The update before, and what became of it and of others until the claim's was made.
#[derive(Clone, Debug)]
pub struct Before<'a> {
    /// Root of what was accumulated then.
    pub root: [u8; 32],
    /// What was sent of it.
    pub payload: &'a [u8],
    /// Payloads given back since, in order, each with the part of it
    /// ([`crate::feedback::restore`]).
    pub given_back: Vec<(&'a [u8], f32)>,
}

/// A drawn chunk, proven to follow from the worker's commitments.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// First weight of the chunk in the model.
    pub start: usize,
    /// Its number.
    pub chunk: usize,
    /// Length of what was unsent in it before this update.
    pub unsent: f64,
    /// `a − decay · e`, what the worker says was its progress.
    pub progress: Vec<f32>,
}

/// Checks openings against a claim; everything but the progress itself is proven then.
pub fn check_openings(
    layout: &Layout,
    claim: &Claim,
    openings: &[u8],
) -> Result<Vec<Opened>, WrongOpening> {
    let has_before = claim.before.is_some();
    let openings = Openings::read(layout, claim.chunks, has_before, openings)?;
    let sent = records(layout, claim.payload, claim.chunks)?;
    let unsent = match &claim.before {
        None => vec![Vec::new(); claim.chunks.len()],
        Some(before) => unsent(layout, claim.codec, before, claim.chunks, &openings)?,
    };
    let mut opened = Vec::with_capacity(claim.chunks.len());
    for (place, (&number, before)) in claim.chunks.iter().zip(unsent).enumerate() {
        let opening = openings.now(place);
        prove(
            layout,
            claim.codec,
            &claim.root,
            (number, opening),
            sent[place],
        )?;
        let (accumulated, _) = opening;
        let progress = match before.is_empty() {
            true => accumulated.to_vec(),
            false => {
                let pairs = accumulated.iter().zip(&before);
                pairs.map(|(a, e)| a - claim.decay * e).collect()
            }
        };
        opened.push(Opened {
            start: layout.chunks()[number].start,
            chunk: number,
            unsent: length_of(before.iter().copied()),
            progress,
        });
    }
    Ok(opened)
}

/// The error feedback in the drawn chunks as it was before the claim's update.
fn unsent(
    layout: &Layout,
    codec: Codec,
    before: &Before,
    chunks: &[usize],
    openings: &Openings,
) -> Result<Vec<Vec<f32>>, WrongOpening> {
    let sent = records(layout, before.payload, chunks)?;
    let mut unsent = Vec::with_capacity(chunks.len());
    for (place, &number) in chunks.iter().enumerate() {
        let opening = openings.before(place);
        prove(layout, codec, &before.root, (number, opening), sent[place])?;
        unsent.push(opening.0.to_vec());
    }
    let mut apply = |payload: &[u8], change: &dyn Fn(&mut f32, f32)| {
        let payload = Payload::parse(layout, payload)?;
        payload.each_in(layout, chunks, |place, index, value| {
            if let Some(e) = unsent[place].get_mut(index) {
                change(e, value);
            }
        })?;
        Ok::<_, WrongOpening>(())
    };
    apply(before.payload, &|e, value| *e -= value)?;
    for (payload, part) in &before.given_back {
        apply(payload, &|e, value| *e += value * part)?;
    }
    Ok(unsent)
}

/// The payload's records of the drawn chunks, as they were sent.
fn records<'a>(
    layout: &Layout,
    payload: &'a [u8],
    chunks: &[usize],
) -> Result<Vec<&'a [u8]>, DecodeError> {
    Payload::parse(layout, payload)?.records_of(layout, chunks)
}

/// Checks that a chunk was opened as it was committed to, and sent as the codec has it.
fn prove(
    layout: &Layout,
    codec: Codec,
    root: &[u8; 32],
    (number, (values, path)): (usize, (&[f32], &[[u8; 32]])),
    sent: &[u8],
) -> Result<(), WrongOpening> {
    if !values.iter().all(|value| value.is_finite()) {
        return Err(WrongOpening::NotFinite { chunk: number });
    }
    tree::verify(layout, root, number, values, path)?;
    let mut encoder = Encoder::new(codec, &[layout.chunks()[number]]);
    encoder.encode(&mut values.to_vec());
    match encoder.bytes == sent {
        true => Ok(()),
        false => Err(WrongOpening::NotItsRecord { chunk: number }),
    }
}

impl Opened {
    /// Refuses a chunk in which more is unsent than honest rounds leave. Progress of one length in
    /// one direction, of which nothing is ever sent, adds up to 1 / (1 − decay) of it; what verdicts
    /// give back comes on top. So this is no narrow limit, but without one a single lie in a
    /// round that was not audited could be paid out over all later ones.
    pub fn check_unsent(
        &self,
        decay: f32,
        (global, local): (&[f32], &[f32]),
        typical: f64,
    ) -> Result<(), WrongOpening> {
        let own = self.own(global, local).map_or(0.0, length_of);
        self.check_unsent_of(decay, own.max(typical))
    }

    /// The same where the length of the true progress is known.
    fn check_unsent_of(&self, decay: f32, length: f64) -> Result<(), WrongOpening> {
        let times = self.unsent / length;
        let allowed = (2.0 / f64::from(1.0 - decay).max(0.02)).max(10.0);
        match times <= allowed {
            true => Ok(()),
            false => Err(WrongOpening::TooMuchUnsent {
                chunk: self.chunk,
                times,
            }),
        }
    }

    /// How far the worker's progress in this chunk is from what training again gives: the
    /// length of the difference, in parts of the typical length of a chunk's true progress
    /// (`typical`, see [`typical_length`]). 0 inside one numerics class.
    ///
    /// Not in parts of this chunk's own length: the few weights of a norm that hardly moved
    /// would be far off by rounding alone.
    pub fn distance(&self, global: &[f32], local: &[f32], typical: f64) -> f64 {
        match self.own(global, local) {
            Some(own) => distance(&self.progress, own, typical),
            None => f64::INFINITY,
        }
    }

    /// The true progress in this chunk.
    fn own<'a>(
        &self,
        global: &'a [f32],
        local: &'a [f32],
    ) -> Option<impl Iterator<Item = f32> + Clone + use<'a>> {
        let range = self.start..self.start + self.progress.len();
        let pair = global.get(range.clone())?.iter().zip(local.get(range)?);
        Some(pair.map(|(g, l)| g - l))
    }
}

/// How far a claimed progress is from a true one: the length of the difference, in parts of the
/// true one's, or of `typical` if that is more.
fn distance(claimed: &[f32], own: impl Iterator<Item = f32> + Clone, typical: f64) -> f64 {
    let off = claimed.iter().zip(own.clone());
    let off = off.map(|(claimed, own)| f64::from(*claimed) - f64::from(own));
    let length = off.map(|off| off * off).sum::<f64>().sqrt();
    length / length_of(own).max(typical)
}

/// The largest [`Opened::distance`] of these chunks: what decides an audit.
pub fn farthest(opened: &[Opened], (global, local): (&[f32], &[f32]), typical: f64) -> f64 {
    let distances = opened
        .iter()
        .map(|chunk| chunk.distance(global, local, typical));
    largest(distances)
}

fn largest(distances: impl Iterator<Item = f64>) -> f64 {
    // A loss of all numbers is far away, not near.
    distances.fold(0.0, |farthest, distance| match distance.is_nan() {
        true => f64::INFINITY,
        false => farthest.max(distance),
    })
}

/// Root mean square length of the true progress over all whole chunks of the model: what
/// [`Opened::distance`] is measured in. Never 0.
pub fn typical_length(layout: &Layout, global: &[f32], local: &[f32]) -> f64 {
    let weights = global.len().min(local.len()).max(1);
    let whole = length_of(global.iter().zip(local).map(|(g, l)| g - l));
    let chunk = crate::CHUNK.min(layout.len().max(1)) as f64;
    (whole * (chunk / weights as f64).sqrt()).max(f64::MIN_POSITIVE)
}

fn length_of(values: impl Iterator<Item = f32>) -> f64 {
    let squares = values.map(|value| f64::from(value) * f64::from(value));
    squares.sum::<f64>().sqrt()
}

/// Draws `count` different chunks from a number that nobody knew when the worker committed
/// itself, rising. Chunks are drawn by BLAKE3 in its extended form, a chunk's number being
/// eight bytes of it modulo the number of chunks.
pub fn draw_chunks(layout: &Layout, draw: u64, count: usize) -> Vec<usize> {
    let all = layout.chunk_count();
    if all <= count {
        return (0..all).collect();
    }
    let mut drawn = std::collections::BTreeSet::new();
    let mut bytes = blake3::Hasher::new_derive_key("opengpu audit chunks 1")
        .update(&draw.to_le_bytes())
        .finalize_xof();
    while drawn.len() < count {
        let mut eight = [0; 8];
        bytes.fill(&mut eight);
        drawn.insert((u64::from_le_bytes(eight) % all as u64) as usize);
    }
    drawn.into_iter().collect()
}
