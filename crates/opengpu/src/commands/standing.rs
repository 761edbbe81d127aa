//! `opengpu appeal`: how this machine's node stands, and what its owner says to that.

use anyhow::Result;
use opengpu_protocol::standing::{AppealRequest, ChangeView, StandingView};

use crate::{duration::Life, home::Home, output::show};

/// Asks how this machine's node stands; with a text, appeals first.
pub async fn run(home: &Home, json: bool, text: Option<String>, change: Option<u64>) -> Result<()> {
    let (_, client) = opengpu_agent::node_client(home.path())?;
    let appealed = text.is_some();
    let view = match text {
        Some(text) => client.appeal(&AppealRequest { change, text }).await?,
        None => client.own_standing().await?,
    };
    show(json, &view, |view| {
        if appealed {
            println!("the operator of {} has your appeal", client.server());
        }
        print(view);
    })
}

fn print(view: &StandingView) {
    println!("node {} is {}", view.node, view.standing);
    if view.changes.is_empty() {
        println!("nothing has changed that yet");
    }
    view.changes.iter().for_each(print_change);
}

/// A change with its evidence and its appeal.
pub fn print_change(change: &ChangeView) {
    let age = Life(Some(change.age_seconds));
    println!(
        "change {}, {age} ago, by the {}: {} to {} ({})",
        change.change, change.by, change.from, change.to, change.code
    );
    println!("  reason    {}", change.reason);
    if let Some(found) = &change.evidence {
        let number = |name: &str, number: Option<String>| {
            number.map_or_else(String::new, |number| format!(", {name} {number}"))
        };
        println!(
            "  evidence  run {}{}{}{}{}{}",
            found.run,
            number("round", found.round.map(|round| round.to_string())),
            number("assignment", found.assignment.map(|id| id.to_string())),
            number("measured", found.measured.map(|part| format!("{part:.3}"))),
            number("allowed", found.allowed.map(|part| format!("{part:.3}"))),
            number("ledger entry", found.entry.map(|entry| entry.to_string())),
        );
    }
    if let Some(by) = change.reversed_by {
        println!("  reversed  by change {by}");
    }
    if let Some(appeal) = &change.appeal {
        println!("  appeal    {}: {}", appeal.outcome.as_str(), appeal.text);
        if let Some(note) = appeal.note.as_ref().filter(|note| !note.is_empty()) {
            println!("  answer    {note}");
        }
    }
}
