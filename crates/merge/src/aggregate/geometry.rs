//! Lengths of a round's updates and angles between them: all that the rules look at.

use rayon::prelude::*;

use super::{Regard, TWIN_COSINE};

/// Scalar products of all pairs of updates (their Gram matrix).
pub(super) struct Geometry {
    updates: usize,
    /// Row by row, `updates` × `updates`.
    products: Vec<f64>,
}

impl Geometry {
    /// Of vectors of equal length.
    pub fn of(vectors: &[Vec<f32>]) -> Self {
        let updates = vectors.len();
        let products = vectors
            .par_iter()
            .enumerate()
            .flat_map_iter(|(row, a)| {
                let below = vectors[..=row].iter().map(move |b| product(a, b));
                below.chain(std::iter::repeat_n(0.0, updates - row - 1))
            })
            .collect();
        let mut geometry = Self { updates, products };
        for row in 0..updates {
            for column in row + 1..updates {
                let mirrored = geometry.product(column, row);
                geometry.products[row * updates + column] = mirrored;
            }
        }
        geometry
    }

    pub fn updates(&self) -> usize {
        self.updates
    }

    pub fn product(&self, a: usize, b: usize) -> f64 {
        self.products[a * self.updates + b]
    }

    fn row(&self, update: usize) -> &[f64] {
        &self.products[update * self.updates..][..self.updates]
    }

    /// How many updates say anything.
    pub fn spoken(&self) -> usize {
        (0..self.updates)
            .filter(|update| self.product(*update, *update) > 0.0)
            .count()
    }

    /// Distance of each update from the point Σ `coefficients[i]` · update i.
    pub fn distances(&self, coefficients: &[f64]) -> Vec<f64> {
        let to_point: Vec<f64> = (0..self.updates)
            .map(|update| dot(self.row(update), coefficients))
            .collect();
        let point = dot(&to_point, coefficients);
        let square = |update: usize| self.product(update, update) - 2.0 * to_point[update] + point;
        (0..self.updates)
            // Rounding can make the square of a tiny distance negative.
            .map(|update| square(update).max(0.0).sqrt())
            .collect()
    }

    /// Cosine of `update` with the point Σ `coefficients[i]` · update i, without its own part
    /// in it; None if either has no length.
    pub fn agreement(&self, coefficients: &[f64], update: usize) -> Option<f64> {
        let others: Vec<f64> = coefficients
            .iter()
            .enumerate()
            .map(|(other, c)| if other == update { 0.0 } else { *c })
            .collect();
        let along: f64 = dot(self.row(update), &others);
        let point: f64 = (0..self.updates)
            .map(|other| others[other] * dot(self.row(other), &others))
            .sum();
        let lengths = (self.product(update, update) * point.max(0.0)).sqrt();
        (lengths > 0.0).then(|| (along / lengths).clamp(-1.0, 1.0))
    }

    fn cosine(&self, a: usize, b: usize) -> f64 {
        let lengths = (self.product(a, a) * self.product(b, b)).sqrt();
        if lengths > 0.0 {
            self.product(a, b) / lengths
        } else {
            0.0
        }
    }

    /// Names for each update the one that it is most like, if they are nearly the same.
    pub fn mark_twins(&self, regards: &mut [Regard]) {
        for (update, regard) in regards.iter_mut().enumerate() {
            let others = (0..self.updates).filter(|other| *other != update);
            let nearest = others
                .map(|other| (other, self.cosine(update, other) as f32))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            regard.twin = nearest.filter(|(_, cosine)| *cosine > TWIN_COSINE);
        }
    }

    /// The shares, in which updates that are nearly the same count together as one of them:
    /// each is divided by the number that it is among.
    pub fn without_copies(&self, shares: &[f32]) -> Vec<f64> {
        let like = |update: usize| {
            let alike = |other: &usize| {
                *other == update || self.cosine(update, *other) > f64::from(TWIN_COSINE)
            };
            (0..self.updates).filter(alike).count()
        };
        let shares = shares.iter().enumerate();
        shares
            .map(|(update, share)| f64::from(*share) / like(update) as f64)
            .collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Lanes of a sum: vectors for the compiler, one order of additions on every machine.
const LANES: usize = 16;

fn product(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    lanes.iter().sum()
}
