//! Finding the coordinator that a command talks to.

use anyhow::Result;
use opengpu_protocol::Client;

use crate::{
    cli::Remote,
    home::{Home, read_line},
};

/// A client with the operator's rights.
pub fn operator(home: &Home, remote: &Remote) -> Result<Client> {
    let url = match &remote.url {
        Some(url) => url.clone(),
        None => read_line(
            &home.address_file(),
            "the address of this home's coordinator",
            "start one with `opengpu serve` or `opengpu up`, or name one with --url",
        )?,
    };
    let token = match &remote.operator_token {
        Some(token) => token.clone(),
        None => read_line(
            &home.operator_token_file(),
            "the operator's token",
            "give it with --operator-token or OPENGPU_OPERATOR_TOKEN",
        )?,
    };
    Ok(Client::operator(&url, &token)?)
}
