//! `opengpu node …`: the machines that take part.

use anyhow::Result;
use opengpu_protocol::{
    operator::NodeAction,
    standing::{ChangeView, ReviewRequest},
    wire::NodeView,
};
use opengpu_rounds::NodeId;
use serde::Serialize;

use crate::{
    cli::{Judged, NodeCommand, NodeTarget},
    commands::{key, standing, token},
    home::Home,
    output::{bytes, count, show, table},
    remote,
};

/// Carries out a `node` command.
pub async fn run(home: &Home, json: bool, command: NodeCommand) -> Result<()> {
    let judge = async |target: NodeTarget, action, reason| -> Result<()> {
        let client = remote::operator(home, &target.remote)?;
        let node = NodeId(target.id);
        client.act_on_node_because(node, action, reason).await?;
        let view = client.node_view(node).await?;
        show(json, &view, say)
    };
    let act = async |target: NodeTarget, action| judge(target, action, None).await;
    match command {
        NodeCommand::List { remote } => {
            let nodes = remote::operator(home, &remote)?.nodes().await?;
            show(json, &nodes, |nodes| list(nodes))
        }
        NodeCommand::Show(target) => {
            let client = remote::operator(home, &target.remote)?;
            let node = client.node_view(NodeId(target.id)).await?;
            let changes = client.standing_of(NodeId(target.id)).await?.changes;
            let shown = Shown { node, changes };
            show(json, &shown, |shown| {
                list(std::slice::from_ref(&shown.node));
                shown.changes.iter().for_each(standing::print_change);
            })
        }
        NodeCommand::Approve(target) => act(target, NodeAction::Approve).await,
        NodeCommand::Drain(target) => act(target, NodeAction::Drain).await,
        NodeCommand::Quarantine(Judged { target, reason }) => {
            judge(target, NodeAction::Quarantine, reason).await
        }
        NodeCommand::Ban(Judged { target, reason }) => judge(target, NodeAction::Ban, reason).await,
        NodeCommand::Review {
            target,
            change,
            reverse,
            note,
            ..
        } => {
            let client = remote::operator(home, &target.remote)?;
            let review = ReviewRequest {
                change,
                reverse,
                note,
            };
            let view = client.review(NodeId(target.id), &review).await?;
            show(json, &view, say)
        }
        NodeCommand::Restore(target) => act(target, NodeAction::Restore).await,
        NodeCommand::Vouch(target) => act(target, NodeAction::Vouch).await,
        NodeCommand::Distrust(target) => act(target, NodeAction::Distrust).await,
        NodeCommand::Claim {
            code,
            account,
            remote,
        } => {
            let client = remote::operator(home, &remote)?;
            let view = client.claim(&code, &account).await?;
            show(json, &view, |view| {
                println!("node {} ({}) belongs to {account}", view.node, view.name);
            })
        }
        NodeCommand::Keys(target) => {
            let client = remote::operator(home, &target.remote)?;
            key::print(json, &client.node_keys(NodeId(target.id)).await?)
        }
        NodeCommand::RevokeKey { target, key } => {
            let client = remote::operator(home, &target.remote)?;
            let node = NodeId(target.id);
            let key = key::find(&client.node_keys(node).await?, &key)?;
            key::print(json, &client.revoke_node_key(node, key).await?)
        }
        NodeCommand::Token(args) => token::run(home, json, args).await,
    }
}

/// A node with what brought it where it stands.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    node: NodeView,
    /// Newest first.
    changes: Vec<ChangeView>,
}

fn say(view: &NodeView) {
    println!(
        "node {} ({}) is {}, {}",
        view.node,
        view.name,
        place(view),
        trust(view)
    );
}

/// What it may do and where it stands, in few words.
fn place(view: &NodeView) -> String {
    let standing = view.standing.as_str();
    let mut words = match view.state.as_str() {
        "active" => standing.to_owned(),
        state if state == standing => standing.to_owned(),
        state => format!("{state}, {standing}"),
    };
    if view.appeals {
        words.push_str(", appeals");
    }
    words
}

fn list(nodes: &[NodeView]) {
    if nodes.is_empty() {
        println!("no nodes yet; make a token with: opengpu node token");
        return;
    }
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.node.to_string(),
                node.name.clone(),
                place(node),
                node.account.clone().unwrap_or_else(|| "-".to_owned()),
                trust(node),
                if node.connected { "yes" } else { "no" }.to_owned(),
                node.machine.platform.clone(),
                node.machine.cores.to_string(),
                bytes(node.machine.memory_bytes),
                node.workers.len().to_string(),
                count(node.credited_tokens as f64),
            ]
        })
        .collect();
    table(
        &[
            "NODE",
            "NAME",
            "STATE",
            "ACCOUNT",
            "AUDITS",
            "CONNECTED",
            "PLATFORM",
            "CORES",
            "MEMORY",
            "WORKERS",
            "TOKENS",
        ],
        &rows,
    );
}

/// How far a node's audits let it be trusted.
fn trust(node: &NodeView) -> String {
    match (node.vouched, node.audits_passed, node.audits_failed) {
        (true, _, 0) => "vouched for".into(),
        (true, _, failed) => format!("vouched for, {failed} failed"),
        (false, passed, 0) => format!("{passed} passed"),
        (false, passed, failed) => format!("{passed} passed, {failed} failed"),
    }
}
