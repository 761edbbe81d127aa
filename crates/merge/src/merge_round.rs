//! A round's updates become one merge.
//!
//! First updates are clipped and weighed against each other ([`Aggregator`]). Then, for each
//! coordinate: the weighted sum over the updates that send it, over the larger of
//! their weight and τ times the weight of the round. In a sparse update a coordinate that
//! is not sent is *absent*, it does not say zero; τ bounds what a lone sender moves. Then
//! the outer optimiser, the coordinator's own error feedback, and the down codec.
//!
//! Everything is done chunk by chunk in the first-level cache. Beyond weights and state a
//! merge needs memory for the payloads and itself only.

use rayon::prelude::*;

use crate::aggregate::{Sent, Trimmed};
use crate::clip::Clipping;
use crate::encode::{Encoder, first_beyond, join};
use crate::layout::{Chunk, span};
use crate::outer::MAX_STATE;
use crate::payload::Records;
use crate::{
    Aggregator, CHUNK, Layout, MergeError, OuterSettings, OuterState, Payload, Regard, digest,
};

/// An update and what it counts.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// As it arrived.
    pub payload: &'a [u8],
    /// From tokens and steps that the coordinator verified; above 0.
    pub weight: f32,
    /// The running agreement of whoever sent it, −1 to 1, if there is one ([`crate::record`]).
    pub record: Option<f32>,
}

/// A merge and how it came to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// The payload that every node subtracts.
    pub bytes: Vec<u8>,
    /// One factor for each update, in the order given: 1 unless it was clipped. The rest,
    /// `1 − factor`, goes back into the sender's feedback.
    pub factors: Vec<f32>,
    /// The same in detail, tensor by tensor.
    pub clipping: Clipping,
    /// What was found about each update, in the order given.
    pub regards: Vec<Regard>,
    /// Digest of the weights after the merge.
    pub digest: [u8; 32],
}

/// Merges updates in the order given, steps `state`, subtracts the merge from `weights`.
/// The result depends on the arguments alone, not on machine or number of threads. On an
/// error neither weights nor state were changed.
pub fn merge_round(
    layout: &Layout,
    settings: &OuterSettings,
    updates: &[Weighted],
    state: &mut OuterState,
    weights: &mut [f32],
) -> Result<Merge, MergeError> {
    settings.check()?;
    let shares = shares(updates)?;
    if weights.len() != layout.len() {
        let (expected, got) = (layout.len(), weights.len());
        return Err(MergeError::WrongLength {
            what: "weights",
            expected,
            got,
        });
    }
    if let Some(index) = first_beyond(weights, MAX_STATE) {
        return Err(MergeError::NotFinite {
            what: "weights",
            index,
        });
    }
    state.check(layout, settings)?;
    let (payloads, norms): (Vec<_>, Vec<_>) = updates
        .par_iter()
        .enumerate()
        .map(|(update, weighted)| {
            Payload::parse_with_norms(layout, weighted.payload)
                .map_err(|source| MergeError::BadPayload { update, source })
        })
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .unzip();
    let clipping = if settings.clip_to_median_norm {
        Clipping::to_median(&norms, &shares)
    } else {
        Clipping::none(&norms, &shares)
    };
    let records: Vec<_> = updates.iter().map(|update| update.record).collect();
    let regards = settings.aggregator.weigh(
        settings.direction,
        layout,
        &payloads,
        &clipping,
        &shares,
        &records,
    );
    let shares: Vec<f32> = regards.iter().map(|regard| regard.share).collect();

    let round = Round {
        settings,
        payloads: &payloads,
        shares: &shares,
        clipping: &clipping,
    };
    let feedback = layout.split(&mut state.feedback);
    // Without momentum every group gets an empty slice.
    let momentum = if state.momentum.is_empty() {
        feedback.iter().map(|_| Default::default()).collect()
    } else {
        layout.split(&mut state.momentum)
    };
    let groups: Vec<_> = layout.groups().collect();
    let records = groups
        .into_par_iter()
        .zip(feedback.into_par_iter().zip(momentum))
        .enumerate()
        .map(|(group, (chunks, (feedback, momentum)))| {
            round.merge_group(group, chunks, feedback, momentum)
        })
        .collect();
    let bytes = join(settings.down, layout, records);

    // The coordinator reads its own merge just as every node does, so that its weights are
    // theirs by construction.
    Payload::parse(layout, &bytes)
        .and_then(|merge| merge.subtract(layout, weights))
        .map_err(|source| MergeError::OwnMerge { source })?;
    let factors = clipping.factors.clone();
    Ok(Merge {
        bytes,
        factors,
        clipping,
        regards,
        digest: digest(weights),
    })
}

/// Each update's part of the round's weight.
fn shares(updates: &[Weighted]) -> Result<Vec<f32>, MergeError> {
    if updates.is_empty() {
        return Err(MergeError::Empty);
    }
    for (update, Weighted { weight, .. }) in updates.iter().enumerate() {
        if !(weight.is_finite() && *weight > 0.0) {
            return Err(MergeError::BadWeight {
                update,
                weight: weight.to_string(),
            });
        }
    }
    let total: f64 = updates.iter().map(|update| f64::from(update.weight)).sum();
    Ok(updates
        .iter()
        .map(|update| (f64::from(update.weight) / total) as f32)
        .collect())
}

