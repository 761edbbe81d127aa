//! `opengpu ledger …`: what is remembered of accepted work, fetched and verified.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use opengpu_ledger::{
    Day, ExportCheck, Head, MAX_NOTE_BYTES, MAX_RECEIPT_BYTES, Receipt, Totals, Verified,
    VerifierKey, verify_export,
};
use opengpu_protocol::Client;
use opengpu_protocol::ledger::LedgerHead;
use opengpu_rounds::RunId;
use serde::Serialize;

use crate::{
    cli::LedgerCommand,
    home::Home,
    output::{count, show, table},
    progress, remote,
};

use super::sums;

/// Files of an export.
const LINES: &str = "ledger.jsonl";
const HEAD: &str = "ledger.head";
const KEY: &str = "ledger.key";

/// Longest line with a key, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// Carries out a `ledger` command.
pub async fn run(home: &Home, json: bool, command: LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Show(target) => {
            let client = remote::operator(home, &target.remote)?;
            let head = client.ledger_head(RunId(target.id)).await?;
            show(json, &head, print_head)
        }
        LedgerCommand::Export { target, out } => {
            let client = remote::operator(home, &target.remote)?;
            let report = export(&client, RunId(target.id), &out, json).await?;
            show(json, &report, |report| {
                report.print();
                println!("verify it with: opengpu ledger verify {}", out.display());
            })
        }
        LedgerCommand::Verify {
            folder,
            key,
            heads,
            receipts,
        } => {
            let report = verify(&folder, key.as_deref(), &heads, &receipts)?;
            show(json, &report, Report::print)
        }
        LedgerCommand::Sums { by, run, remote } => sums::sums(home, json, by, run, &remote).await,
        LedgerCommand::Rebuild { remote } => sums::rebuild(home, json, &remote).await,
    }
}

fn print_head(head: &LedgerHead) {
    println!("{} entries; the head:\n", head.entries);
    println!("{}", head.head);
    println!("verified with: {}", head.key);
}

/// What a ledger comes to, once it is verified.
#[derive(Serialize)]
struct Report {
    ledger: String,
    entries: u64,
    root: String,
    totals: Sum,
    nodes: Vec<NodeSum>,
    older_heads: usize,
    receipts: usize,
}

#[derive(Serialize)]
struct NodeSum {
    node: u64,
    #[serde(flatten)]
    sum: Sum,
    days: Vec<DaySum>,
}

#[derive(Serialize)]
struct DaySum {
    /// Days since 1 January 1970, UTC.
    day: u64,
    #[serde(flatten)]
    sum: Sum,
}

/// Totals in numbers that JSON has.
#[derive(Serialize)]
struct Sum {
    tokens: i128,
    megaflops: i128,
    accepted: u64,
    rejected: u64,
    audits_passed: u64,
    audits_failed: u64,
    audits_undecided: u64,
    corrections: u64,
    trained_again: u64,
}

impl From<&Totals> for Sum {
    fn from(totals: &Totals) -> Self {
        Self {
            tokens: totals.tokens,
            megaflops: totals.megaflops,
            accepted: totals.accepted,
            rejected: totals.rejected,
            audits_passed: totals.audits_passed,
            audits_failed: totals.audits_failed,
            audits_undecided: totals.audits_undecided,
            corrections: totals.corrections,
            trained_again: totals.trained_again,
        }
    }
}

impl Report {
    fn of(verified: &Verified, older_heads: usize, receipts: usize) -> Self {
        let sums = &verified.sums;
        let nodes = sums.grouped(|node, _| node).into_iter().map(|(node, sum)| {
            let days = sums.rows().filter(|(of, _, _)| *of == node);
            NodeSum {
                node: node.0,
                sum: Sum::from(&sum),
                days: days
                    .map(|(_, Day(day), sum)| DaySum {
                        day,
                        sum: Sum::from(sum),
                    })
                    .collect(),
            }
        });
        Self {
            ledger: verified.head.origin.to_string(),
            entries: verified.head.size,
            root: verified.head.root.to_string(),
            totals: Sum::from(&sums.run()),
            nodes: nodes.collect(),
            older_heads,
            receipts,
        }
    }

    fn print(&self) {
        println!(
            "{}: {} entries, root {}; every line is under the signed head",
            self.ledger, self.entries, self.root
        );
        if self.older_heads > 0 {
            println!(
                "{} older heads are heads of the same ledger: nothing was changed since",
                self.older_heads
            );
        }
        if self.receipts > 0 {
            println!("{} receipts are for entries of this ledger", self.receipts);
        }
        let row = |name: String, sum: &Sum| {
            vec![
                name,
                sum.accepted.to_string(),
                count(sum.tokens as f64),
                format!("{}FLOP", count(sum.megaflops as f64 * 1e6)),
                sum.rejected.to_string(),
                sum.corrections.to_string(),
                sum.trained_again.to_string(),
            ]
        };
        let mut rows: Vec<_> = self
            .nodes
            .iter()
            .map(|node| row(node.node.to_string(), &node.sum))
            .collect();
        rows.push(row("all".into(), &self.totals));
        let heading = [
            "node",
            "accepted",
            "tokens",
            "compute",
            "rejected",
            "corrected",
            "trained again",
        ];
        table(&heading, &rows);
    }
}

