//! `opengpu node …`: the machines that take part.

use anyhow::Result;
use opengpu_protocol::{operator::NodeAction, wire::NodeView};
use opengpu_rounds::NodeId;

use crate::{
    cli::{NodeCommand, NodeTarget},
    commands::{key, token},
    home::Home,
    output::{bytes, count, show, table},
    remote,
};

/// Carries out a `node` command.
pub async fn run(home: &Home, json: bool, command: NodeCommand) -> Result<()> {
    let act = async |target: NodeTarget, action| -> Result<()> {
        let client = remote::operator(home, &target.remote)?;
        client.act_on_node(NodeId(target.id), action).await?;
        let view = client.node_view(NodeId(target.id)).await?;
        show(json, &view, |view| {
            println!(
                "node {} ({}) is {}, {}",
                view.node,
                view.name,
                view.state,
                trust(view)
            );
        })
    };
    match command {
        NodeCommand::List { remote } => {
            let nodes = remote::operator(home, &remote)?.nodes().await?;
            show(json, &nodes, |nodes| list(nodes))
        }
        NodeCommand::Show(target) => {
            let client = remote::operator(home, &target.remote)?;
            let view = client.node_view(NodeId(target.id)).await?;
            show(json, &view, |view| list(std::slice::from_ref(view)))
        }
        NodeCommand::Approve(target) => act(target, NodeAction::Approve).await,
        NodeCommand::Drain(target) => act(target, NodeAction::Drain).await,
        NodeCommand::Quarantine(target) => act(target, NodeAction::Quarantine).await,
        NodeCommand::Ban(target) => act(target, NodeAction::Ban).await,
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
                node.state.clone(),
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
