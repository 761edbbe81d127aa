//! Receipts: for each accepted update the proof that it is in the run's ledger, verified and
//! kept in `node/receipts/R/`, with the key of the ledger as it was seen first.
//!
//! With each of them comes the proof that the ledger only goes on the one that was seen before:
//! who trains notices at once if it was rewritten.
//!
//! Fetched beside the work, and again when the update is asked about; a receipt that is
//! missing costs nothing but the proof, and can be had from the coordinator at any time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opengpu_ledger::tree::TreeHash;
use opengpu_ledger::{Head, Receipt, VerifierKey};
use opengpu_protocol::Client;
use opengpu_rounds::{AssignmentId, RunId};

use crate::home::NodeHome;
use crate::status::Board;

/// Pauses after attempts that failed: the coordinator may be away.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(300),
    Duration::from_secs(3600),
];

/// Fetches the receipt of an accepted update, unless it is there.
pub(crate) fn fetch(
    client: Client,
    home: NodeHome,
    board: Board,
    run: RunId,
    assignment: AssignmentId,
) {
    let folder = home.receipts(run);
    let path = folder.join(format!("{assignment}.receipt"));
    if path.exists() {
        return;
    }
    tokio::spawn(async move {
        for pause in PAUSES {
            match keep(&client, &home, &board, &folder, &path, run, assignment).await {
                Ok(true) => return board.update(|status| status.receipts += 1),
                Ok(false) => return,
                Err(error) => tracing::info!(
                    %run, %assignment, error = format!("{error:#}"), again_in = ?pause,
                    "no receipt for an accepted update yet"
                ),
            }
            tokio::time::sleep(pause).await;
        }
    });
}

/// Whether there is a receipt now.
async fn keep(
    client: &Client,
    home: &NodeHome,
    board: &Board,
    folder: &Path,
    path: &Path,
    run: RunId,
    assignment: AssignmentId,
) -> Result<bool> {
    std::fs::create_dir_all(folder)?;
    let key = key(client, home, &folder.join("ledger.key"), run).await?;
    let bytes = match client.receipt(run, assignment).await {
        // It was given back without an update.
        Err(error) if error.code() == Some("no_receipt") => return Ok(false),
        answer => answer?,
    };
    let receipted = Receipt::parse(&bytes)?
        .verify(&key)
        .context("the coordinator's receipt does not verify")?;
    ensure!(
        receipted.entry.assignment == assignment,
        "the receipt is for assignment {}",
        receipted.entry.assignment
    );
    home.replace(path, &[&bytes], true)?;
    check_that_it_goes_on(client, home, board, folder, &key, run).await?;
    Ok(true)
}

/// Compares the newest head with the one that was seen last, and keeps it. That the ledger was
/// rewritten stays in the status: it is what the owner must hear of.
async fn check_that_it_goes_on(
    client: &Client,
    home: &NodeHome,
    board: &Board,
    folder: &Path,
    key: &VerifierKey,
    run: RunId,
) -> Result<()> {
    let path = folder.join("ledger.head");
    let seen = match std::fs::read(&path) {
        Ok(seen) => Some(Head::open(&seen, key)?),
        Err(_) => None,
    };
    let proof = client
        .ledger_consistency(run, seen.as_ref().map_or(0, |seen| seen.size))
        .await?;
    let newest = Head::open(proof.head.as_bytes(), key)?;
    if let Some(seen) = seen {
        let hashes: Result<Vec<TreeHash>, _> =
            proof.proof.iter().map(|hash| hash.parse()).collect();
        if let Err(error) = newest.goes_on(&seen, &hashes?) {
            let problem = format!(
                "the ledger of run {run} was rewritten: {error}; keep {} as evidence",
                path.display()
            );
            tracing::error!(%run, problem);
            board.update(|status| status.ledger_problem = Some(problem));
            return Ok(());
        }
    }
    home.replace(&path, &[proof.head.as_bytes()], true)?;
    Ok(())
}

/// The ledger's key as it was seen first: a coordinator that shows another one later is not
/// believed.
async fn key(client: &Client, home: &NodeHome, path: &Path, run: RunId) -> Result<VerifierKey> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return Ok(text.trim().parse()?);
    }
    let key: VerifierKey = client.ledger_head(run).await?.key.parse()?;
    home.replace(path, &[format!("{key}\n").as_bytes()], true)?;
    Ok(key)
}
