//! Centred clipping (Karimireddy et al. 2021, "Learning from History for Byzantine Robust
//! Optimization"): z ← z + Σ share · (update − z) · min(1, radius / |update − z|).
//!
//! The paper starts from the momentum of the rounds before and leaves the radius to its
//! reader. Here every round stands for itself: from zero, with the median distance as the
//! radius, which needs no tuning and which less than half of the weight cannot raise.

use super::geometry::Geometry;
use crate::clip::weighted_median;

/// Steps of the centre. The paper uses 1 to 3; more change nothing that was measured.
const ITERATIONS: usize = 3;

/// The coefficients of the updates; they add up to at most 1.
pub(super) fn coefficients(geometry: &Geometry, shares: &[f64]) -> Vec<f64> {
    let total: f64 = shares.iter().sum();
    let mut centre = vec![0.0; geometry.updates()];
    if total == 0.0 {
        return centre;
    }
    for _ in 0..ITERATIONS {
        let distances = geometry.distances(&centre);
        let radius = weighted_median(&distances, shares);
        let parts: Vec<f64> = distances
            .iter()
            .zip(shares)
            .map(|(distance, share)| {
                let kept = if *distance > radius {
                    radius / distance
                } else {
                    1.0
                };
                share / total * kept
            })
            .collect();
        let moved: f64 = parts.iter().sum();
        for (coefficient, part) in centre.iter_mut().zip(&parts) {
            *coefficient = *coefficient * (1.0 - moved) + part;
        }
    }
    centre
}
