//! A round's updates become one merge.
//!
//! For each coordinate: the weighted sum over the updates that send it, over the larger of
//! their weight and τ times the weight of the round. In a sparse update a coordinate that
//! is not sent is *absent*, it does not say zero; τ bounds what a lone sender moves. Then
//! the outer optimiser, the coordinator's own error feedback, and the down codec.
//!
//! Everything is done chunk by chunk in the first-level cache. Beyond weights and state a
//! merge needs memory for the payloads and itself only.

use rayon::prelude::*;

use crate::clip::Clipping;
use crate::encode::{Encoder, first_beyond, join};
use crate::layout::{Chunk, span};
use crate::outer::MAX_STATE;
use crate::{CHUNK, Layout, MergeError, OuterSettings, OuterState, Payload, digest};

/// An update and what it counts.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// As it arrived.
    pub payload: &'a [u8],
    /// From tokens and steps that the coordinator verified; above 0.
    pub weight: f32,
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
        Clipping::to_median(&norms)
    } else {
        Clipping::none(&norms)
    };

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
        let mut sums = [Sum::default(); CHUNK];
        let mut chosen = [0; CHUNK];
        let mut records: Vec<_> = self
            .payloads
            .iter()
            .map(|payload| payload.group(group))
            .collect();
        let first = span(chunks).start;
        for chunk in chunks {
            let sums = &mut sums[..chunk.len];
            sums.fill(Sum::default());
            for (update, records) in records.iter_mut().enumerate() {
                let share = self.shares[update];
                let factor = share * self.clipping.tensor_factors[update][chunk.tensor];
                // Checked before: an error is out of reach here.
                let Ok(record) = records.next(chunk, 0, &mut chosen) else {
                    continue;
                };
                record.for_each(&chosen, sums, |sum, value| {
                    sum.sent += value * factor;
                    sum.weight += share;
                });
            }
            let from = chunk.start - first;
            let feedback = &mut feedback[from..from + chunk.len];
            let momentum = momentum.get_mut(from..from + chunk.len).unwrap_or_default();
            self.step(sums, feedback, momentum);
            encoder.encode(feedback);
        }
        encoder.bytes
    }

    /// `g` = sum over denominator; `m ← μ·m + g`; step = rate · (`g`, `m`, or `g + μ·m` for
    /// Nesterov's); `feedback ← decay · feedback + step`.
    fn step(&self, sums: &[Sum], feedback: &mut [f32], momentum: &mut [f32]) {
        let OuterSettings {
            tau,
            outer_rate,
            outer_momentum,
            nesterov,
            ..
        } = *self.settings;
        let decay = self.settings.down_feedback_decay;
        let mean = |sum: &Sum| {
            // Nobody sent it: no step, also where τ is zero.
            if sum.weight == 0.0 {
                0.0
            } else {
                sum.sent / sum.weight.max(tau)
            }
        };
        if momentum.is_empty() {
            for (rest, sum) in feedback.iter_mut().zip(sums) {
                *rest = decay * *rest + outer_rate * mean(sum);
            }
        } else {
            for ((rest, sum), velocity) in feedback.iter_mut().zip(sums).zip(momentum) {
                let mean = mean(sum);
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
