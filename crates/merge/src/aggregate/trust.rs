//! Trust: an update counts by how well it, and those that its worker sent before, agree with
//! what most others say.
//!
//! What an update has to show is the lower of two numbers: its own agreement
//! ([`super::agreement`]), so that who has built up a good record cannot spend it on an
//! attack; and its worker's record, so that a lucky round does not make up for bad ones. A
//! worker with fewer tokens, other data or an old base agrees less than most and is no enemy:
//! from [`FULL_AGREEMENT`] of the median on it counts in full. Who says the contrary of what
//! most say counts nothing. (RoDiLoCo weighs by a running cosine with the aggregate, which
//! those that are judged can pull.)
//!
//! Where half of the weight or more has nothing to show, no majority can be told in this
//! round. Then the records from before say who is to be believed, and among those the
//! geometric median decides: "all count" would be a switch to turn the rule off with.

use super::geometry::Geometry;
use super::{Regard, geometric_median};
use crate::clip::weighted_median;

/// Part of the median from which on an update counts in full.
pub const FULL_AGREEMENT: f64 = 0.5;

/// What a worker's record keeps of itself each round.
pub const RECORD_DECAY: f32 = 0.8;

/// However many are left out, no update counts more than so many times what it would in the
/// mean: a few that agree with each other cannot take a round over.
pub(super) const MOST_RAISED: f64 = 2.0;

/// A worker's running agreement after another update. It falls by half of what a single
/// update says, and rises slowly. One update takes a good record to zero at most: what says
/// the contrary counts nothing in its own round whatever its worker's record, so that a
/// deeper fall would only keep out the rounds after it, which may be honest. A second one in
/// a row takes it below.
pub fn record(before: Option<f32>, agreement: f32) -> f32 {
    match before {
        Some(before) if agreement > before => {
            RECORD_DECAY * before + (1.0 - RECORD_DECAY) * agreement
        }
        Some(before) if before > 0.0 => 0.5 * (before + agreement.max(-before)),
        Some(before) => 0.5 * (before + agreement),
        None => agreement,
    }
}

/// The coefficients of the updates; they add up to at most 1. `known` are the records from
/// before this round. Says in each regard what was needed.
pub(super) fn coefficients(
    geometry: &Geometry,
    counts: &[f64],
    known: &[Option<f32>],
    regards: &mut [Regard],
) -> Vec<f64> {
    if regards.iter().all(|regard| regard.agreement.is_none()) {
        return by_records(counts, known, regards);
    }
    let shown: Vec<Option<f64>> = regards.iter().map(shown).collect();
    let needed = FULL_AGREEMENT * median(&shown, counts);
    // Not so little that a quotient by it is no number.
    if needed < f64::from(f32::MIN_POSITIVE) {
        return by_distance(geometry, counts, known);
    }
    let trusts: Vec<f64> = shown
        .iter()
        .zip(regards)
        .map(|(shown, regard)| {
            // Who says nothing among others that do would only hold them down.
            let Some(shown) = shown else { return 0.0 };
            regard.needed = Some(needed as f32);
            (shown / needed).clamp(0.0, 1.0)
        })
        .collect();
    shares(counts, &trusts)
}

/// What an update can show for itself: the lower of its agreement and its worker's record.
fn shown(regard: &Regard) -> Option<f64> {
    Some(f64::from(regard.agreement?.min(regard.record?)))
}

/// The weighted lower median of what is known.
fn median(values: &[Option<f64>], counts: &[f64]) -> f64 {
    let known = values.iter().zip(counts);
    let known = known.filter_map(|(value, count)| Some(((*value)?, *count)));
    let (values, weights): (Vec<f64>, Vec<f64>) = known.unzip();
    weighted_median(&values, &weights)
}

/// Where there is no comparing, the records from before say who is to be believed: a worker
/// whose record is less than [`FULL_AGREEMENT`] of the best counts less, in proportion. One
/// without a record counts like the best, for there is nothing to hold against it.
fn by_records(counts: &[f64], known: &[Option<f32>], regards: &mut [Regard]) -> Vec<f64> {
    let best = known.iter().flatten().copied().reduce(f32::max);
    let needed = FULL_AGREEMENT * best.map_or(0.0, f64::from);
    if needed < f64::from(f32::MIN_POSITIVE) {
        return shares(counts, &vec![1.0; counts.len()]);
    }
    let trusts: Vec<f64> = known
        .iter()
        .zip(regards)
        .map(|(known, regard)| {
            let Some(known) = known else { return 1.0 };
            (regard.record, regard.needed) = (Some(*known), Some(needed as f32));
            (f64::from(*known) / needed).clamp(0.0, 1.0)
        })
        .collect();
    shares(counts, &trusts)
}

/// The geometric median of the updates that say anything, by what their workers' records
/// are worth. It leans to those that say the same, so that here too none counts more than
/// [`MOST_RAISED`] times.
fn by_distance(geometry: &Geometry, counts: &[f64], known: &[Option<f32>]) -> Vec<f64> {
    let known: Vec<Option<f64>> = known.iter().map(|known| known.map(f64::from)).collect();
    let needed = FULL_AGREEMENT * median(&known, counts);
    let believed: Vec<f64> = (0..counts.len())
        .map(|update| match known[update] {
            _ if !geometry.speaks(update) => 0.0,
            Some(known) if needed > 0.0 => (known / needed).clamp(0.0, 1.0) * counts[update],
            _ => counts[update],
        })
        .collect();
    let total: f64 = counts.iter().sum();
    let coefficients = geometric_median::coefficients(geometry, &believed);
    let most = counts.iter().map(|count| MOST_RAISED * count / total);
    coefficients
        .into_iter()
        .zip(most)
        .map(|(coefficient, most)| coefficient.min(most))
        .collect()
}

/// What each counts at these trusts. What is left out is made up for by the others.
fn shares(counts: &[f64], trusts: &[f64]) -> Vec<f64> {
    let total: f64 = counts.iter().sum();
    let kept = counts.iter().zip(trusts);
    let kept: Vec<f64> = kept.map(|(count, trust)| trust * count / total).collect();
    let raise = (1.0 / kept.iter().sum::<f64>()).min(MOST_RAISED);
    kept.into_iter().map(|share| share * raise).collect()
}
