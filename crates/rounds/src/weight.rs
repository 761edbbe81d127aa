//! What an update weighs in its merge.

use std::collections::BTreeMap;

use crate::{NodeId, PendingUpdate};

/// The present way to weigh updates: 1 brought limits, 2 directions before each rule.
pub const WEIGHING: u32 = 2;

/// From which on directions are looked at before the other rules than the trust-weighted one.
pub const DIRECTION_SINCE: u32 = 2;

/// Largest part of a round's weight that the updates of one node have together, where there
/// are eight nodes or more; of fewer, twice an equal part, but never half. How many blocks a
/// node trains follows from a speed that it measures itself, and unless the update is audited,
/// so does its word that they were trained: nobody's word may make a majority.
const LARGEST_PART: f64 = 0.25;
const BELOW_HALF: f64 = 0.49;

/// Largest part of a round's weight that the updates of all nodes on probation have together,
/// as long as there are others: fresh identities cost nothing, so that their number must not
/// count.
pub const NEWCOMERS_PART: f64 = 0.25;

/// The weight of an update: tokens² / steps, with blocks for steps.
///
/// The square over the steps is the elasticity rule of the training recipe: two workers
/// that took equally many steps count by their batches, two with equal batches by their
/// steps. Blocks stand for steps because a run fixes the steps in a block; with the fixed
/// tokens in a block the weight is then proportional to the tokens.
///
/// Times the part that its node's reputation lets it have.
pub fn weight(update: &PendingUpdate) -> f32 {
    let tokens = update.tokens as f64;
    let weight = tokens * tokens / update.blocks.max(1) as f64;
    (weight * f64::from(update.trust)) as f32
}

/// The weights of a round's updates, none of them larger than [`weight`]: those of a node that
/// has more than a quarter of the whole (of fewer than eight nodes: than twice an equal part, or
/// almost half) are made smaller alike until it has that, and so are those of all newcomers together,
/// until they have [`NEWCOMERS_PART`]. One or two nodes are not limited by themselves: against one
/// there is no majority, and between two none can be told.
pub fn weights(weighing: u32, updates: &[PendingUpdate]) -> Vec<f32> {
    let mut nodes: BTreeMap<Option<NodeId>, f64> = BTreeMap::new();
    for update in updates {
        *nodes.entry(update.node).or_default() += f64::from(weight(update));
    }
    // States from before nodes were remembered: nothing is known that could be limited.
    if weighing == 0 || nodes.contains_key(&None) {
        return updates.iter().map(weight).collect();
    }
    let most = most(nodes.values().copied());
    let limited = updates.iter().map(|update| {
        let of_node = nodes.get(&update.node).copied().unwrap_or(0.0);
        let factor = if of_node > most { most / of_node } else { 1.0 };
        f64::from(weight(update)) * factor
    });
    let limited: Vec<f64> = limited.collect();
    let part = newcomers_factor(updates, &limited);
    let weighed = updates.iter().zip(limited);
    weighed
        .map(|(update, weight)| match update.newcomer {
            true => (weight * part) as f32,
            false => weight as f32,
        })
        .collect()
}

/// What the weights of newcomers are multiplied with, so that they have at most their part.
fn newcomers_factor(updates: &[PendingUpdate], weights: &[f64]) -> f64 {
    let sum = |newcomers: bool| {
        let of = updates.iter().zip(weights);
        of.filter(|(update, _)| update.newcomer == newcomers)
            .map(|(_, weight)| weight)
            .sum::<f64>()
    };
    let (newcomers, others) = (sum(true), sum(false));
    let allowed = others * NEWCOMERS_PART / (1.0 - NEWCOMERS_PART);
    match others > 0.0 && newcomers > allowed {
        true => allowed / newcomers,
        false => 1.0,
    }
}

