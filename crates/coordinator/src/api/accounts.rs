//! Accounts, and the codes by which nodes come to them: the owner reads a code off the machine
//! and tells it to the operator, who enters it for the account.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::identity::{
    AccountRequest, AccountView, CODE_LENGTH, Claim, ClaimCode, TeamRequest,
};
use opengpu_protocol::wire::NodeView;
use opengpu_rounds::Hash;
use rand::RngExt;

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments, SignedNode};
use crate::Coordinator;
use crate::clock::unix_ms;
use crate::store::{AccountError, AccountRecord};
use crate::view::node_view;

/// How long a code can be used.
const CODE_SECONDS: u64 = 15 * 60;
/// Crockford's base 32: no I, L, O and U, which are read as 1, 1, 0 and a word.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// `GET /v1/accounts`
pub async fn list(State(coordinator): State<Coordinator>) -> ApiResult<Json<Vec<AccountView>>> {
    let accounts = coordinator.store().accounts().await;
    let accounts = accounts.map_err(anyhow::Error::from)?;
    let views = accounts
        .into_iter()
        .map(|record| view(&coordinator, record));
    Ok(Json(views.collect()))
}

/// `POST /v1/accounts`
pub async fn create(
    State(coordinator): State<Coordinator>,
    Parsed(asked): Parsed<AccountRequest>,
) -> ApiResult<Json<AccountView>> {
    let name = named(&asked.name)?;
    let team = asked.team.as_deref().map(named).transpose()?;
    let created = coordinator.store().create_account(name, team).await;
    let record = created.map_err(refused)?;
    // Without the name, which would outlive the account there.
    audit(&coordinator, "account.create", &record.id.to_string()).await?;
    Ok(Json(view(&coordinator, record)))
}

/// `PUT /v1/accounts/{account}/team`
pub async fn team(
    State(coordinator): State<Coordinator>,
    Segments(account): Segments<u64>,
    Parsed(asked): Parsed<TeamRequest>,
) -> ApiResult<Json<AccountView>> {
    let team = asked.team.as_deref().map(named).transpose()?;
    let store = coordinator.store();
    let set = store.set_team(account, team).await;
    let set = set.map_err(anyhow::Error::from)?;
    let accounts = store.accounts().await.map_err(anyhow::Error::from)?;
    let found = accounts.into_iter().find(|found| found.id == account);
    let Some(record) = found.filter(|_| set) else {
        return Err(unknown(account));
    };
    for node in coordinator.fleet().lock().nodes.values_mut() {
        if let Some(owner) = node.account.as_mut().filter(|owner| owner.id == account) {
            owner.team.clone_from(&record.team);
        }
    }
    audit(&coordinator, "account.team", &account.to_string()).await?;
    Ok(Json(view(&coordinator, record)))
}

/// A name of an account or a team, as it is kept.
fn named(name: &str) -> ApiResult<&str> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(ApiError::unacceptable(
            "bad_account",
            "the name of an account or a team has 1 to 100 characters, none of them a control \
             character",
        ));
    }
    Ok(name)
}

fn unknown(account: u64) -> ApiError {
    ApiError::not_found(
        "unknown_account",
        format!("there is no account {account}; `opengpu account list` shows those there are"),
    )
}

/// `DELETE /v1/accounts/{account}`
pub async fn erase(
    State(coordinator): State<Coordinator>,
    Segments(account): Segments<u64>,
) -> ApiResult<Json<()>> {
    let erased = coordinator.store().erase_account(account).await;
    if !erased.map_err(anyhow::Error::from)? {
        return Err(unknown(account));
    }
    for node in coordinator.fleet().lock().nodes.values_mut() {
        node.account.take_if(|owner| owner.id == account);
    }
    audit(&coordinator, "account.erase", &account.to_string()).await?;
    Ok(Json(()))
}

