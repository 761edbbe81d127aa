//! The tree against its definition, against another implementation, and against changes.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use opengpu_ledger::tree::{
    EMPTY_ROOT, Frontier, MAX_PROOF_HASHES, MAX_SIZE, PlanError, TreeHash, leaf_hash,
    plan_consistency, plan_inclusion, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;
use sha2::Sha256;

use crate::values::{Ledger, accepted, config};

fn ledger(size: u64) -> Ledger {
    Ledger::of((0..size).map(accepted))
}

fn leaf(ledger: &Ledger, index: u64) -> TreeHash {
    leaf_hash(ledger.lines[index as usize].as_bytes())
}

fn bytes(proof: &[TreeHash]) -> Vec<u8> {
    proof.iter().flat_map(|hash| hash.0).collect()
}

/// Every hash but one bit of `hash`.
fn flipped(hash: TreeHash) -> impl Iterator<Item = TreeHash> {
    (0..256).map(move |bit| {
        let mut hash = hash;
        hash.0[bit / 8] ^= 1 << (bit % 8);
        hash
    })
}

#[test]
fn every_root_and_proof_is_that_of_another_implementation() {
    let whole = ledger(200);
    let mut other = MemoryBackedTree::<Sha256, String>::new();
    let mut grown = Frontier::new();
    assert_eq!(whole.head(0).root, EMPTY_ROOT);
    for size in 1..=200 {
        let line = whole.lines[size as usize - 1].clone();
        grown.append(leaf_hash(line.as_bytes()));
        other.push(line);
        let root = whole.head(size).root;
        assert_eq!(root.0.as_slice(), other.root().as_bytes().as_slice());
        assert_eq!(root, grown.root());
        for index in 0..size {
            let proof = whole.inclusion(index, size);
            assert_eq!(
                bytes(&proof),
                other.prove_inclusion(index as usize).as_bytes()
            );
            verify_inclusion(leaf(&whole, index), index, size, root, &proof).unwrap();
        }
        for older in 1..=size {
            let proof = whole.consistency(older, size);
            let added = (size - older) as usize;
            assert_eq!(bytes(&proof), other.prove_consistency(added).as_bytes());
            let from = (older, whole.head(older).root);
            verify_consistency(from, (size, root), &proof).unwrap();
        }
    }
}

#[test]
fn every_tree_goes_on_the_empty_one_and_only_on_the_real_empty_one() {
    let ledger = ledger(5);
    let head = (5, ledger.head(5).root);
    verify_consistency((0, EMPTY_ROOT), head, &[]).unwrap();
    verify_consistency((0, EMPTY_ROOT), (0, EMPTY_ROOT), &[]).unwrap();
    for other in flipped(EMPTY_ROOT) {
        verify_consistency((0, other), head, &[]).unwrap_err();
    }
}

#[test]
fn two_empty_trees_with_different_roots_are_not_consistent() {
    let other = flipped(EMPTY_ROOT).next().unwrap();
    verify_consistency((0, EMPTY_ROOT), (0, other), &[]).unwrap_err();
}

#[test]
fn no_bit_of_an_inclusion_proof_can_be_changed() {
    for size in [1, 2, 3, 5, 8, 13] {
        let ledger = ledger(size);
        let root = ledger.head(size).root;
        for index in 0..size {
            let (leaf, proof) = (leaf(&ledger, index), ledger.inclusion(index, size));
            let verify = |leaf, index, size, root, proof: &[TreeHash]| {
                verify_inclusion(leaf, index, size, root, proof)
            };
            for other in flipped(leaf) {
                verify(other, index, size, root, &proof).unwrap_err();
            }
            for other in flipped(root) {
                verify(leaf, index, size, other, &proof).unwrap_err();
            }
            for at in 0..proof.len() {
                for other in flipped(proof[at]) {
                    let mut proof = proof.clone();
                    proof[at] = other;
                    verify(leaf, index, size, root, &proof).unwrap_err();
                }
            }
            for bit in 0..64 {
                verify(leaf, index ^ 1 << bit, size, root, &proof).unwrap_err();
            }
            let mut longer = proof.clone();
            longer.push(root);
            verify(leaf, index, size, root, &longer).unwrap_err();
            if let Some((_, shorter)) = proof.split_last() {
                verify(leaf, index, size, root, shorter).unwrap_err();
            }
        }
    }
}

