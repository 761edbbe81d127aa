//! `opengpu account …` and `opengpu claim`: whose nodes are whose.

use anyhow::{Context, Result};
use opengpu_protocol::Client;
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
        AccountCommand::Create { name, team, remote } => {
            let client = remote::operator(home, &remote)?;
            let made = client.create_account(&name, team.as_deref()).await?;
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
        AccountCommand::Team { name, team, remote } => {
            let client = remote::operator(home, &remote)?;
            let account = named(&client, &name).await?.account;
            let account = client.set_team(account, team.as_deref()).await?;
            show(json, &account, |account| match &account.team {
                Some(team) => println!("account {} is of the team {team}", account.name),
                None => println!("account {} is of no team", account.name),
            })
        }
        AccountCommand::Remove { name, remote } => {
            let client = remote::operator(home, &remote)?;
            let account = named(&client, &name).await?;
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

async fn named(client: &Client, name: &str) -> Result<AccountView> {
    let accounts = client.accounts().await?;
    let account = accounts.into_iter().find(|account| account.name == name);
    account.with_context(|| {
        format!("there is no account {name:?}; `opengpu account list` shows those there are")
    })
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
                account.team.clone().unwrap_or_else(|| "-".into()),
                Life(Some(account.age_seconds)).to_string(),
                nodes.join(" "),
            ]
        })
        .collect();
    table(&["ACCOUNT", "TEAM", "AGE", "NODES"], &rows);
}
