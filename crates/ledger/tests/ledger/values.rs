//! A ledger with its store, and arbitrary entries.

use ed25519_dalek::SigningKey;
use opengpu_ledger::tree::{Frontier, TreeHash, plan_consistency, plan_inclusion};
use opengpu_ledger::{
    Code, Entry, EntryKind, Finite, Head, INTEGER_LIMIT, Origin, Receipt, VerifierKey, append,
};
use opengpu_rounds::{AssignmentId, AuditOutcome, Hash, NodeId, RunId, WorkerId};
use proptest::prelude::*;

/// A day in 2026, in milliseconds since 1970.
pub const MORNING: u64 = 1_795_248_000_000;

pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..Default::default()
    }
}

pub fn origin() -> Origin {
    Origin::of_run("opengpu.example", RunId(7)).unwrap()
}

pub fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub fn verifier_key() -> VerifierKey {
    VerifierKey::new(origin(), signing_key().verifying_key())
}

/// A ledger as a coordinator keeps it: lines, and a table of hashes that only grows.
#[derive(Default)]
pub struct Ledger {
    pub frontier: Frontier,
    pub lines: Vec<String>,
    pub hashes: Vec<TreeHash>,
}

impl Ledger {
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut ledger = Self::default();
        for entry in entries {
            ledger.append(&entry);
        }
        ledger
    }

    pub fn append(&mut self, entry: &Entry) {
        let appended = append(&mut self.frontier, entry).unwrap();
        assert_eq!(appended.index, self.lines.len() as u64);
        self.lines.push(appended.line);
        for (index, hash) in appended.hashes {
            assert_eq!(index, self.hashes.len() as u64);
            self.hashes.push(hash);
        }
    }

    pub fn read(&self, indexes: &[u64]) -> Vec<TreeHash> {
        indexes.iter().map(|i| self.hashes[*i as usize]).collect()
    }

    /// The head of the first `size` entries.
    pub fn head(&self, size: u64) -> Head {
        let hashes = self.read(&Frontier::stored_indexes(size).unwrap());
        Head {
            origin: origin(),
            size,
            root: Frontier::restore(size, hashes).unwrap().root(),
        }
    }

    pub fn signed(&self, size: u64) -> String {
        self.head(size).sign(&signing_key())
    }

    pub fn inclusion(&self, index: u64, size: u64) -> Vec<TreeHash> {
        let plan = plan_inclusion(index, size).unwrap();
        plan.fill(&self.read(plan.indexes())).unwrap()
    }

    pub fn consistency(&self, older: u64, newer: u64) -> Vec<TreeHash> {
        let plan = plan_consistency(older, newer).unwrap();
        plan.fill(&self.read(plan.indexes())).unwrap()
    }

    pub fn receipt(&self, index: u64, size: u64) -> Receipt {
        Receipt {
            line: self.lines[index as usize].clone().into_bytes(),
            index,
            proof: self.inclusion(index, size),
            head: self.signed(size),
        }
    }

    /// The first `size` lines as a file.
    pub fn export(&self, size: u64) -> String {
        let lines = self.lines.iter().take(size as usize);
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// An ordinary accepted update, of a model of 25 million parameters.
pub fn accepted(number: u64) -> Entry {
    Entry {
        at_unix_ms: MORNING + number * 7_000_000,
        node: NodeId(1 + number % 3),
        worker: WorkerId(10 + number % 3),
        assignment: AssignmentId(100 + number),
        round: number / 3,
        kind: EntryKind::Accepted {
            blocks: 4,
            tokens: 16_384 + number,
            megaflops: 2_457_600 + number,
            payload: Hash::of(&number.to_le_bytes()),
        },
    }
}

pub fn code(text: &str) -> Code {
    Code::new(text).unwrap()
}

pub fn finite(number: f64) -> Finite {
    Finite::new(number).unwrap()
}

/// Entries of all kinds: two updates are refused, two audited, and the credit of the one that
/// failed is taken back.
pub fn story() -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..6).map(accepted).collect();
    let later = MORNING + 100_000_000;
    let about = |number, kind| Entry {
        at_unix_ms: later + number,
        kind,
        ..accepted(number)
    };
    entries.push(about(
        6,
        EntryKind::Rejected {
            code: code("norm_too_large"),
            measured: Some(finite(13.25)),
            allowed: Some(finite(0.1)),
        },
    ));
    entries.push(about(
        7,
        EntryKind::Rejected {
            code: code("bad_header"),
            measured: None,
            allowed: None,
        },
    ));
    entries.push(about(
        2,
        EntryKind::Audited {
            outcome: AuditOutcome::Failed,
            by: Some(NodeId(1)),
            measured: Some(finite(2.5e-3)),
            allowed: Some(finite(1e-6)),
        },
    ));
    entries.push(about(
        3,
        EntryKind::Audited {
            outcome: AuditOutcome::Passed,
            by: None,
            measured: None,
            allowed: None,
        },
    ));
    let reason = code("audit_failed");
    let taken_back = Entry::correction(2, &entries[2], later + 9, -16_386, -2_457_602, reason);
    entries.push(taken_back.unwrap());
    entries
}

