//! Vectors of others, and ledgers of earlier versions of this program.
//!
//! Files under `tests/golden` are never rewritten: a change that refuses one of them, or
//! reads other sums from it, would break every receipt that was given out. To write the first
//! ones of a new form (and only then): `OPENGPU_WRITE_GOLDEN=ledger-4 cargo test --release
//! -p opengpu-ledger golden`.

use std::path::PathBuf;

use opengpu_ledger::tree::{Frontier, TreeHash, leaf_hash};
use opengpu_ledger::{
    EntryKind, ExportCheck, Head, HeadError, NoteError, Receipt, VerifierKey, verify_export,
};

use crate::values::{Ledger, code, finite, story, story_with_trainings_again, verifier_key};

fn from_hexadecimal(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// The sample leaves of certificate transparency's reference implementations, and the root
/// after each of them.
const REFERENCE: [(&str, &str); 8] = [
    (
        "",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    ),
    (
        "00",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    ),
    (
        "10",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    ),
    (
        "2021",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (
        "3031",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    ),
    (
        "40414243",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    ),
    (
        "5051525354555657",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    ),
    (
        "606162636465666768696a6b6c6d6e6f",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ),
];

#[test]
fn the_reference_leaves_have_the_reference_roots() {
    let mut frontier = Frontier::new();
    for (leaf, root) in REFERENCE {
        frontier.append(leaf_hash(&from_hexadecimal(leaf)));
        let root = from_hexadecimal(root).try_into().unwrap();
        assert_eq!(frontier.root(), TreeHash(root));
    }
}

#[test]
fn the_example_of_the_note_specification_is_signed_by_its_key() {
    let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let key: VerifierKey = text.parse().unwrap();
    assert_eq!(key.to_string(), text);
    let note = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    // The signature is right, so what is missing is only a name, a size and a root.
    assert_eq!(Head::open(note.as_bytes(), &key), Err(HeadError::Form));
    let changed = note.replace("example message", "exomple message");
    let origin = key.origin().clone();
    assert_eq!(
        Head::open(changed.as_bytes(), &key),
        Err(HeadError::Note(NoteError::BadSignature { origin }))
    );
}

fn path(name: &str, ending: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(format!("{name}.{ending}"))
}

fn write(name: &str) {
    let ledger = Ledger::of(story_with_trainings_again());
    let put = |ending: &str, text: &str| {
        let path = path(name, ending);
        assert!(
            !path.exists(),
            "{path:?} is there; golden files stay as they are"
        );
        std::fs::write(path, text).unwrap();
    };
    let size = ledger.lines.len() as u64;
    put("key", &format!("{}\n", verifier_key()));
    put("jsonl", &ledger.export(size));
    put("head", &ledger.signed(size));
    put("older-head", &ledger.signed(11));
    put("tlog-proof", &ledger.receipt(11, size).to_string());
}

#[test]
fn ledgers_of_earlier_versions_hold() {
    if let Ok(name) = std::env::var("OPENGPU_WRITE_GOLDEN") {
        write(&name);
    }
    let read = |ending: &str| std::fs::read(path("ledger-1", ending)).unwrap();
    let key = String::from_utf8(read("key")).unwrap();
    let key: VerifierKey = key.trim_end().parse().unwrap();
    let check = ExportCheck::new(&key, &read("head"), &[&read("older-head")]).unwrap();
    let verified = verify_export(check, read("jsonl").as_slice()).unwrap();
    let run = verified.sums.run();
    assert_eq!((run.tokens, run.megaflops), (81_933, 12_288_013));
    assert_eq!((run.accepted, run.rejected, run.corrections), (6, 2, 1));
    assert_eq!((run.audits_passed, run.audits_failed), (1, 1));

    let receipt = Receipt::parse(&read("tlog-proof")).unwrap();
    let receipted = receipt.verify(&key).unwrap();
    assert_eq!(receipted.entry, story()[2]);
    assert_eq!(receipted.head, verified.head);
}

/// Ledger 2 was not written by this crate: lines, tree and signatures are made by hand from
/// `docs/ledger.md`, with rejections as coordinators write them.
#[test]
fn a_ledger_of_rejections_that_another_program_wrote_holds() {
    let read = |ending: &str| std::fs::read(path("ledger-2", ending)).unwrap();
    let key = String::from_utf8(read("key")).unwrap();
    let key: VerifierKey = key.trim_end().parse().unwrap();
    let check = ExportCheck::new(&key, &read("head"), &[&read("older-head")]).unwrap();
    let verified = verify_export(check, read("jsonl").as_slice()).unwrap();
    let run = verified.sums.run();
    assert_eq!((run.tokens, run.megaflops), (49_155, 7_373_250));
    assert_eq!((run.accepted, run.rejected, run.corrections), (3, 6, 0));

    let receipt = Receipt::parse(&read("tlog-proof")).unwrap();
    let receipted = receipt.verify(&key).unwrap();
    assert_eq!((receipted.index, &receipted.head), (2, &verified.head));
    assert_eq!(
        receipted.entry.kind,
        EntryKind::Rejected {
            code: code("too_many_blocks"),
            measured: Some(finite(9.0)),
            allowed: Some(finite(8.0)),
        }
    );
}

/// Nor was ledger 3: it goes on ledger 1, with credit for training again.
#[test]
fn a_ledger_of_trainings_again_that_another_program_wrote_holds() {
    let read = |ending: &str| std::fs::read(path("ledger-3", ending)).unwrap();
    let key = String::from_utf8(read("key")).unwrap();
    let key: VerifierKey = key.trim_end().parse().unwrap();
    let before = std::fs::read(path("ledger-1", "head")).unwrap();
    assert_eq!(read("older-head"), before);
    let check = ExportCheck::new(&key, &read("head"), &[&before]).unwrap();
    let verified = verify_export(check, read("jsonl").as_slice()).unwrap();
    let run = verified.sums.run();
    assert_eq!((run.tokens, run.megaflops), (114_705, 17_203_217));
    assert_eq!((run.accepted, run.trained_again), (6, 2));

    let receipt = Receipt::parse(&read("tlog-proof")).unwrap();
    let receipted = receipt.verify(&key).unwrap();
    assert_eq!((receipted.index, &receipted.head), (11, &verified.head));
    assert_eq!(
        receipted.entry.kind,
        EntryKind::TrainedAgain {
            blocks: 4,
            tokens: 16_386,
            megaflops: 2_457_602,
        }
    );
}

#[test]
fn todays_ledgers_are_written_as_in_the_golden_files() {
    for (name, entries, receipt) in [
        ("ledger-1", story(), 2),
        ("ledger-3", story_with_trainings_again(), 11),
    ] {
        let ledger = Ledger::of(entries);
        let size = ledger.lines.len() as u64;
        let golden = |ending: &str| std::fs::read_to_string(path(name, ending)).unwrap();
        assert_eq!(ledger.export(size), golden("jsonl"), "{name}");
        assert_eq!(ledger.signed(size), golden("head"), "{name}");
        let receipt = ledger.receipt(receipt, size).to_string();
        assert_eq!(receipt, golden("tlog-proof"), "{name}");
    }
}
