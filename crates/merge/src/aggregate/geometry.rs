//! Lengths of a round's updates and angles between them: all that the rules look at.

use rayon::prelude::*;

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

    /// Whether an update says anything.
    pub fn speaks(&self, update: usize) -> bool {
        self.product(update, update) > 0.0
    }

    /// Length of Σ `coefficients[i]` · update i.
    pub fn length(&self, coefficients: &[f64]) -> f64 {
        let rows = (0..self.updates).map(|update| dot(self.row(update), coefficients));
        let square: f64 = rows.zip(coefficients).map(|(row, c)| row * c).sum();
        square.max(0.0).sqrt()
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

    /// Distance of each update from one of them.
    pub fn apart(&self, from: usize) -> Vec<f64> {
        let square = |update: usize| {
            self.product(update, update) - 2.0 * self.product(update, from)
                + self.product(from, from)
        };
        let squares = (0..self.updates).map(square);
        squares.map(|square| square.max(0.0).sqrt()).collect()
    }

    /// Cosine of two updates, −1 to 1; 0 if one of them says nothing.
    pub fn cosine(&self, a: usize, b: usize) -> f64 {
        let lengths = (self.product(a, a) * self.product(b, b)).sqrt();
        if lengths > 0.0 {
            self.product(a, b) / lengths
        } else {
            0.0
        }
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
