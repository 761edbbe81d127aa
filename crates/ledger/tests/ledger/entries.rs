//! An entry has one line, and a line one entry.

use opengpu_ledger::line::{self, MAX_LINE_BYTES};
use opengpu_ledger::tree::Frontier;
use opengpu_ledger::{
    Code, Entry, EntryError, EntryKind, Finite, INTEGER_LIMIT, LineError, append,
};
use opengpu_rounds::NodeId;
use proptest::prelude::*;

use crate::values::{accepted, any_entry, code, config, story, story_with_trainings_again};

proptest! {
    #![proptest_config(config(5000))]

    #[test]
    fn an_entry_is_read_as_it_was_written(entry in any_entry()) {
        let line = line::write(&entry).unwrap();
        prop_assert!(line.len() <= MAX_LINE_BYTES / 2, "{} bytes", line.len());
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(line::read(line.as_bytes()).unwrap(), entry);
    }
}

#[test]
fn a_line_that_says_the_same_in_another_way_is_refused() {
    let line = line::write(&accepted(1)).unwrap();
    let other = |from: &str, to: &str| {
        assert!(line.contains(from), "{from} is in {line}");
        line.replacen(from, to, 1)
    };
    let hash = line.split('"').nth_back(1).unwrap();
    let others = [
        other(":", ": "),
        format!("{line} "),
        format!("{line}\r"),
        other(r#""tokens":16385"#, r#""tokens":1,"tokens":16385"#),
        other(r#""tokens":16385"#, r#""tokens":16385,"bonus":1"#),
        other(
            r#""round":0,"type":"accepted""#,
            r#""type":"accepted","round":0"#,
        ),
        other(hash, &hash.to_uppercase()),
        other(r#""type""#, r#""\u0074ype""#),
        other(r#""blocks":4"#, r#""blocks":4.0"#),
        other(r#""blocks":4"#, r#""blocks":-4"#),
        other(r#""blocks":4"#, r#""blocks":9007199254740992"#),
        other(r#""blocks":4,"#, ""),
        other("accepted", "invented"),
        line[..line.len() - 1].to_owned(),
        String::new(),
        "null".to_owned(),
        " ".repeat(MAX_LINE_BYTES + 1),
    ];
    line::read(line.as_bytes()).unwrap();
    for other in others {
        assert!(line::read(other.as_bytes()).is_err(), "{other} was read");
    }
}

#[test]
fn the_refusal_of_another_form_says_where_and_what_was_expected() {
    let line = line::write(&accepted(1)).unwrap();
    let spaced = line.replacen(':', ": ", 1);
    match line::read(spaced.as_bytes()) {
        Err(LineError::OtherForm { at, expected }) => {
            assert_eq!(at, r#"{"at_unix_ms":"#.len());
            assert_eq!(expected, line);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_that_is_not_finite_can_be_written_or_read() {
    assert!(Finite::new(f64::NAN).is_err());
    assert!(Finite::new(f64::INFINITY).is_err());
    let line = line::write(&story()[6]).unwrap();
    assert!(line.contains("13.25"), "{line}");
    for wild in ["NaN", "Infinity", "1e999", "-1e999", "null", "\"1\""] {
        let line = line.replace("13.25", wild);
        assert!(line::read(line.as_bytes()).is_err(), "{line} was read");
    }
}

#[test]
fn a_number_that_some_readers_cannot_hold_is_not_written() {
    let mut entry = accepted(0);
    entry.node = NodeId(INTEGER_LIMIT);
    let refused = EntryError::TooLarge {
        field: "node",
        value: 1 << 53,
    };
    assert_eq!(line::write(&entry), Err(refused.clone()));
    let mut frontier = Frontier::new();
    assert_eq!(append(&mut frontier, &entry), Err(refused));
    assert_eq!(frontier, Frontier::new(), "nothing was appended");
    for field in ["blocks", "tokens", "megaflops"] {
        let number = |name| if name == field { INTEGER_LIMIT } else { 1 };
        let entry = Entry {
            kind: EntryKind::TrainedAgain {
                blocks: number("blocks"),
                tokens: number("tokens"),
                megaflops: number("megaflops"),
            },
            ..accepted(0)
        };
        let value = 1 << 53;
        assert_eq!(
            line::write(&entry),
            Err(EntryError::TooLarge { field, value })
        );
    }
}

#[test]
fn a_correction_names_whom_the_corrected_entry_named_and_points_back() {
    let of_the_second = Entry::correction(1, &accepted(1), 5, -3, -4, code("recount")).unwrap();
    assert_eq!(of_the_second.node, accepted(1).node);
    assert_eq!(of_the_second.assignment, accepted(1).assignment);
    assert_eq!(of_the_second.at_unix_ms, 5);
    assert_eq!(
        of_the_second.check_place(1),
        Err(EntryError::CorrectsNoEarlier { of: 1, index: 1 })
    );
    of_the_second.check_place(2).unwrap();
}

#[test]
fn only_credit_can_be_corrected() {
    for entry in story_with_trainings_again() {
        let corrected = Entry::correction(0, &entry, 5, 1, 1, code("recount"));
        assert_eq!(
            corrected.is_ok(),
            matches!(entry.kind, EntryKind::Accepted { .. })
        );
    }
}

#[test]
fn a_reason_is_a_code_and_no_sentence() {
    for text in ["", "Ann", "ann's fault", "9", "_a", "é", &"a".repeat(65)] {
        assert!(Code::new(text).is_err(), "{text}");
    }
    for text in ["a", "rolled_back", &"a".repeat(64)] {
        assert_eq!(Code::new(text).unwrap().as_str(), text);
    }
}
