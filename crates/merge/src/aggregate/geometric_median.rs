//! The geometric median: the point with the least weighted sum of distances to the updates,
//! by the smoothed Weiszfeld iteration (Pillutla et al. 2019, "Robust Aggregation for
//! Federated Learning", algorithm 2). The point is a weighted mean of the updates, so that
//! its coefficients say all.

use super::geometry::Geometry;
use crate::clip::weighted_median;

/// The iteration ends when a step moves the point by less than this part of the median
/// distance.
const TOLERANCE: f64 = 1e-6;

/// Steps at most. Some tens suffice; more are needed where nearly half of the weight is far
/// away or two groups weigh the same, and there the point is a matter of taste.
const MOST_ITERATIONS: usize = 500;

/// Distances below this part of the median distance count as this part, so that a point at
/// an update does not divide by zero.
const SMOOTHING: f64 = 1e-3;

/// The coefficients of the updates, which add up to 1.
pub(super) fn coefficients(geometry: &Geometry, shares: &[f64]) -> Vec<f64> {
    let mut coefficients = start(geometry, shares);
    for _ in 0..MOST_ITERATIONS {
        let distances = geometry.distances(&coefficients);
        let typical = weighted_median(&distances, shares);
        if typical == 0.0 {
            // At least half of the updates are this very point.
            return coefficients;
        }
        let next = weighed(shares, &distances, SMOOTHING * typical);
        let step: Vec<f64> = next.iter().zip(&coefficients).map(|(n, c)| n - c).collect();
        coefficients = next;
        if geometry.length(&step) <= TOLERANCE * typical {
            break;
        }
    }
    coefficients
}

/// Where the iteration begins: each update by its median distance from all, so that one
/// that lies a million times farther away is next to nothing from the start. (From the mean,
/// a step takes it back by no more than the odds of its share.)
fn start(geometry: &Geometry, shares: &[f64]) -> Vec<f64> {
    let updates = geometry.updates();
    let medians: Vec<f64> = (0..updates)
        .map(|update| weighted_median(&geometry.apart(update), shares))
        .collect();
    let typical = weighted_median(&medians, shares);
    if typical == 0.0 {
        // Half of the updates are one point; the iteration finds it in a step or two.
        let least = medians.iter().copied().filter(|median| *median > 0.0);
        let least = least.reduce(f64::min).unwrap_or(1.0);
        return weighed(shares, &medians, SMOOTHING * least);
    }
    weighed(shares, &medians, typical)
}

/// Shares over distances of at least `least`, normalised.
fn weighed(shares: &[f64], distances: &[f64], least: f64) -> Vec<f64> {
    let pulls = shares.iter().zip(distances);
    let mut pulls: Vec<f64> = pulls.map(|(s, d)| s / d.max(least)).collect();
    let total: f64 = pulls.iter().sum();
    // Shares can be too small for their format, all of them where one weighs all.
    if total > 0.0 {
        pulls.iter_mut().for_each(|pull| *pull /= total);
    }
    pulls
}