/// The limit `m` such that, with everything above it cut to it, `m` is the largest allowed part
/// of the sum; infinite if nothing is above that.
fn most(weights: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = weights.collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    if count < 3.0 {
        return f64::INFINITY;
    }
    let part = (2.0 / count).clamp(LARGEST_PART, BELOW_HALF);
    let mut rest: f64 = sorted.iter().sum();
    let (mut cut, mut limit) = (0.0, f64::INFINITY);
    while let Some(largest) = sorted.pop() {
        // With `cut` of them at m: m = part · (rest + cut · m).
        let whole = 1.0 - part * cut;
        if whole <= 0.0 {
            break;
        }
        let fits = part * rest / whole;
        if largest <= fits {
            break;
        }
        rest -= largest;
        cut += 1.0;
        limit = match 1.0 - part * cut {
            whole if whole > 0.0 => part * rest / whole,
            // So many at the limit are more than the whole: they are alike then.
            _ => largest,
        };
    }
    limit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AssignmentId, Hash, Revision, WorkerId};

    fn update(node: u64, blocks: u64) -> PendingUpdate {
        PendingUpdate {
            assignment: AssignmentId(node),
            worker: WorkerId(node),
            node: Some(NodeId(node)),
            round: 0,
            base: Revision {
                lineage: 0,
                number: 0,
            },
            payload: Hash([0; 32]),
            payload_bytes: 1,
            tokens: blocks,
            blocks,
            record: None,
            newcomer: false,
            trust: 1.0,
        }
    }

    fn of(blocks: &[u64]) -> Vec<f32> {
        let updates = blocks.iter().enumerate();
        let updates: Vec<_> = updates
            .map(|(node, blocks)| update(node as u64, *blocks))
            .collect();
        weights(WEIGHING, &updates)
    }

    #[test]
    fn machines_that_differ_as_machines_do_weigh_what_they_trained() {
        assert_eq!(of(&[10, 20]), [10.0, 20.0]);
        assert_eq!(of(&[1, 1000]), [1.0, 1000.0]);
        assert_eq!(of(&[10, 20, 25]), [10.0, 20.0, 25.0]);
        assert_eq!(
            of(&[10, 10, 20, 30, 40, 10, 20, 30]),
            [10.0, 10.0, 20.0, 30.0, 40.0, 10.0, 20.0, 30.0]
        );
    }

    #[test]
    fn one_that_says_it_trained_a_thousand_times_as_much_has_a_quarter_of_the_whole() {
        let weights = of(&[10, 10, 10, 10, 10, 10, 10, 10_000]);
        assert_eq!(weights[..7], [10.0; 7]);
        assert!((weights[7] - 70.0 / 3.0).abs() < 1e-4, "{weights:?}");
    }

    #[test]
    fn devices_of_one_node_are_limited_together() {
        let mut updates: Vec<_> = (0..8).map(|node| update(node, 10)).collect();
        updates.extend((0..8).map(|_| update(8, 100)));
        let weights = weights(WEIGHING, &updates);
        let together: f32 = weights[8..].iter().sum();
        assert!((together - 80.0 / 3.0).abs() < 1e-4, "{weights:?}");
    }

    proptest! {
        #[test]
        fn any_number_of_fresh_identities_has_no_more_than_their_part(
            known in proptest::collection::vec(1..1000u64, 1..10),
            fresh in proptest::collection::vec(1..1_000_000u64, 1..100),
        ) {
            let blocks: Vec<u64> = known.iter().chain(&fresh).copied().collect();
            let mut updates: Vec<_> = blocks
                .iter()
                .enumerate()
                .map(|(node, blocks)| update(node as u64, *blocks))
                .collect();
            for fresh in &mut updates[known.len()..] {
                fresh.newcomer = true;
            }
            let weights = weights(WEIGHING, &updates);
            let total: f32 = weights.iter().sum();
            let newcomers: f32 = weights[known.len()..].iter().sum();
            prop_assert!(newcomers <= 0.2501 * total, "{weights:?}");
        }

        #[test]
        fn nobodys_word_makes_a_majority(blocks in proptest::collection::vec(1..1_000_000u64, 3..40)) {
            let weights = of(&blocks);
            let total: f32 = weights.iter().sum();
            for (weight, blocks) in weights.iter().zip(&blocks) {
                prop_assert!(*weight < 0.5 * total, "{weights:?}");
                prop_assert!(*weight > 0.0 && *weight <= *blocks as f32);
            }
            // Whoever trained more still weighs no less.
            for (one, other) in weights.iter().zip(&blocks).zip(weights.iter().zip(&blocks).skip(1)) {
                prop_assert!((one.1 < other.1) <= (one.0 <= other.0));
            }
        }
    }
}