/// The same, and then credit for the two nodes that trained the one that failed again: for as much
/// as it claimed.
pub fn story_with_trainings_again() -> Vec<Entry> {
    let mut entries = story();
    for node in [2, 1] {
        entries.push(Entry {
            at_unix_ms: MORNING + 100_000_010,
            node: NodeId(node),
            worker: WorkerId(9 + node),
            kind: EntryKind::TrainedAgain {
                blocks: 4,
                tokens: 16_386,
                megaflops: 2_457_602,
            },
            ..accepted(2)
        });
    }
    entries
}

fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![0..5u64, 0..INTEGER_LIMIT, Just(INTEGER_LIMIT - 1)]
}

fn difference() -> impl Strategy<Value = i64> {
    let limit = INTEGER_LIMIT as i64;
    prop_oneof![-5..5i64, (1 - limit)..limit]
}

fn measure() -> impl Strategy<Value = Option<Finite>> {
    let float = any::<u64>().prop_map(f64::from_bits);
    proptest::option::of(float.prop_filter_map("finite", |number| Finite::new(number).ok()))
}

fn reason() -> impl Strategy<Value = Code> {
    ("[a-z]", proptest::collection::vec(0..37usize, 0..63)).prop_map(|(first, rest)| {
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789_";
        let rest: String = rest.iter().map(|at| char::from(letters[*at])).collect();
        code(&format!("{first}{rest}"))
    })
}

fn kind() -> impl Strategy<Value = EntryKind> {
    let outcome = prop_oneof![
        Just(AuditOutcome::Passed),
        Just(AuditOutcome::Failed),
        Just(AuditOutcome::Undecided)
    ];
    prop_oneof![
        (integer(), integer(), integer(), any::<[u8; 32]>()).prop_map(
            |(blocks, tokens, megaflops, hash)| EntryKind::Accepted {
                blocks,
                tokens,
                megaflops,
                payload: Hash(hash),
            }
        ),
        (integer(), integer(), integer()).prop_map(|(blocks, tokens, megaflops)| {
            EntryKind::TrainedAgain {
                blocks,
                tokens,
                megaflops,
            }
        }),
        (reason(), measure(), measure()).prop_map(|(code, measured, allowed)| {
            EntryKind::Rejected {
                code,
                measured,
                allowed,
            }
        }),
        (
            outcome,
            proptest::option::of(integer()),
            measure(),
            measure()
        )
            .prop_map(|(outcome, by, measured, allowed)| EntryKind::Audited {
                outcome,
                by: by.map(NodeId),
                measured,
                allowed,
            }),
        (integer(), difference(), difference(), reason()).prop_map(
            |(of, tokens, megaflops, reason)| EntryKind::Corrected {
                of,
                tokens,
                megaflops,
                reason,
            }
        ),
    ]
}

/// Any entry that can be written; nodes and days often meet.
pub fn any_entry() -> impl Strategy<Value = Entry> {
    let time = prop_oneof![MORNING..MORNING + 400_000_000, integer()];
    (time, integer(), integer(), integer(), integer(), kind()).prop_map(
        |(at_unix_ms, node, worker, assignment, round, kind)| Entry {
            at_unix_ms,
            node: NodeId(node),
            worker: WorkerId(worker),
            assignment: AssignmentId(assignment),
            round,
            kind,
        },
    )
}

/// Any entries that can be a ledger: corrections point back.
pub fn any_ledger(longest: usize) -> impl Strategy<Value = Vec<Entry>> {
    proptest::collection::vec(any_entry(), 0..=longest).prop_map(|mut entries| {
        for (index, entry) in (0u64..).zip(&mut entries) {
            if let EntryKind::Corrected { of, .. } = &mut entry.kind {
                if index == 0 {
                    *entry = accepted(0);
                } else {
                    *of %= index;
                }
            }
        }
        entries
    })
}
