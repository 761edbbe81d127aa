//! Updates that are nearly the same count together as the largest of them.
//!
//! Groups are such that every member is nearly the same as *every* other one. If likeness to
//! one member were enough, an attacker could put an update between two honest ones, or a
//! chain of them, and have all that it ties together count as one. So two honest updates
//! share a weight only if they themselves are as good as equal.

use super::geometry::Geometry;
use super::{Regard, TWIN_COSINE};

/// The updates of a round in groups of copies; most are alone in theirs.
pub(super) struct Copies {
    groups: Vec<Vec<usize>>,
    group_of: Vec<usize>,
}

impl Copies {
    /// The heaviest update opens the first group; each that follows joins the first group
    /// that it fits, or opens one.
    pub fn among(geometry: &Geometry, shares: &[f32]) -> Self {
        let mut order: Vec<usize> = (0..geometry.updates()).collect();
        order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut group_of = vec![0; order.len()];
        for update in order {
            let alike = |other: &usize| geometry.cosine(update, *other) > f64::from(TWIN_COSINE);
            let fits = |group: &Vec<usize>| group.iter().all(alike);
            let found = groups.iter().position(fits);
            let group = found.unwrap_or_else(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(update);
            group_of[update] = group;
        }
        Self { groups, group_of }
    }

    /// Whether two updates count as one.
    pub fn same(&self, a: usize, b: usize) -> bool {
        self.group_of[a] == self.group_of[b]
    }

    /// How many different updates say anything.
    pub fn spoken(&self, geometry: &Geometry) -> usize {
        let speaks = |group: &&Vec<usize>| group.iter().any(|update| geometry.speaks(*update));
        self.groups.iter().filter(speaks).count()
    }

    /// The shares, in which copies have together what the largest of them has, in proportion:
    /// who copies an update takes at most as much from it as the copy would weigh alone.
    pub fn counts(&self, shares: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; shares.len()];
        for group in &self.groups {
            let members = || group.iter().map(|update| f64::from(shares[*update]));
            let (largest, sum) = (members().fold(0.0, f64::max), members().sum::<f64>());
            // A share can be too small for its format.
            let part = if sum > 0.0 { largest / sum } else { 0.0 };
            for update in group {
                counts[*update] = f64::from(shares[*update]) * part;
            }
        }
        counts
    }

    /// Names for each update that has copies the one that it is most like.
    pub fn mark(&self, geometry: &Geometry, regards: &mut [Regard]) {
        for (update, regard) in regards.iter_mut().enumerate() {
            let others = self.groups[self.group_of[update]].iter();
            let others = others.filter(|other| **other != update);
            regard.twin = others
                .map(|other| (*other, geometry.cosine(update, *other) as f32))
                .max_by(|a, b| a.1.total_cmp(&b.1));
        }
    }
}
