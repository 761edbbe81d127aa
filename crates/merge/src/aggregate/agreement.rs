//! How far an update agrees with most of its round: the median of its cosines with the
//! updates of the round, by weight, in which its own weight stands on its own side.
//!
//! So the agreement is above zero if and only if more than half of the weight, itself
//! included, points its way. Honest updates that agree a little, pair by pair, and have more
//! than half of the weight all have an agreement above zero, however strongly the others
//! point away from them; and no update that points away from all of them has, however well
//! those that send it agree among themselves. Both hold up to exactly half.
//!
//! Rejected: the cosine with a centre of the others. Sparse updates of honest workers have
//! pairwise cosines near 0.1, so that a few that all say the same are longer than the sum of
//! the honest ones, and the centre, be it a mean or the geometric median, is theirs. The
//! median without the own weight: one of three could then already make all disagree.

use super::copies::Copies;
use super::geometry::Geometry;
use crate::clip::weighted_median;

/// The agreement of an update; None if it says nothing, or nobody else does.
pub(super) fn agreement(
    geometry: &Geometry,
    copies: &Copies,
    counts: &[f64],
    update: usize,
) -> Option<f64> {
    if !geometry.speaks(update) {
        return None;
    }
    let (mut cosines, mut weights) = (Vec::new(), Vec::new());
    let mut own = 0.0;
    for (other, count) in counts.iter().enumerate() {
        if copies.same(update, other) {
            own += count;
        } else if geometry.speaks(other) {
            cosines.push(geometry.cosine(update, other));
            weights.push(*count);
        }
    }
    // Its own side begins where the nearest of the others is, and not at a cosine of 1: an
    // update of more than half of the weight would else set a measure that no other reaches.
    // Where none is near, such an update agrees with itself alone.
    let nearest = cosines.iter().copied().reduce(f64::max)?;
    cosines.push(if nearest > 0.0 { nearest } else { 1.0 });
    weights.push(own);
    Some(weighted_median(&cosines, &weights).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_above_zero_where_more_than_half_of_the_weight_points_its_way(
            updates in proptest::collection::vec((proptest::array::uniform8(-1f32..1.0), 1u8..10), 3..12),
        ) {
            let (vectors, shares): (Vec<_>, Vec<_>) = updates
                .into_iter()
                .map(|(vector, weight)| (vector.to_vec(), f32::from(weight)))
                .unzip();
            let geometry = Geometry::of(&vectors);
            let copies = Copies::among(&geometry, &shares);
            let counts = copies.counts(&shares);
            let total: f64 = counts.iter().sum();
            for update in 0..vectors.len() {
                let along = |other: &usize| geometry.cosine(update, *other) > 0.0;
                let along = (0..vectors.len()).filter(along);
                let along: f64 = along.map(|other| counts[other]).sum();
                // Where it is not so near a half that rounding decides.
                if (along / total - 0.5).abs() > 1e-6
                    && let Some(found) = agreement(&geometry, &copies, &counts, update)
                {
                    prop_assert_eq!(found > 0.0, along > total / 2.0, "{} of {}", along, total);
                }
            }
        }
    }
}