/// `POST /v1/claim-codes`
pub async fn code(
    State(coordinator): State<Coordinator>,
    SignedNode(node): SignedNode,
) -> ApiResult<Json<ClaimCode>> {
    let code = new_code();
    let expires_ms = unix_ms() + CODE_SECONDS * 1000;
    coordinator
        .store()
        .put_claim_code(node, hash_of(&code), expires_ms)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(Json(ClaimCode {
        code,
        expires_in_seconds: CODE_SECONDS,
    }))
}

/// `POST /v1/claims`
pub async fn claim(
    State(coordinator): State<Coordinator>,
    Parsed(asked): Parsed<Claim>,
) -> ApiResult<Json<NodeView>> {
    // Right or wrong: who asks too often learns nothing from the answer.
    coordinator
        .limits()
        .claim()
        .map_err(|wait| ApiError::too_often("codes are entered", wait))?;
    let store = coordinator.store();
    let claimed = store
        .claim_node(hash_of(&asked.plain_code()), &asked.account)
        .await;
    let node = claimed.map_err(refused)?;
    let accounts = store.accounts().await.map_err(anyhow::Error::from)?;
    let owner = accounts
        .into_iter()
        .find(|owner| owner.name == asked.account);
    if let Some(known) = coordinator.fleet().lock().nodes.get_mut(&node) {
        known.account = owner.clone();
    }
    let account = owner.map_or(0, |owner| owner.id);
    audit(
        &coordinator,
        "node.claim",
        &format!("{node} for account {account}"),
    )
    .await?;
    node_view(&coordinator, node)
        .map(Json)
        .ok_or_else(|| super::nodes::unknown(node))
}

async fn audit(coordinator: &Coordinator, action: &str, detail: &str) -> ApiResult<()> {
    let noted = coordinator.store().audit("operator", action, detail).await;
    Ok(noted.map_err(anyhow::Error::from)?)
}

fn view(coordinator: &Coordinator, account: AccountRecord) -> AccountView {
    let memory = coordinator.fleet().lock();
    let owns = |node: &crate::fleet::NodeMemory| {
        node.account
            .as_ref()
            .is_some_and(|owner| owner.id == account.id)
    };
    let nodes = memory.nodes.iter().filter(|(_, node)| owns(node));
    AccountView {
        nodes: nodes.map(|(node, _)| *node).collect(),
        account: account.id,
        name: account.name,
        team: account.team,
        age_seconds: unix_ms().saturating_sub(account.created_ms) / 1000,
    }
}

fn new_code() -> String {
    let bytes: [u8; CODE_LENGTH] = rand::rng().random();
    // 256 is a multiple of 32: every letter is as likely as any other.
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(byte % 32)]);
    bytes.iter().map(letter).collect()
}

/// What is stored of a code, in words that make it the hash of nothing else.
fn hash_of(code: &str) -> Hash {
    Hash::of(format!("opengpu claim code {code}").as_bytes())
}

fn refused(error: AccountError) -> ApiError {
    let message = error.to_string();
    match error {
        AccountError::Taken(_) => ApiError::conflict("account_taken", message),
        AccountError::Unknown(_) => ApiError::not_found("unknown_account", message),
        AccountError::UnknownCode => ApiError::not_found("unknown_code", message),
        AccountError::Store(error) => ApiError::fault(&error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_a_person_writes_it() {
        let code = new_code();
        assert_eq!(code.len(), CODE_LENGTH);
        assert!(code.bytes().all(|letter| ALPHABET.contains(&letter)));
        let plain = |typed: &str| {
            let claim = Claim {
                code: typed.into(),
                account: "alice".into(),
            };
            claim.plain_code()
        };
        assert_eq!(plain(&code), code);
        assert_eq!(plain(" k7q0-m1tb\n"), "K7Q0M1TB");
        assert_eq!(plain("K7QO MLTB"), plain("k7q0mItb"));
        assert_ne!(hash_of("K7Q0M1TB"), hash_of("K7Q0M1TC"));
    }
}
