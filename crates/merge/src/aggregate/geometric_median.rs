//! The geometric median: the point with the least weighted sum of distances to the updates,
//! by the smoothed Weiszfeld iteration (Pillutla et al. 2019, "Robust Aggregation for
//! Federated Learning", algorithm 2). The point is a weighted mean of the updates, so that
//! its coefficients say all.

use super::geometry::Geometry;
use crate::clip::weighted_median;

/// Iterations. Each is about 3 times nearer; what is left after 32 is below rounding.
const ITERATIONS: usize = 32;

/// Distances below this part of the median distance count as this part, so that a point at
/// an update does not divide by zero.
const SMOOTHING: f64 = 1e-3;

/// The coefficients of the updates, which add up to 1.
pub(super) fn coefficients(geometry: &Geometry, shares: &[f64]) -> Vec<f64> {
    let mut coefficients = normalised(shares.to_vec());
    for _ in 0..ITERATIONS {
        let distances = geometry.distances(&coefficients);
        let typical = weighted_median(&distances, shares);
        if typical == 0.0 {
            // At least half of the updates are this very point.
            return coefficients;
        }
        let least = SMOOTHING * typical;
        let pulls = shares.iter().zip(&distances);
        coefficients = normalised(pulls.map(|(s, d)| s / d.max(least)).collect());
    }
    coefficients
}

fn normalised(mut values: Vec<f64>) -> Vec<f64> {
    let total: f64 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= total);
    values
}
