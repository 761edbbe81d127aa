//! A whole export is verified in one pass, and what is wrong with it is named.

use opengpu_ledger::tree::Frontier;
use opengpu_ledger::{
    EntryError, ExportCheck, ExportError, Head, LineError, Sums, Verified, line, verify_export,
};
use proptest::prelude::*;

use crate::values::{Ledger, accepted, any_ledger, config, signing_key, story, verifier_key};

fn verify(export: &[u8], head: &str, older: &[String]) -> Result<Verified, ExportError> {
    let older: Vec<&[u8]> = older.iter().map(String::as_bytes).collect();
    let check = ExportCheck::new(&verifier_key(), head.as_bytes(), &older)?;
    verify_export(check, export)
}

/// A ledger whose lines were written by someone who checks nothing.
fn forged(lines: &[String]) -> (String, String) {
    let mut frontier = Frontier::new();
    for line in lines {
        frontier.append(opengpu_ledger::tree::leaf_hash(line.as_bytes()));
    }
    let head = Head {
        size: frontier.size(),
        root: frontier.root(),
        ..Ledger::default().head(0)
    };
    let export = lines.iter().map(|line| format!("{line}\n")).collect();
    (export, head.sign(&signing_key()))
}

#[test]
fn an_honest_export_holds_under_its_head_and_all_older_heads() {
    let ledger = Ledger::of(story());
    let size = ledger.lines.len() as u64;
    let older: Vec<String> = (0..=size).rev().map(|size| ledger.signed(size)).collect();
    let export = ledger.export(size);
    let verified = verify(export.as_bytes(), &ledger.signed(size), &older).unwrap();
    assert_eq!(verified.head, ledger.head(size));
    let mut sums = Sums::new();
    story().iter().for_each(|entry| sums.add(entry));
    assert_eq!(verified.sums, sums);
}

#[test]
fn an_empty_ledger_holds() {
    let ledger = Ledger::default();
    let verified = verify(b"", &ledger.signed(0), &[ledger.signed(0)]).unwrap();
    assert_eq!(verified.sums, Sums::new());
}

#[test]
fn no_bit_of_an_export_can_be_changed() {
    let ledger = Ledger::of(story());
    let size = ledger.lines.len() as u64;
    let (export, head) = (ledger.export(size).into_bytes(), ledger.signed(size));
    for bit in 0..export.len() * 8 {
        let mut changed = export.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&changed, &head, &[]).is_err(), "bit {bit}");
    }
}

#[test]
fn a_rewritten_ledger_is_found_by_one_older_head() {
    let honest = Ledger::of((0..20).map(accepted));
    let mut entries: Vec<_> = (0..40).map(accepted).collect();
    entries[11].round += 1;
    let rewritten = Ledger::of(entries);
    let saved = [10, 20, 15].map(|size| honest.signed(size));
    let (export, head) = (rewritten.export(40), rewritten.signed(40));
    verify(export.as_bytes(), &head, &[]).unwrap();
    match verify(export.as_bytes(), &head, &saved) {
        Err(ExportError::Rewritten {
            number,
            older,
            expected,
            found,
        }) => {
            assert_eq!((number, older), (3, 15), "the first that does not fit");
            assert_eq!(expected, honest.head(15).root);
            assert_eq!(found, rewritten.head(15).root);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shortened_ledger_is_found_by_one_older_head() {
    let ledger = Ledger::of((0..9).map(accepted));
    let verified = verify(
        ledger.export(8).as_bytes(),
        &ledger.signed(8),
        &[ledger.signed(3), ledger.signed(9)],
    );
    assert!(matches!(
        verified,
        Err(ExportError::Shortened {
            number: 2,
            older: 9,
            size: 8
        })
    ));
}

#[test]
fn two_heads_of_one_size_convict_their_signer() {
    let one = Ledger::of((0..9).map(accepted));
    let other = Ledger::of((1..10).map(accepted));
    let verified = verify(one.export(9).as_bytes(), &one.signed(9), &[other.signed(9)]);
    assert!(matches!(
        verified,
        Err(ExportError::TwoLedgers {
            number: 1,
            size: 9,
            ..
        })
    ));
}

#[test]
fn missing_and_additional_lines_are_named() {
    let ledger = Ledger::of((0..9).map(accepted));
    let head = ledger.signed(8);
    assert!(matches!(
        verify(ledger.export(7).as_bytes(), &head, &[]),
        Err(ExportError::TooFewLines { size: 8, found: 7 })
    ));
    assert!(matches!(
        verify(ledger.export(9).as_bytes(), &head, &[]),
        Err(ExportError::TooManyLines { number: 9, size: 8 })
    ));
    let export = ledger.export(8);
    assert!(matches!(
        verify(&export.as_bytes()[..export.len() - 1], &head, &[]),
        Err(ExportError::CutOff { number: 8 })
    ));
}

#[test]
fn two_lines_that_changed_places_lead_to_another_root() {
    let ledger = Ledger::of((0..9).map(accepted));
    let mut swapped = Ledger::of((0..9).map(accepted));
    swapped.lines.swap(2, 6);
    match verify(swapped.export(9).as_bytes(), &ledger.signed(9), &[]) {
        Err(ExportError::WrongRoot { size, expected, .. }) => {
            assert_eq!((size, expected), (9, ledger.head(9).root));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_signed_ledger_that_breaks_the_rules_is_refused_with_the_line() {
    let mut lines: Vec<String> = story()
        .iter()
        .map(|entry| line::write(entry).unwrap())
        .collect();
    let correction = lines.len() - 1;
    lines[correction] = lines[correction].replace("\"of\":2", "\"of\":10");
    let (export, head) = forged(&lines);
    match verify(export.as_bytes(), &head, &[]) {
        Err(ExportError::Place { number, source }) => {
            assert_eq!(number, 11);
            assert_eq!(source, EntryError::CorrectsNoEarlier { of: 10, index: 10 });
        }
        other => panic!("{other:?}"),
    }
    lines[4] = lines[4].replace("\"blocks\":4", "\"blocks\":4,\"blocks\":4");
    let (export, head) = forged(&lines);
    assert!(matches!(
        verify(export.as_bytes(), &head, &[]),
        Err(ExportError::Line { number: 5, .. })
    ));
}

#[test]
fn a_line_without_end_is_not_held_in_memory() {
    let ledger = Ledger::of([accepted(0)]);
    let check = ExportCheck::new(&verifier_key(), ledger.signed(1).as_bytes(), &[]).unwrap();
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    assert!(matches!(
        verify_export(check, endless),
        Err(ExportError::Line {
            number: 1,
            source: LineError::TooLong
        })
    ));
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn any_ledger_holds_under_its_heads(
        (entries, older) in any_ledger(60).prop_flat_map(|entries| {
            let sizes = proptest::collection::vec(0..=entries.len() as u64, 0..4);
            (Just(entries), sizes)
        }),
    ) {
        let ledger = Ledger::of(entries);
        let size = ledger.lines.len() as u64;
        let older: Vec<String> = older.into_iter().map(|size| ledger.signed(size)).collect();
        verify(ledger.export(size).as_bytes(), &ledger.signed(size), &older).unwrap();
    }
}
