//! Trust: an update counts by how well it, and those that its worker sent before, agree with
//! what most others say.
//!
//! Agreement is the cosine with the geometric median of the others (RoDiLoCo weighs by a
//! running cosine with the aggregate; a mean as the reference can be pulled by those that
//! are to be judged). A worker with fewer tokens, other data or an old base agrees less than
//! most and is no enemy: from [`FULL_AGREEMENT`] of the median agreement on it counts in
//! full. Who says the contrary counts nothing.

use super::Regard;
use crate::clip::weighted_median;

/// Part of the median agreement from which on an update counts in full.
pub const FULL_AGREEMENT: f64 = 0.5;

/// What a worker's record keeps of itself each round.
pub const RECORD_DECAY: f32 = 0.8;

/// However many are left out, no update counts more than so many times what it would in the
/// mean: a few that agree with each other cannot take a round over.
const MOST_RAISED: f64 = 2.0;

/// A worker's running agreement after another update. It falls as fast as a single update
/// says, and rises slowly.
pub fn record(before: Option<f32>, agreement: f32) -> f32 {
    match before {
        Some(before) if agreement > before => {
            RECORD_DECAY * before + (1.0 - RECORD_DECAY) * agreement
        }
        Some(before) => 0.5 * (before + agreement),
        None => agreement,
    }
}

/// The coefficients of the updates; they add up to at most 1. Says in each regard what was
/// needed.
pub(super) fn coefficients(counts: &[f64], regards: &mut [Regard]) -> Vec<f64> {
    let known = regards.iter().zip(counts);
    let known = known.filter_map(|(regard, count)| Some((f64::from(regard.record?), *count)));
    let (records, weights): (Vec<f64>, Vec<f64>) = known.unzip();
    let needed = FULL_AGREEMENT * weighted_median(&records, &weights);
    let total: f64 = counts.iter().sum();
    let compared = regards.iter().any(|regard| regard.agreement.is_some());
    let kept: Vec<f64> = regards
        .iter_mut()
        .zip(counts)
        .map(|(regard, count)| {
            let trust = match regard.record {
                // Where most contradict each other nobody can be told from anybody.
                Some(record) if needed > 0.0 => {
                    regard.needed = Some(needed as f32);
                    (f64::from(record) / needed).clamp(0.0, 1.0)
                }
                // Among others that do, it says nothing at all, and would only hold them down.
                None if compared => 0.0,
                _ => 1.0,
            };
            trust * count / total
        })
        .collect();
    let raise = (1.0 / kept.iter().sum::<f64>()).min(MOST_RAISED);
    kept.into_iter().map(|share| share * raise).collect()
}
