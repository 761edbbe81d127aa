//! Receipts: for each accepted update, and for each rejection, the proof that it is in the run's
//! ledger, verified and kept in `node/receipts/R/`, with the key of the ledger as it was seen
//! first.
//!
//! With each of them comes the proof that the ledger only goes on the one that was seen before:
//! who trains notices at once if it was rewritten or cut off. That stays in the status, and what
//! proves it in the folder.
//!
//! One task fetches them one after the other, beside the work. A coordinator that is away is
//! asked again; a receipt that an agent did not get before it ended can be had from an export.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use opengpu_ledger::tree::TreeHash;
use opengpu_ledger::{Code, Entry as LedgerEntry, EntryKind, Head, Receipt, VerifierKey};
use opengpu_protocol::Client;
use opengpu_protocol::client::full_jitter;
use opengpu_protocol::wire::UpdateNotice;
use opengpu_rounds::{AssignmentId, RunId};
use tokio::sync::mpsc;

use crate::home::NodeHome;
use crate::journal::Entry;
use crate::status::Board;

/// Accepted updates that may wait for their receipt to be asked for.
const QUEUE: usize = 1024;
/// First and longest pause after an attempt that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// Where devices say what was accepted or rejected.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    wanted: mpsc::Sender<Wanted>,
}

/// What a receipt is wanted for.
#[derive(Debug)]
struct Wanted {
    entry: Entry,
    /// The code with which it was rejected; None: it was accepted.
    rejected: Option<Code>,
}

/// What receipts are told apart by.
type Name = (RunId, AssignmentId, Option<Code>);

/// What fetches the receipts.
pub(crate) struct Clerk {
    client: Client,
    home: NodeHome,
    board: Board,
    wanted: mpsc::Receiver<Wanted>,
}

/// Why there is no receipt.
enum Problem {
    /// To be tried again.
    Later(anyhow::Error),
    /// The coordinator's ledger is not what it should be.
    Wrong(anyhow::Error),
}

type Outcome<T> = Result<T, Problem>;

impl Receipts {
    /// The devices' end and the other.
    pub(crate) fn new(client: Client, home: NodeHome, board: Board) -> (Self, Clerk) {
        let (tell, wanted) = mpsc::channel(QUEUE);
        let clerk = Clerk {
            client,
            home,
            board,
            wanted,
        };
        (Self { wanted: tell }, clerk)
    }

    /// This update was accepted, it seems.
    pub(crate) fn want(&self, entry: &Entry) {
        self.tell(entry, None);
    }

    /// This update was rejected with this code.
    pub(crate) fn want_rejection(&self, entry: &Entry, code: &str) {
        // It becomes part of a file's name: what is no code is not believed.
        if let Ok(code) = Code::new(code) {
            self.tell(entry, Some(code));
        }
    }

    fn tell(&self, entry: &Entry, rejected: Option<Code>) {
        let entry = entry.clone();
        // A queue that is full for want of a coordinator loses the newest.
        let _ = self.wanted.try_send(Wanted { entry, rejected });
    }
}

impl Wanted {
    fn named(self) -> (Name, UpdateNotice) {
        let Entry { run, notice } = self.entry;
        ((run, notice.assignment, self.rejected), notice)
    }
}

impl Clerk {
    /// Fetches for ever.
    pub(crate) async fn work(mut self) {
        let mut queue: BTreeMap<Name, UpdateNotice> = BTreeMap::new();
        let mut failures = 0;
        loop {
            if queue.is_empty() {
                let Some(wanted) = self.wanted.recv().await else {
                    return;
                };
                queue.extend([wanted.named()]);
            }
            while let Ok(wanted) = self.wanted.try_recv() {
                queue.extend([wanted.named()]);
            }
            let Some(((run, assignment, rejected), notice)) = queue.pop_first() else {
                continue;
            };
            match self.fetch(run, &notice, rejected.as_ref()).await {
                Ok(()) => failures = 0,
                Err(Problem::Wrong(error)) => {
                    let problem = format!("the ledger of run {run}: {error:#}");
                    tracing::error!(%run, %assignment, problem, "a ledger is not what it should be");
                    self.board
                        .update(|status| status.ledger_problem = Some(problem));
                }
                Err(Problem::Later(error)) => {
                    tracing::info!(
                        %run, %assignment, error = format!("{error:#}"),
                        "no receipt for an update yet"
                    );
                    queue.insert((run, assignment, rejected), notice);
                    failures += 1;
                    tokio::time::sleep(full_jitter(failures, FIRST_PAUSE, LAST_PAUSE)).await;
                }
            }
        }
    }