/// Fetches a ledger, its head and its key, and verifies what it writes. The head is written
/// last; a head of an earlier export is kept and must be one of the same ledger.
async fn export(client: &Client, run: RunId, out: &Path, quiet: bool) -> Result<Report> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let known = out.join(KEY).exists();
    let signed = client.ledger_head(run).await?;
    if !known {
        write(&out.join(KEY), format!("{}\n", signed.key).as_bytes())?;
    }
    let key = read_key(&out.join(KEY))?;
    if key.to_string() != signed.key {
        bail!(
            "{} was exported with the key {key}, the coordinator now shows {}; \
             export into another folder if that is another coordinator",
            out.display(),
            signed.key
        );
    }
    let path = out.join(LINES);
    let new = out.join(format!("{LINES}.new"));
    let mut file = File::create(&new).with_context(|| format!("cannot make {}", new.display()))?;
    let bar = progress::entries_bar(quiet, signed.entries);
    let mut fetched = 0;
    while fetched < signed.entries {
        let page = client.ledger_lines(run, fetched).await?;
        let mut got = 0;
        for line in page.split_inclusive(|byte| *byte == b'\n') {
            // Entries that came after the head was signed are for the next export.
            if fetched + got < signed.entries {
                file.write_all(line)?;
                got += 1;
            }
        }
        if got == 0 {
            bail!(
                "the coordinator has {fetched} lines of a ledger whose head says {}",
                signed.entries
            );
        }
        fetched += got;
        bar.set_position(fetched);
    }
    bar.finish_and_clear();
    file.sync_all()?;
    let older = match out.join(HEAD).exists() {
        true => vec![read(&out.join(HEAD), MAX_NOTE_BYTES)?],
        false => Vec::new(),
    };
    let verified = check(&new, &key, signed.head.as_bytes(), &older)
        .context("what the coordinator sent is no ledger that can be relied on")?;
    std::fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))?;
    write(&out.join(HEAD), signed.head.as_bytes())?;
    Ok(Report::of(&verified, older.len(), 0))
}

/// Verifies an export, offline.
fn verify(
    folder: &Path,
    key: Option<&str>,
    heads: &[PathBuf],
    receipts: &[PathBuf],
) -> Result<Report> {
    let key = match key {
        None => read_key(&folder.join(KEY))?,
        Some(text) if Path::new(text).exists() => read_key(Path::new(text))?,
        Some(text) => text
            .parse()
            .with_context(|| format!("{text:?} is no key of a ledger"))?,
    };
    let mut older = Vec::new();
    for path in heads {
        older.push(read(path, MAX_NOTE_BYTES)?);
    }
    let receipts = receipt_files(receipts)?;
    let head = read(&folder.join(HEAD), MAX_NOTE_BYTES)?;
    let size = Head::open(&head, &key)
        .with_context(|| format!("{} cannot be relied on", folder.join(HEAD).display()))?
        .size;
    for path in &receipts {
        let receipt = Receipt::parse(&read(path, MAX_RECEIPT_BYTES)?);
        let receipt = receipt.with_context(|| format!("{} is no receipt", path.display()))?;
        let proven = receipt.verify(&key);
        let proven = proven.with_context(|| format!("{} proves nothing", path.display()))?;
        if proven.head.size > size {
            bail!(
                "{} was made over {} entries, the export has {size}: export again, or the ledger \
                 was cut off",
                path.display(),
                proven.head.size
            );
        }
        // The head that it is under is one more that the export must go on.
        older.push(receipt.head.into_bytes());
    }
    let verified = check(&folder.join(LINES), &key, &head, &older)?;
    Ok(Report::of(&verified, heads.len(), receipts.len()))
}

fn check(lines: &Path, key: &VerifierKey, head: &[u8], older: &[Vec<u8>]) -> Result<Verified> {
    let older: Vec<&[u8]> = older.iter().map(Vec::as_slice).collect();
    let check = ExportCheck::new(key, head, &older)?;
    let file = File::open(lines).with_context(|| format!("cannot read {}", lines.display()))?;
    let verified = verify_export(check, BufReader::new(file));
    verified.with_context(|| format!("{} does not hold", lines.display()))
}

/// The files themselves, and those in the folders among them.
fn receipt_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path);
        let entries = entries.with_context(|| format!("cannot read {}", path.display()))?;
        for entry in entries {
            let file = entry?.path();
            if file
                .extension()
                .is_some_and(|extension| extension == "receipt")
            {
                files.push(file);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read_key(path: &Path) -> Result<VerifierKey> {
    let text = String::from_utf8(read(path, MAX_KEY_BYTES)?);
    let text = text.with_context(|| format!("{} is no text", path.display()))?;
    let key = text.trim().parse();
    key.with_context(|| format!("{} holds no key of a ledger", path.display()))
}

/// A file that is not larger than what it should hold.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let bytes = std::fs::metadata(path).map(|file| file.len());
    let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
    if bytes > limit as u64 {
        bail!(
            "{} has {bytes} bytes; at most {limit} are read",
            path.display()
        );
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
