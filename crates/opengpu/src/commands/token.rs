//! `opengpu node token …`: what machines enrol with.

use anyhow::{Result, bail};
use opengpu_protocol::operator::{TokenRequest, TokenView};

use crate::{
    cli::{MakeToken, Token, TokenCommand},
    duration::Life,
    home::Home,
    output::{short, show, table},
    remote,
};

/// Carries out a `node token` command.
pub async fn run(home: &Home, json: bool, args: Token) -> Result<()> {
    match args.command {
        None => make(home, json, args.make).await,
        Some(TokenCommand::List { remote }) => {
            let tokens = remote::operator(home, &remote)?.tokens().await?;
            show(json, &tokens, |tokens| list(tokens))
        }
        Some(TokenCommand::Revoke { hash, remote }) => {
            let client = remote::operator(home, &remote)?;
            let token = find(client.tokens().await?, &hash)?;
            client.revoke_token(token.hash).await?;
            let tokens = client.tokens().await?;
            let token = find(tokens, &token.hash.to_string())?;
            show(json, &token, |token| {
                println!(
                    "token {} is {}; machines that it admitted stay",
                    short(token.hash),
                    token.state.as_str()
                );
            })
        }
    }
}

async fn make(home: &Home, json: bool, args: MakeToken) -> Result<()> {
    let client = remote::operator(home, &args.remote)?;
    let request = TokenRequest {
        label: args.label,
        uses: args.uses,
        expires_in_seconds: args.expires.0,
    };
    let made = client.make_token(&request).await?;
    show(json, &made, |made| {
        println!("{}", made.token);
        println!(
            "admits {} machine(s), expires: {}; revoke with: opengpu node token revoke {}",
            request.uses,
            args.expires,
            short(made.hash)
        );
        println!(
            "join with: opengpu join {} --token {}",
            client.server(),
            made.token
        );
    })
}

/// The one token whose hash begins like this.
fn find(tokens: Vec<TokenView>, beginning: &str) -> Result<TokenView> {
    let beginning = beginning.to_ascii_lowercase();
    let mut found: Vec<TokenView> = tokens
        .into_iter()
        .filter(|token| !beginning.is_empty() && token.hash.to_string().starts_with(&beginning))
        .collect();
    match (found.pop(), found.len()) {
        (Some(token), 0) => Ok(token),
        (None, _) => bail!(
            "no token's hash begins with {beginning:?}; `opengpu node token list` shows those there are"
        ),
        (Some(_), more) => bail!(
            "the hashes of {} tokens begin with {beginning}; give more of the digits that `opengpu node token list --json` shows",
            more + 1
        ),
    }
}

fn list(tokens: &[TokenView]) {
    if tokens.is_empty() {
        println!("no tokens; make one with: opengpu node token");
        return;
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            vec![
                short(token.hash),
                token.state.as_str().to_owned(),
                token.used.to_string(),
                token
                    .uses
                    .map_or_else(|| "any".to_owned(), |uses| uses.to_string()),
                Life(Some(token.age_seconds)).to_string(),
                Life(token.expires_in_seconds).to_string(),
                token.label.clone(),
            ]
        })
        .collect();
    table(
        &["HASH", "STATE", "USED", "OF", "AGE", "EXPIRES IN", "LABEL"],
        &rows,
    );
}
