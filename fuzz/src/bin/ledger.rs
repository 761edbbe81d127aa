//! What a volunteer keeps and verifies of a ledger: keys, signed heads, receipts, proofs and
//! exports. Who sends them has the key and may sign whatever it likes, so that most is tried
//! under a signature that holds.
//!
//! First line: what the rest is.

#![no_main]

use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use opengpu_fuzz::{Input, Kind, Seed, attempt_message, example, within};
use opengpu_ledger::tree::{
    Frontier, MAX_PROOF_HASHES, TreeHash, leaf_hash, plan_consistency, plan_inclusion,
    verify_consistency, verify_inclusion,
};
use opengpu_ledger::{
    Code, Entry, EntryKind, ExportCheck, Finite, Head, Origin, Receipt, Sums, VerifierKey, line,
    verify_export,
};
use opengpu_rounds::{AssignmentId, AuditOutcome, NodeId, WorkerId};

opengpu_fuzz::target!(seeds, |bytes| attempt_message(KINDS, bytes));

const KINDS: &[Kind] = &[
    ("key", key_text),
    ("hash", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(hash) = text.parse::<TreeHash>() {
            assert_eq!(hash.to_string(), text, "a hash has one spelling");
        }
    }),
    ("line", |bytes| {
        let _ = read_line(bytes);
    }),
    ("head", |note| {
        let _ = within(8 * note.len() + 4096, || Head::open(note, &verifier()));
    }),
    ("signed head", signed_text),
    ("receipt", receipt),
    ("receipt of line", receipt_of_line),
    ("export", export),
    ("proof", proof),
    ("far proof", far_proof),
];

fn seeds() -> Vec<Seed> {
    let lines: Vec<String> = entries()
        .iter()
        .map(|entry| line::write(entry).expect("small numbers"))
        .collect();
    let all = lines.join("\n") + "\n";
    let ledger = Ledger::of(lines.iter().map(String::as_bytes));
    let head = ledger.head(5);
    let mut seeds = vec![
        text("key", &verifier().to_string()),
        text("hash", &head.root.to_string()),
        text("head", &head.sign(&key())),
        text("signed head", &format!("a/run/1\n5\n{}\n", head.root)),
        text(
            "receipt",
            &ledger.receipt(lines[3].as_bytes(), 3).to_string(),
        ),
        // Was made into a list of lines, 16 bytes each.
        text("signed head", &"\n".repeat(2000)),
        text("export", &all),
        text("export", ""),
        text("proof", "\u{5}\u{7}\u{3}"),
        text("proof", "\u{10}\u{3f}\u{6}"),
        text("far proof", &"\0\0\0\u{1}".repeat(40)),
    ];
    for line in &lines {
        seeds.push(text("line", line));
        seeds.push(text("receipt of line", line));
    }
    seeds
}

fn text(kind: &str, text: &str) -> Seed {
    let digest = opengpu_rounds::Hash::of(text.as_bytes()).to_string();
    let name = format!("{}-{}", kind.replace(' ', "-"), &digest[..8]);
    (name, format!("{kind}\n{text}").into_bytes())
}