    /// Fetches, verifies and keeps one, unless it is there.
    async fn fetch(
        &self,
        run: RunId,
        notice: &UpdateNotice,
        rejected: Option<&Code>,
    ) -> Outcome<()> {
        let folder = self.home.receipts(run);
        let assignment = notice.assignment;
        let path = folder.join(match rejected {
            Some(code) => format!("{assignment}.{code}.receipt"),
            None => format!("{assignment}.receipt"),
        });
        if path.exists() {
            return Ok(());
        }
        std::fs::create_dir_all(&folder).map_err(later)?;
        let key = self.key(&folder, run).await?;
        let answer = match rejected {
            Some(code) => {
                let code = code.as_str();
                self.client.rejection_receipt(run, assignment, code).await
            }
            None => self.client.receipt(run, assignment).await,
        };
        let bytes = match answer {
            // It was given back without an update, or the refusal was no verdict on work.
            Err(error) if error.code() == Some("no_receipt") => return Ok(()),
            answer => answer.map_err(later)?,
        };
        let receipt = Receipt::parse(&bytes).map_err(wrong)?;
        let entry = receipt.verify(&key).map_err(wrong)?.entry;
        check_that_it_is_of(&entry, notice, rejected)?;
        self.write(&path, &bytes)?;
        self.board.update(|status| status.receipts += 1);
        self.check_that_it_goes_on(&folder, &key, run).await
    }

    /// The ledger's key as it was seen first: a coordinator that shows another one later is not
    /// believed.
    async fn key(&self, folder: &Path, run: RunId) -> Outcome<VerifierKey> {
        let path = folder.join("ledger.key");
        if let Some(text) = read(&path)? {
            let text = String::from_utf8_lossy(&text);
            return text.trim().parse().map_err(wrong);
        }
        let head = self.client.ledger_head(run).await.map_err(later)?;
        let key: VerifierKey = head.key.parse().map_err(wrong)?;
        self.write(&path, format!("{key}\n").as_bytes())?;
        Ok(key)
    }

    /// Compares the newest head with the one that was seen last, and keeps it.
    async fn check_that_it_goes_on(
        &self,
        folder: &Path,
        key: &VerifierKey,
        run: RunId,
    ) -> Outcome<()> {
        let path = folder.join("ledger.head");
        let seen = match read(&path)? {
            Some(note) => Some(Head::open(&note, key).map_err(wrong)?),
            None => None,
        };
        let older = seen.as_ref().map_or(0, |seen| seen.size);
        let proof = match self.client.ledger_consistency(run, older).await {
            Err(error) if error.code() == Some("no_such_ledger") => {
                return Err(wrong(anyhow!(
                    "it was cut off: it had {older} entries; {} is the proof",
                    path.display()
                )));
            }
            answer => answer.map_err(later)?,
        };
        let newest = Head::open(proof.head.as_bytes(), key).map_err(wrong)?;
        if let Some(seen) = seen {
            let hashes: Result<Vec<TreeHash>, _> =
                proof.proof.iter().map(|hash| hash.parse()).collect();
            let goes_on = newest.goes_on(&seen, &hashes.map_err(wrong)?);
            if let Err(error) = goes_on {
                let other = folder.join("ledger.head.other");
                self.write(&other, proof.head.as_bytes())?;
                return Err(wrong(anyhow!(error).context(format!(
                    "it was rewritten: {} and {} prove it",
                    path.display(),
                    other.display()
                ))));
            }
        }
        self.write(&path, proof.head.as_bytes())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Outcome<()> {
        self.home.replace(path, &[bytes], true).map_err(later)
    }
}

/// Whether an entry is that of the update that was sent, and says what was told of it.
fn check_that_it_is_of(
    entry: &LedgerEntry,
    notice: &UpdateNotice,
    rejected: Option<&Code>,
) -> Outcome<()> {
    let same = match (&entry.kind, rejected) {
        (
            EntryKind::Accepted {
                blocks, payload, ..
            },
            None,
        ) => (*payload, *blocks) == (notice.payload, notice.blocks_completed),
        (EntryKind::Rejected { code, .. }, Some(told)) => code == told,
        _ => false,
    };
    let of = (entry.worker, entry.assignment) == (notice.worker, notice.assignment);
    if same && of {
        return Ok(());
    }
    Err(wrong(anyhow!(
        "the receipt is for something else: {entry:?}, where {notice:?} was {}",
        rejected.map_or("accepted", Code::as_str)
    )))
}

/// A file, if it is there.
fn read(path: &Path) -> Outcome<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error)
            .with_context(|| format!("{} can't be read", path.display()))
            .map_err(Problem::Later),
    }
}

fn later(error: impl Into<anyhow::Error>) -> Problem {
    Problem::Later(error.into())
}

fn wrong(error: impl Into<anyhow::Error>) -> Problem {
    Problem::Wrong(error.into())
}
