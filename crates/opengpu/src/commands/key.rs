//! `opengpu key …`: the keys that this machine signs with.

use anyhow::{Result, bail};
use opengpu_protocol::identity::KeyView;
use opengpu_rounds::Hash;

use crate::{
    cli::KeyCommand,
    duration::Life,
    home::Home,
    output::{short, show, table},
};

/// Carries out a `key` command.
pub async fn run(home: &Home, json: bool, command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::List => {
            let (_, client) = opengpu_agent::node_client(home.path())?;
            print(json, &client.keys().await?)
        }
        KeyCommand::Rotate => {
            let (node, key) = opengpu_agent::rotate_key(home.path()).await?;
            let told = serde_json::json!({ "node": node, "public_key": key });
            show(json, &told, |_| {
                println!("node {node} signs with the key {key} now; the old one is revoked");
            })
        }
        KeyCommand::Revoke { key } => {
            let (_, client) = opengpu_agent::node_client(home.path())?;
            let key = find(&client.keys().await?, &key)?;
            print(json, &client.revoke_key(key).await?)
        }
    }
}

/// Shows the keys of a node.
pub fn print(json: bool, keys: &[KeyView]) -> Result<()> {
    show(json, &keys, |keys| {
        let rows: Vec<Vec<String>> = keys
            .iter()
            .map(|key| {
                vec![
                    short(key.public_key),
                    if key.revoked { "revoked" } else { "live" }.to_owned(),
                    Life(Some(key.age_seconds)).to_string(),
                ]
            })
            .collect();
        table(&["KEY", "STATE", "AGE"], &rows);
    })
}

/// The one key that begins like this.
pub fn find(keys: &[KeyView], beginning: &str) -> Result<Hash> {
    let beginning = beginning.to_ascii_lowercase();
    let mut found = keys
        .iter()
        .map(|key| key.public_key)
        .filter(|key| !beginning.is_empty() && key.to_string().starts_with(&beginning));
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(key),
        (None, _) => {
            bail!("no key of the node begins with {beginning:?}; list them to see which there are")
        }
        (Some(_), Some(_)) => bail!(
            "several keys of the node begin with {beginning}; give more digits, which the list shows with --json"
        ),
    }
}