#[test]
fn no_bit_of_a_consistency_proof_can_be_changed() {
    for newer in [2, 3, 7, 8, 13] {
        let ledger = ledger(newer);
        let new = (newer, ledger.head(newer).root);
        for older in 1..newer {
            let old = (older, ledger.head(older).root);
            let proof = ledger.consistency(older, newer);
            for other in flipped(old.1) {
                verify_consistency((older, other), new, &proof).unwrap_err();
            }
            for other in flipped(new.1) {
                verify_consistency(old, (newer, other), &proof).unwrap_err();
            }
            for at in 0..proof.len() {
                for other in flipped(proof[at]) {
                    let mut proof = proof.clone();
                    proof[at] = other;
                    verify_consistency(old, new, &proof).unwrap_err();
                }
            }
            let mut longer = proof.clone();
            longer.push(old.1);
            verify_consistency(old, new, &longer).unwrap_err();
        }
    }
}

#[test]
fn a_ledger_that_changed_one_old_line_cannot_prove_that_it_goes_on() {
    for changed in 0..20 {
        let honest = ledger(20);
        let mut entries: Vec<_> = (0..33).map(accepted).collect();
        entries[changed].round += 1;
        let rewritten = Ledger::of(entries);
        let newer = rewritten.head(33);
        let proof = rewritten.consistency(20, 33);
        newer.goes_on(&honest.head(20), &proof).unwrap_err();
        newer.goes_on(&rewritten.head(20), &proof).unwrap();
    }
}

#[test]
fn impossible_places_are_refused_with_their_numbers() {
    assert_eq!(
        plan_inclusion(5, 5),
        Err(PlanError::NoSuchEntry { index: 5, size: 5 })
    );
    assert_eq!(
        plan_consistency(6, 5),
        Err(PlanError::WrongOrder { older: 6, newer: 5 })
    );
    assert!(plan_inclusion(0, u64::MAX).is_err());
    assert!(plan_consistency(1, MAX_SIZE + 1).is_err());
    assert!(Frontier::stored_indexes(u64::MAX).is_err());
    assert_eq!(
        Frontier::restore(3, vec![EMPTY_ROOT]),
        Err(PlanError::WrongCount {
            expected: 2,
            found: 1
        })
    );
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn plans_of_any_size_are_short_and_name_hashes_that_exist(
        (older, newer) in (0..=MAX_SIZE).prop_flat_map(|newer| (0..=newer, Just(newer))),
    ) {
        let stored = 2 * newer - u64::from(newer.count_ones());
        let plan = plan_consistency(older, newer).unwrap();
        prop_assert!(plan.indexes().iter().all(|index| *index < stored));
        let read = vec![EMPTY_ROOT; plan.indexes().len()];
        prop_assert!(plan.fill(&read).unwrap().len() <= MAX_PROOF_HASHES);
        prop_assert!(read.len() <= 2 * MAX_PROOF_HASHES);
        if older < newer {
            let plan = plan_inclusion(older, newer).unwrap();
            prop_assert!(plan.indexes().iter().all(|index| *index < stored));
            let read = vec![EMPTY_ROOT; plan.indexes().len()];
            prop_assert!(plan.fill(&read).unwrap().len() <= MAX_PROOF_HASHES);
            prop_assert!(read.len() <= 2 * MAX_PROOF_HASHES);
        }
    }

    #[test]
    fn any_proof_from_strangers_is_refused_without_panic(
        index: u64,
        size: u64,
        hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..70),
        root: [u8; 32],
    ) {
        let proof: Vec<TreeHash> = hashes.into_iter().map(TreeHash).collect();
        let root = TreeHash(root);
        prop_assert!(verify_inclusion(EMPTY_ROOT, index, size, root, &proof).is_err());
        prop_assert!(verify_consistency((index, root), (size, EMPTY_ROOT), &proof).is_err());
    }
}
