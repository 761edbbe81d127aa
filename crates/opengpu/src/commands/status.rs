//! `opengpu status`: what this machine's agent is doing, from the file that it keeps; in the
//! home of an `up`, what each of its nodes does.

use anyhow::{Result, bail};
use opengpu_agent::{AgentStatus, DeviceStatus};
use opengpu_protocol::standing::StandingPlan;
use opengpu_protocol::wire::{Activity, Outcome};

use crate::{
    home::Home,
    output::{bytes, count, short, show},
};

/// Carries out `status`.
pub fn run(home: &Home, json: bool) -> Result<()> {
    if let Some(status) = opengpu_agent::status(home.path())? {
        return show(json, &status, print);
    }
    let local = home.local_nodes().map(|node| opengpu_agent::status(&node));
    let local: Vec<AgentStatus> = local
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    if local.is_empty() {
        bail!(
            "no agent has run in {}; start one with `opengpu join URL`, or name its home with --home",
            home.path().display()
        );
    }
    show(json, &local, |local| {
        for (index, status) in local.iter().enumerate() {
            if index > 0 {
                println!("\n");
            }
            print(status);
        }
    })
}

fn print(status: &AgentStatus) {
    println!(
        "agent       {}",
        if status.running {
            "running"
        } else {
            "not running; this is what it was last"
        }
    );
    let node = status.node.map_or("-".to_owned(), |node| node.to_string());
    println!("node        {node} ({})", status.name);
    let link = match (&status.connection_problem, status.connected) {
        (_, true) => "connected".to_owned(),
        (Some(problem), false) => format!("not connected: {problem}"),
        (None, false) => "not connected".to_owned(),
    };
    println!("coordinator {}, {link}", status.server);
    if status.pending {
        println!(
            "approval    waits for the operator, who does it with `opengpu node approve {node}`; work begins by itself then"
        );
    }
    if status.draining {
        println!("draining    an operator lets this node finish and gives it nothing new");
    }
    if let Some(standing) = &status.standing {
        print_standing(standing);
    }
    if let Some(why) = &status.no_work {
        println!("no work     {} ({})", why.message, why.code);
    }
    println!(
        "traffic     {} sent, {} received, {} written to disk",
        bytes(status.sent_bytes),
        bytes(status.received_bytes),
        bytes(status.disk_bytes)
    );
    println!("receipts    {} since the agent started", status.receipts);
    if let Some(problem) = &status.ledger_problem {
        println!("LEDGER      {problem}");
    }
    status.devices.iter().for_each(print_device);
}

/// Where the node stands, and if that is not well: why, and what its owner can do.
fn print_standing(standing: &StandingPlan) {
    println!("standing    {}", standing.standing);
    if let Some(against) = &standing.against {
        let reversed = if against.reversed { ", reversed" } else { "" };
        println!(
            "  because   {} (change {}, {}{reversed})",
            against.reason, against.change, against.code
        );
        if let Some(appeal) = against.appeal {
            let note = against.note.as_ref().filter(|note| !note.is_empty());
            let note = note.map_or_else(String::new, |note| format!(": {note}"));
            println!("  appeal    {}{note}", appeal.as_str());
        }
    }
    if let Some(advice) = standing.advice() {
        println!("  now       {advice}");
    }
}

fn print_device(device: &DeviceStatus) {
    println!();
    let trainer = device.trainer.as_deref().unwrap_or("no trainer yet");
    println!("device {}    {trainer}", device.device);
    if let Some(run) = &device.run_name {
        let revision = device
            .revision
            .map_or("-".to_owned(), |revision| revision.to_string());
        let digest = device.digest.map_or("-".to_owned(), short);
        println!("  run       {run}, revision {revision} ({digest})");
    }
    println!("  doing     {}", doing(device));
    println!("  speed     {:.2} blocks/s", device.blocks_per_second);
    println!(
        "  updates   {} merged, {} not merged, {} waiting",
        device.merged, device.not_merged, device.unsettled
    );
    let refused = device.verdicts.iter().rev();
    let refused = refused
        .filter(|verdict| !verdict.accepted)
        .find_map(|verdict| match &verdict.outcome {
            Outcome::NotMerged { reason } => Some((verdict.assignment, reason)),
            _ => None,
        });
    if let Some((assignment, reason)) = refused {
        println!("  refused   assignment {assignment}, the latest: {reason}");
    }
    println!(
        "  credit    {} tokens",
        count(device.credited_tokens as f64)
    );
    if let Some(problem) = device.problem.as_ref().or(device.trainer_problem.as_ref()) {
        println!("  problem   {problem}");
    }
}

fn doing(device: &DeviceStatus) -> String {
    match (&device.activity, &device.idle_because) {
        (
            Some(Activity::Training {
                assignment,
                blocks_done,
                loss,
                ..
            }),
            _,
        ) => {
            format!("training assignment {assignment}, {blocks_done} blocks done, loss {loss:.3}")
        }
        (Some(Activity::Sending { assignment }), _) => {
            format!("sending the update of assignment {assignment}")
        }
        (Some(Activity::Preparing { what }), _) => what.clone(),
        (_, Some(why)) => format!("idle: {why}"),
        (_, None) => "idle".to_owned(),
    }
}
