//! Heads are signed notes that others can read, and nothing about them can be changed.

use ed25519_dalek::SigningKey;
use opengpu_ledger::tree::{EMPTY_ROOT, MAX_SIZE};
use opengpu_ledger::{Head, HeadError, NoteError, Origin, VerifierKey};

use crate::values::{Ledger, accepted, origin, signing_key, verifier_key};

fn head() -> Head {
    Ledger::of((0..5).map(accepted)).head(5)
}

#[test]
fn a_signed_head_is_opened_with_its_key() {
    let signed = head().sign(&signing_key());
    assert_eq!(Head::open(signed.as_bytes(), &verifier_key()), Ok(head()));
}

#[test]
fn no_bit_of_a_signed_head_can_be_changed() {
    let signed = head().sign(&signing_key()).into_bytes();
    for bit in 0..signed.len() * 8 {
        let mut changed = signed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::open(&changed, &verifier_key()).is_err(), "bit {bit}");
    }
}

#[test]
fn another_key_or_another_ledger_is_refused() {
    let other = SigningKey::from_bytes(&[8; 32]);
    let signed = head().sign(&other);
    let not_signed = NoteError::NotSigned { origin: origin() };
    assert_eq!(
        Head::open(signed.as_bytes(), &verifier_key()),
        Err(HeadError::Note(not_signed.clone()))
    );
    let elsewhere = Head {
        origin: Origin::new("opengpu.example/run/8").unwrap(),
        ..head()
    };
    let signed = elsewhere.sign(&signing_key());
    assert_eq!(
        Head::open(signed.as_bytes(), &verifier_key()),
        Err(HeadError::Note(not_signed))
    );
}

#[test]
fn signatures_of_witnesses_are_passed_over() {
    let signed = head().sign(&signing_key());
    let witness = SigningKey::from_bytes(&[9; 32]);
    let theirs = Head {
        origin: Origin::new("witness.example").unwrap(),
        ..head()
    };
    let theirs = theirs.sign(&witness);
    let line = theirs.lines().last().unwrap();
    let both = format!("{signed}{line}\n");
    assert_eq!(Head::open(both.as_bytes(), &verifier_key()), Ok(head()));
    let broken = format!("{signed}— witness.example\n");
    assert_eq!(
        Head::open(broken.as_bytes(), &verifier_key()),
        Err(HeadError::Note(NoteError::BadLine { number: 2 }))
    );
}

#[test]
fn a_head_larger_than_any_ledger_is_refused() {
    let largest = Head {
        size: MAX_SIZE,
        root: EMPTY_ROOT,
        ..head()
    };
    let signed = largest.sign(&signing_key());
    assert_eq!(Head::open(signed.as_bytes(), &verifier_key()), Ok(largest));
    let size = MAX_SIZE + 1;
    let larger = Head { size, ..head() };
    assert_eq!(
        Head::open(larger.sign(&signing_key()).as_bytes(), &verifier_key()),
        Err(HeadError::TooLarge { size })
    );
}

#[test]
fn a_verifier_key_is_one_line_that_can_be_read_again() {
    let text = verifier_key().to_string();
    assert_eq!(text.parse(), Ok(verifier_key()));
    for bit in 0..text.len() * 8 {
        let mut changed = text.clone().into_bytes();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(changed) = std::str::from_utf8(&changed) {
            assert!(changed.parse::<VerifierKey>().is_err(), "{changed}");
        }
    }
}

#[test]
fn a_name_that_would_break_a_head_is_refused() {
    let long = "a".repeat(256);
    for text in [
        "",
        "two words",
        "a+b",
        "a\nb",
        "a\u{a0}b",
        "a\u{85}b",
        &long,
    ] {
        assert!(Origin::new(text).is_err(), "{text:?}");
    }
    assert_eq!(origin().as_str(), "opengpu.example/run/7");
}
