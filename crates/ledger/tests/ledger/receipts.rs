//! A receipt proves its entry to anyone with the key, and nothing about it can be changed.

use opengpu_ledger::tree::{InclusionError, MAX_PROOF_HASHES};
use opengpu_ledger::{MAX_RECEIPT_BYTES, Receipt, ReceiptError};

use crate::values::{Ledger, accepted, story, verifier_key};

#[test]
fn each_entry_has_a_receipt_under_each_later_head() {
    let ledger = Ledger::of(story());
    for size in 1..=ledger.lines.len() as u64 {
        for index in 0..size {
            let file = ledger.receipt(index, size).to_string();
            let receipt = Receipt::parse(file.as_bytes()).unwrap();
            assert_eq!(receipt, ledger.receipt(index, size));
            let receipted = receipt.verify(&verifier_key()).unwrap();
            assert_eq!(receipted.entry, story()[index as usize]);
            assert_eq!((receipted.index, receipted.head.size), (index, size));
        }
    }
}

#[test]
fn no_bit_of_a_receipt_can_be_changed() {
    let ledger = Ledger::of((0..13).map(accepted));
    let file = ledger.receipt(9, 13).to_string().into_bytes();
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verified = Receipt::parse(&changed).and_then(|it| it.verify(&verifier_key()));
        assert!(verified.is_err(), "bit {bit}");
    }
}

#[test]
fn a_receipt_for_another_line_says_which_root_it_leads_to() {
    let ledger = Ledger::of((0..13).map(accepted));
    let mut receipt = ledger.receipt(9, 13);
    receipt.line = ledger.lines[8].clone().into_bytes();
    match receipt.verify(&verifier_key()) {
        Err(ReceiptError::NotIncluded(InclusionError::WrongRoot {
            index, expected, ..
        })) => {
            assert_eq!(index, 9);
            assert_eq!(expected, ledger.head(13).root);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_too_long_is_not_read() {
    let long = vec![b'A'; MAX_RECEIPT_BYTES + 1];
    assert!(matches!(
        Receipt::parse(&long),
        Err(ReceiptError::TooLong { .. })
    ));
    let ledger = Ledger::of([accepted(0)]);
    let mut receipt = ledger.receipt(0, 1);
    receipt.proof = vec![ledger.head(1).root; MAX_PROOF_HASHES + 1];
    assert!(matches!(
        Receipt::parse(receipt.to_string().as_bytes()),
        Err(ReceiptError::Form { .. })
    ));
}