fn entries() -> Vec<Entry> {
    let code = |text| Code::new(text).expect("a code");
    let number = |number| Finite::new(number).ok();
    let kinds = [
        EntryKind::Accepted {
            blocks: 20,
            tokens: 40_960,
            megaflops: 9_007_199_254_740_991,
            payload: example::hash(),
        },
        EntryKind::Rejected {
            code: code("too_many_blocks"),
            measured: number(9.0),
            allowed: number(8.5e-7),
        },
        EntryKind::Audited {
            outcome: AuditOutcome::Passed,
            by: Some(NodeId(3)),
            measured: number(0.01),
            allowed: number(0.07),
        },
        EntryKind::Audited {
            outcome: AuditOutcome::Undecided,
            by: None,
            measured: None,
            allowed: None,
        },
        EntryKind::TrainedAgain {
            blocks: 20,
            tokens: 40_960,
            megaflops: 7,
        },
        EntryKind::Corrected {
            of: 0,
            tokens: -40_960,
            megaflops: -5,
            reason: code("audit_failed"),
        },
    ];
    let entry = |kind| Entry {
        at_unix_ms: 1_790_000_000_000,
        node: NodeId(2),
        worker: WorkerId(5),
        assignment: AssignmentId(9),
        round: 3,
        kind,
    };
    kinds.map(entry).into()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn origin() -> Origin {
    Origin::new("a/run/1").expect("a name")
}

fn verifier() -> VerifierKey {
    VerifierKey::new(origin(), key().verifying_key())
}

/// Leaves with all that proofs of them need.
struct Ledger {
    hashes: Vec<TreeHash>,
    /// By the number of leaves.
    roots: Vec<TreeHash>,
}

impl Ledger {
    fn of<'a>(leaves: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut frontier = Frontier::new();
        let mut ledger = Self {
            hashes: Vec::new(),
            roots: vec![frontier.root()],
        };
        for leaf in leaves {
            let new = frontier.append(leaf_hash(leaf)).into_iter();
            ledger.hashes.extend(new.map(|(_, hash)| hash));
            ledger.roots.push(frontier.root());
        }
        ledger
    }

    fn head(&self, size: usize) -> Head {
        Head {
            origin: origin(),
            size: size as u64,
            root: self.roots[size],
        }
    }

    fn filled(&self, plan: &opengpu_ledger::tree::ProofPlan) -> Vec<TreeHash> {
        let indexes = plan.indexes().iter();
        let hashes: Vec<_> = indexes.map(|index| self.hashes[*index as usize]).collect();
        plan.fill(&hashes).expect("the hashes that were asked for")
    }

    fn receipt(&self, line: &[u8], index: u64) -> Receipt {
        let head = self.head(self.roots.len() - 1);
        let plan = plan_inclusion(index, head.size).expect("it is among them");
        Receipt {
            line: line.to_vec(),
            index,
            proof: self.filled(&plan),
            head: head.sign(&key()),
        }
    }
}

fn key_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(key) = within(8 * bytes.len() + 4096, || text.parse::<VerifierKey>()) else {
        return;
    };
    assert_eq!(key.to_string(), text, "a key has one spelling");
    let ours = Ledger::of(std::iter::empty()).head(0).sign(&self::key());
    let opened = Head::open(ours.as_bytes(), &key).is_ok();
    assert_eq!(opened, key == verifier(), "another key opened a head");
}

fn read_line(bytes: &[u8]) -> Option<Entry> {
    let entry = within(64 * bytes.len() + 4096, || line::read(bytes)).ok()?;
    let written = line::write(&entry).expect("what was read can be written");
    assert_eq!(written.as_bytes(), bytes, "an entry has one line");
    let mut sums = Sums::new();
    sums.add(&entry);
    let days: Vec<String> = sums.rows().map(|(_, day, _)| day.to_string()).collect();
    assert_eq!((sums.run().entries(), days.len()), (1, 1));
    Some(entry)
}

/// A text with the coordinator's signature.
fn signed_text(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let verifier = verifier();
    let known = verifier.to_string();
    let id = known.split('+').nth(1).unwrap_or_default();
    let id = u32::from_str_radix(id, 16).expect("8 hexadecimal digits");
    let signature = key().sign(text.as_bytes()).to_bytes();
    let signature = BASE64_STANDARD.encode([&id.to_be_bytes()[..], &signature].concat());
    let note = format!("{text}\n— a/run/1 {signature}\n");
    if let Ok(head) = within(8 * note.len() + 4096, || {
        Head::open(note.as_bytes(), &verifier)
    }) {
        assert_eq!(head.sign(&key()), note, "a head has one text");
    }
}

fn receipt(file: &[u8]) {
    let Ok(receipt) = within(16 * file.len() + 4096, || Receipt::parse(file)) else {
        return;
    };
    assert_eq!(
        receipt.to_string().as_bytes(),
        file,
        "a receipt has one file"
    );
    let most = 64 * file.len() + 4096;
    if let Ok(receipted) = within(most, || receipt.verify(&verifier())) {
        assert_eq!(read_line(&receipt.line), Some(receipted.entry));
        assert!(receipted.index < receipted.head.size);
    }
}

/// A receipt that proves that bytes are in a ledger proves no more than that.
fn receipt_of_line(line: &[u8]) {
    let others = [&b"one"[..], line, b"three"];
    let receipt = Ledger::of(others.into_iter()).receipt(line, 1);
    let file = receipt.to_string();
    match Receipt::parse(file.as_bytes()) {
        Ok(read) => assert_eq!(read, receipt),
        Err(_) => assert!(line.len() > line::MAX_LINE_BYTES),
    }
    let receipted = receipt.verify(&verifier()).ok();
    assert_eq!(receipted.map(|receipted| receipted.entry), read_line(line));
}