/// What is the same for all chunks of a round.
struct Round<'a> {
    settings: &'a OuterSettings,
    payloads: &'a [Payload<'a>],
    shares: &'a [f32],
    clipping: &'a Clipping,
}

/// Of one coordinate: the weighted sum of what was sent, and the weight of its senders.
#[derive(Clone, Copy, Default)]
struct Sum {
    sent: f32,
    weight: f32,
}

impl Round<'_> {
    /// Steps the state of neighbouring chunks and returns the merge's records for them.
    fn merge_group(
        &self,
        group: usize,
        chunks: &[Chunk],
        feedback: &mut [f32],
        momentum: &mut [f32],
    ) -> Vec<u8> {
        let mut encoder = Encoder::new(self.settings.down, chunks);
        let mut combine = Combine::new(self);
        let mut means = [0f32; CHUNK];
        let mut records: Vec<_> = self
            .payloads
            .iter()
            .map(|payload| payload.group(group))
            .collect();
        let first = span(chunks).start;
        for chunk in chunks {
            let means = &mut means[..chunk.len];
            combine.chunk(chunk, &mut records, means);
            let from = chunk.start - first;
            let feedback = &mut feedback[from..from + chunk.len];
            let momentum = momentum.get_mut(from..from + chunk.len).unwrap_or_default();
            self.step(means, feedback, momentum);
            encoder.encode(feedback);
        }
        encoder.bytes
    }

    /// With the mean `g`: `m ← μ·m + g`; step = rate · (`g`, `m`, or `g + μ·m` for
    /// Nesterov's); `feedback ← decay · feedback + step`.
    fn step(&self, means: &[f32], feedback: &mut [f32], momentum: &mut [f32]) {
        let OuterSettings {
            outer_rate,
            outer_momentum,
            nesterov,
            ..
        } = *self.settings;
        let decay = self.settings.down_feedback_decay;
        if momentum.is_empty() {
            for (rest, mean) in feedback.iter_mut().zip(means) {
                *rest = decay * *rest + outer_rate * mean;
            }
        } else {
            for ((rest, &mean), velocity) in feedback.iter_mut().zip(means).zip(momentum) {
                *velocity = outer_momentum * *velocity + mean;
                let direction = if nesterov {
                    mean + outer_momentum * *velocity
                } else {
                    *velocity
                };
                *rest = decay * *rest + outer_rate * direction;
            }
        }
    }
}

/// What all updates say of a chunk, as one value for each coordinate.
struct Combine<'a> {
    round: &'a Round<'a>,
    chosen: [u16; CHUNK],
    sums: [Sum; CHUNK],
    trimmed: Option<(f32, Trimmed)>,
}

impl<'a> Combine<'a> {
    fn new(round: &'a Round<'a>) -> Self {
        let trimmed = match round.settings.aggregator {
            Aggregator::TrimmedMean { part } => Some((part, Trimmed::new(CHUNK))),
            _ => None,
        };
        Self {
            round,
            chosen: [0; CHUNK],
            sums: [Sum::default(); CHUNK],
            trimmed,
        }
    }

    /// The value of each coordinate of the next chunk.
    fn chunk(&mut self, chunk: &Chunk, records: &mut [Records], means: &mut [f32]) {
        let tau = self.round.settings.tau;
        if let Some((part, trimmed)) = &mut self.trimmed {
            let lists = trimmed.start(chunk.len);
            let sent = |list: &mut Vec<Sent>, value: f32, factor: f32, share| {
                let value = value * factor;
                list.push(Sent { value, share });
            };
            self.round
                .each(chunk, records, &mut self.chosen, lists, sent);
            trimmed.means(*part, tau, means);
            return;
        }
        let sums = &mut self.sums[..chunk.len];
        sums.fill(Sum::default());
        let add = |sum: &mut Sum, value: f32, factor: f32, share: f32| {
            sum.sent += value * (share * factor);
            sum.weight += share;
        };
        self.round.each(chunk, records, &mut self.chosen, sums, add);
        for (mean, sum) in means.iter_mut().zip(sums) {
            // Nobody sent it: no step, also where τ is zero.
            *mean = match sum.weight {
                0.0 => 0.0,
                weight => sum.sent / weight.max(tau),
            };
        }
    }
}

impl Round<'_> {
    /// Calls `add` with the place of each weight that is sent, its value, the factor it is
    /// clipped by and its sender's share, update by update.
    fn each<T>(
        &self,
        chunk: &Chunk,
        records: &mut [Records],
        chosen: &mut [u16; CHUNK],
        places: &mut [T],
        add: impl Fn(&mut T, f32, f32, f32),
    ) {
        for (update, records) in records.iter_mut().enumerate() {
            let share = self.shares[update];
            let factor = self.clipping.tensor_factors[update][chunk.tensor];
            // Checked before: an error is out of reach here.
            if let Ok(record) = records.next(chunk, 0, chosen) {
                record.for_each(chosen, places, |place, value| {
                    add(place, value, factor, share);
                });
            }
        }
    }
}
