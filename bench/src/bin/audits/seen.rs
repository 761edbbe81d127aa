//! What an audit sees of a worker that takes part for the second time: its openings, proven as the
//! coordinator proves them, and then its progress.

use anyhow::{Context, Result};
use opengpu_merge::audit::{
    Before, Claim, Opened, check_openings, commitment, typical_length, write_openings,
};
use opengpu_merge::{Codec, Layout, encode, feedback};
use opengpu_protocol::RunSpec;

/// What the worker accumulated, sent and kept in the round before, when it was honest.
pub struct History<'a> {
    layout: &'a Layout,
    codec: Codec,
    decay: f32,
    accumulated: Vec<f32>,
    payload: Vec<u8>,
    unsent: Vec<f32>,
}

impl<'a> History<'a> {
    /// Of a first round with this progress.
    pub fn of(layout: &'a Layout, spec: &RunSpec, before: &[f32]) -> Result<Self> {
        let (codec, decay): (Codec, f32) = (spec.sync.up.into(), spec.sync.feedback_decay);
        let none = vec![0.0; layout.len()];
        let mut unsent = none.clone();
        feedback::accumulate(codec, layout, decay, &mut unsent, before, &none)?;
        let accumulated = unsent.clone();
        let payload = encode(codec, layout, &mut unsent)?;
        Ok(Self {
            layout,
            codec,
            decay,
            accumulated,
            payload,
            unsent,
        })
    }

    /// All chunks of an update whose progress is said to be this. Whatever it claims, its worker
    /// commits itself to what it accumulated of that, for then all but the progress is in order:
    /// poison put into the error feedback shows as progress that nobody else finds.
    pub fn prove(&self, progress: &[f32]) -> Result<Vec<Opened>> {
        let (layout, codec, decay) = (self.layout, self.codec, self.decay);
        let none = vec![0.0; layout.len()];
        let mut e = self.unsent.clone();
        feedback::accumulate(codec, layout, decay, &mut e, progress, &none)?;
        let accumulated = e.clone();
        let payload = encode(codec, layout, &mut e)?;
        let all: Vec<usize> = (0..layout.chunk_count()).collect();
        let openings = write_openings(layout, &all, &accumulated, Some(&self.accumulated));
        let claim = Claim {
            codec,
            decay,
            payload: &payload,
            root: commitment(layout, &accumulated),
            before: Some(Before {
                root: commitment(layout, &self.accumulated),
                payload: &self.payload,
                given_back: Vec::new(),
            }),
            chunks: &all,
        };
        check_openings(layout, &claim, &openings).context("openings that nobody falsified")
    }

    /// The distance that decides each audit: the largest of its drawn chunks, as
    /// `opengpu_merge::audit::farthest` has it. Global and local weights are the auditor's. A
    /// chunk in which too much is unsent is infinitely far.
    pub fn distances(
        &self,
        opened: &[Opened],
        weights: (&[f32], &[f32]),
        draws: &[Vec<usize>],
    ) -> Vec<f64> {
        let typical = typical_length(self.layout, weights.0, weights.1);
        let of_chunk = |chunk: &Opened| {
            let distance = chunk.distance(weights.0, weights.1, typical);
            let unsent = chunk.check_unsent(self.decay, weights, typical);
            match unsent.is_err() || distance.is_nan() {
                true => f64::INFINITY,
                false => distance,
            }
        };
        let each: Vec<f64> = opened.iter().map(of_chunk).collect();
        let largest = |drawn: &Vec<usize>| drawn.iter().map(|at| each[*at]).fold(0.0, f64::max);
        draws.iter().map(largest).collect()
    }
}