/// Lines under a head that was signed over them hold when each of them does.
fn export(lines: &[u8]) {
    let parts: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    let leaves = parts
        .iter()
        .map(|part| part.strip_suffix(b"\n").unwrap_or(part));
    let ledger = Ledger::of(leaves.clone());
    let can_stand = |(line, index): (&[u8], u64)| {
        read_line(line).is_some_and(|entry| entry.check_place(index).is_ok())
    };
    let good =
        leaves.clone().zip(0..).all(can_stand) && (lines.is_empty() || lines.ends_with(b"\n"));

    let size = parts.len();
    let older = [ledger.head(size / 2), ledger.head(size)].map(|head| head.sign(&key()));
    let check = |head: &Head| {
        let older: Vec<&[u8]> = older.iter().map(String::as_bytes).collect();
        let check = ExportCheck::new(&verifier(), head.sign(&key()).as_bytes(), &older).ok()?;
        verify_export(check, lines).ok()
    };
    // For each line at most a row of the sums, and no more than one line at any time.
    let most = 1024 * size + 64 * line::MAX_LINE_BYTES + 16 * 1024;
    let head = ledger.head(size);
    let verified = within(most, || check(&head));
    assert_eq!(verified.is_some(), good);
    if let Some(verified) = verified {
        assert_eq!(verified.sums.run().entries(), size as u64);
        let mut others = [head.clone(), head.clone()];
        others[0].size += 1;
        others[1].root.0[0] ^= 1;
        assert!(others.iter().all(|other| check(other).is_none()));
    }
}

/// Two sizes, how many hashes, and how they differ from those of the proof: only the proof proves.
fn proof(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (a, b) = (
        usize::from(input.byte() % 64),
        usize::from(input.byte() % 64),
    );
    let leaves: Vec<[u8; 1]> = (0..64).map(|leaf| [leaf]).collect();
    let ledger = Ledger::of(leaves.iter().map(<[u8; 1]>::as_slice));
    let count = usize::from(input.byte() % 64);
    let differing = std::iter::from_fn(|| Some(input.take::<32>()));
    let differing: Vec<[u8; 32]> = differing.take(count).collect();
    let given = |honest: &[TreeHash]| -> Vec<TreeHash> {
        let honest = honest
            .iter()
            .copied()
            .chain(std::iter::repeat(TreeHash([0; 32])));
        let differ = |(honest, by): (TreeHash, &[u8; 32])| {
            TreeHash(std::array::from_fn(|at| honest.0[at] ^ by[at]))
        };
        honest.zip(&differing).map(differ).collect()
    };

    let (older, newer) = (a.min(b), a.max(b));
    let (first, second) = (ledger.head(older), ledger.head(newer));
    let plan = plan_consistency(first.size, second.size).expect("in order");
    let honest = ledger.filled(&plan);
    let given_proof = given(&honest);
    assert_eq!(
        second.goes_on(&first, &given_proof).is_ok(),
        given_proof == honest
    );
    assert!(second.goes_on(&first, &honest).is_ok());

    if older < newer {
        let (leaf, index) = (leaf_hash(&leaves[older]), older as u64);
        let plan = plan_inclusion(index, second.size).expect("it is among them");
        let honest = ledger.filled(&plan);
        let given = given(&honest);
        let proves = |proof: &[TreeHash]| {
            verify_inclusion(leaf, index, second.size, second.root, proof).is_ok()
        };
        assert_eq!(proves(&given), given == honest);
        assert!(proves(&honest));
    }
}

/// Two sizes of any size, and hashes.
fn far_proof(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (older, newer) = (input.u64(), input.u64());
    let [leaf, first, second] = [(); 3].map(|()| TreeHash(input.take()));
    let hashes = input.0.as_chunks::<32>().0;
    let proof: Vec<TreeHash> = hashes.iter().map(|hash| TreeHash(*hash)).collect();
    // What it may hold does not depend on how many entries there are said to be.
    within(16 * 1024, || {
        let _ = verify_consistency((older, first), (newer, second), &proof);
        let _ = verify_inclusion(leaf, older, newer, first, &proof);
    });
    for plan in [plan_consistency(older, newer), plan_inclusion(older, newer)] {
        let Ok(plan) = plan else { continue };
        let hashes = vec![leaf; plan.indexes().len()];
        let filled = plan.fill(&hashes).expect("as many as were asked for");
        assert!(filled.len() <= MAX_PROOF_HASHES);
    }
}
