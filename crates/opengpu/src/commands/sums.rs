//! `opengpu ledger sums` and `rebuild`: what the ledgers come to.

use anyhow::Result;
use opengpu_protocol::ledger::{LedgerSum, SumsBy};
use opengpu_rounds::RunId;

use crate::{
    cli::Remote,
    home::Home,
    output::{count, show, table},
    remote,
};

/// Prints the sums by one key.
pub async fn sums(
    home: &Home,
    json: bool,
    by: SumsBy,
    run: Option<u64>,
    to: &Remote,
) -> Result<()> {
    let client = remote::operator(home, to)?;
    let sums = client.ledger_sums(by, run.map(RunId)).await?;
    show(json, &sums, |sums| print(by, sums))
}

/// Makes the sums again.
pub async fn rebuild(home: &Home, json: bool, to: &Remote) -> Result<()> {
    let rebuilt = remote::operator(home, to)?.rebuild_sums().await?;
    show(json, &rebuilt, |rebuilt| match rebuilt.differed {
        0 => println!(
            "the sums are what the {} lines of the ledgers come to",
            rebuilt.lines
        ),
        differed => println!(
            "{differed} sums were not what the {} lines of the ledgers come to, and are now",
            rebuilt.lines
        ),
    })
}

fn print(by: SumsBy, sums: &[LedgerSum]) {
    let row = |sum: &LedgerSum| {
        vec![
            sum.of.clone().unwrap_or_else(|| "-".into()),
            sum.accepted.to_string(),
            count(sum.tokens as f64),
            format!("{}FLOP", count(sum.megaflops as f64 * 1e6)),
            sum.rejected.to_string(),
            format!("{} of {}", sum.audits_failed, audits(sum)),
            sum.corrections.to_string(),
            sum.trained_again.to_string(),
        ]
    };
    let rows: Vec<_> = sums.iter().map(row).collect();
    let heading = [
        by.as_str(),
        "accepted",
        "tokens",
        "compute",
        "rejected",
        "failed audits",
        "corrected",
        "trained again",
    ];
    table(&heading, &rows);
}

fn audits(sum: &LedgerSum) -> u64 {
    sum.audits_passed + sum.audits_failed + sum.audits_undecided
}
