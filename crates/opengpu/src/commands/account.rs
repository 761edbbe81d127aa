//! `opengpu account …` and `opengpu claim`: whose nodes are whose.

use anyhow::{Context, Result};
use opengpu_protocol::identity::AccountView;

use crate::{
    cli::AccountCommand,
    duration::Life,
    home::Home,
    output::{show, table},
    remote,
};

/// Carries out an `account` command.
pub async fn run(home: &Home, json: bool, command: AccountCommand) -> Result<()> {
    match command {
        AccountCommand::Create { name, remote } => {
            let client = remote::operator(home, &remote)?;
            let made = client.create_account(&name).await?;
            show(json, &made, |made| {
                println!(
                    "account {}; give it a node with: opengpu node claim CODE --account {:?}",
                    made.name, made.name
                );
            })
        }
        AccountCommand::List { remote } => {
            let accounts = remote::operator(home, &remote)?.accounts().await?;
            show(json, &accounts, |accounts| list(accounts))
        }
        AccountCommand::Remove { name, remote } => {
            let client = remote::operator(home, &remote)?;
            let accounts = client.accounts().await?;
            let account = accounts.into_iter().find(|account| account.name == name);
            let account = account.with_context(|| {
                format!(
                    "there is no account {name:?}; `opengpu account list` shows those there are"
                )
            })?;
            client.erase_account(account.account).await?;
            show(json, &account, |account| {
                println!(
                    "account {} is erased; its {} node(s) stay and belong to nobody",
                    account.name,
                    account.nodes.len()
                );
            })
        }
    }
}

/// Asks for a code with which this machine's node can be claimed.
pub async fn claim(home: &Home, json: bool) -> Result<()> {
    let (node, client) = opengpu_agent::node_client(home.path())?;
    let code = client.claim_code().await?;
    show(json, &code, |code| {
        let (first, second) = code.code.split_at(code.code.len() / 2);
        println!("{first}-{second}");
        println!(
            "tell it to the operator of {}, who enters it for your account: opengpu node claim {first}-{second} --account NAME",
            client.server()
        );
        println!(
            "it is good for node {node}, once, for {}",
            Life(Some(code.expires_in_seconds))
        );
    })
}

fn list(accounts: &[AccountView]) {
    if accounts.is_empty() {
        println!("no accounts; make one with: opengpu account create NAME");
        return;
    }
    let rows: Vec<Vec<String>> = accounts
        .iter()
        .map(|account| {
            let nodes: Vec<String> = account.nodes.iter().map(ToString::to_string).collect();
            vec![
                account.name.clone(),
                Life(Some(account.age_seconds)).to_string(),
                nodes.join(" "),
            ]
        })
        .collect();
    table(&["ACCOUNT", "AGE", "NODES"], &rows);
}
