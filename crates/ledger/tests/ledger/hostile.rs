//! Files come from strangers: whatever is in them, they are refused without a panic.

use opengpu_ledger::{ExportCheck, Head, Receipt, VerifierKey, line, verify_export};
use proptest::prelude::*;

use crate::values::{Ledger, config, story, verifier_key};

/// What is done to a valid file.
#[derive(Clone, Debug)]
enum Change {
    Truncate(usize),
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    /// Copies some bytes to another place.
    Copy(usize, usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = 0..2000usize;
    let telling = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"\n\r\0+ \"{}[],:-0193=\xff\xe2".to_vec())
    ];
    let change = prop_oneof![
        at.clone().prop_map(Change::Truncate),
        (at.clone(), telling.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at.clone(), telling).prop_map(|(at, byte)| Change::Insert(at, byte)),
        at.clone().prop_map(Change::Remove),
        (at.clone(), at.clone(), 0..200usize)
            .prop_map(|(from, to, len)| Change::Copy(from, to, len)),
    ];
    proptest::collection::vec(change, 0..6)
}

fn changed(valid: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for change in changes {
        let len = bytes.len();
        let place = |at: usize| at % len.max(1);
        match *change {
            _ if len == 0 => {}
            Change::Truncate(at) => bytes.truncate(place(at)),
            Change::Set(at, byte) => bytes[place(at)] = byte,
            Change::Insert(at, byte) => bytes.insert(place(at), byte),
            Change::Remove(at) => {
                bytes.remove(place(at));
            }
            Change::Copy(from, to, count) => {
                let (from, to) = (place(from), place(to));
                let copied = bytes[from..(from + count).min(len)].to_vec();
                bytes.splice(to..to, copied);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn a_changed_line_is_another_entry_or_none(number in 0..11usize, changes in changes()) {
        let valid = line::write(&story()[number]).unwrap();
        let bytes = changed(valid.as_bytes(), &changes);
        if let Ok(entry) = line::read(&bytes) {
            prop_assert_eq!(line::write(&entry).unwrap().into_bytes(), bytes);
        }
    }

    #[test]
    fn a_changed_head_is_none(changes in changes()) {
        let ledger = Ledger::of(story());
        let valid = ledger.signed(9);
        let bytes = changed(valid.as_bytes(), &changes);
        if let Ok(head) = Head::open(&bytes, &verifier_key()) {
            prop_assert_eq!(head, ledger.head(9));
        }
    }

    #[test]
    fn a_changed_receipt_is_none(index in 0..11u64, changes in changes()) {
        let ledger = Ledger::of(story());
        let bytes = changed(ledger.receipt(index, 11).to_string().as_bytes(), &changes);
        if let Ok(receipted) = Receipt::parse(&bytes).and_then(|it| it.verify(&verifier_key())) {
            prop_assert_eq!(receipted.entry, story()[index as usize].clone());
        }
    }

    #[test]
    fn a_changed_export_is_none(changes in changes()) {
        let ledger = Ledger::of(story());
        let valid = ledger.export(11).into_bytes();
        let bytes = changed(&valid, &changes);
        let check = ExportCheck::new(&verifier_key(), ledger.signed(11).as_bytes(), &[]).unwrap();
        prop_assert_eq!(verify_export(check, bytes.as_slice()).is_ok(), bytes == valid);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(line::read(&bytes).is_err());
        prop_assert!(Head::open(&bytes, &verifier_key()).is_err());
        prop_assert!(Receipt::parse(&bytes).is_err());
        prop_assert!(String::from_utf8_lossy(&bytes).parse::<VerifierKey>().is_err());
    }
}
