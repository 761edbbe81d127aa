//! Enrolment tokens: made, listed, revoked.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::operator::{TokenMade, TokenRequest, TokenState, TokenView};
use opengpu_rounds::Hash;

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments};
use crate::Coordinator;
use crate::clock::unix_ms;
use crate::store::TokenRecord;

/// Longest life of a token, ten years. Who wants one for ever says so by giving no time.
const LONGEST_SECONDS: u64 = 10 * 365 * 86_400;

/// `POST /v1/tokens`
pub async fn make(
    State(coordinator): State<Coordinator>,
    Parsed(asked): Parsed<TokenRequest>,
) -> ApiResult<Json<TokenMade>> {
    let seconds = asked.expires_in_seconds;
    if asked.uses == 0
        || asked.label.chars().count() > 100
        || seconds.is_some_and(|seconds| seconds == 0 || seconds > LONGEST_SECONDS)
    {
        return Err(ApiError::unacceptable(
            "bad_token_request",
            format!(
                "a token needs at least 1 use (not {}), a label of at most 100 characters, and \
                 expires after 1 to {LONGEST_SECONDS} seconds or never",
                asked.uses
            ),
        ));
    }
    let token = crate::home::new_token();
    let hash = Hash::of(token.as_bytes());
    let expires_ms = seconds.map(|seconds| unix_ms() + seconds * 1000);
    let store = coordinator.store();
    store
        .create_token(hash, &asked.label, Some(asked.uses), expires_ms)
        .await
        .map_err(anyhow::Error::from)?;
    let life = seconds.map_or_else(
        || "for ever".to_owned(),
        |seconds| format!("for {seconds} s"),
    );
    let detail = format!("{hash} {:?}, {} uses, {life}", asked.label, asked.uses);
    store
        .audit("operator", "token.make", &detail)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(Json(TokenMade { token, hash }))
}

/// `GET /v1/tokens`
pub async fn list(State(coordinator): State<Coordinator>) -> ApiResult<Json<Vec<TokenView>>> {
    let tokens = coordinator.store().tokens().await;
    let tokens = tokens.map_err(anyhow::Error::from)?;
    let now_ms = unix_ms();
    Ok(Json(
        tokens
            .into_iter()
            .map(|token| view(token, now_ms))
            .collect(),
    ))
}

/// `DELETE /v1/tokens/{hash}`
pub async fn revoke(
    State(coordinator): State<Coordinator>,
    Segments(hash): Segments<Hash>,
) -> ApiResult<Json<()>> {
    let store = coordinator.store();
    if !store
        .revoke_token(hash)
        .await
        .map_err(anyhow::Error::from)?
    {
        return Err(ApiError::not_found(
            "unknown_token",
            format!(
                "there is no token with the hash {hash}; `opengpu node token list` shows those \
                 there are"
            ),
        ));
    }
    store
        .audit("operator", "token.revoke", &hash.to_string())
        .await
        .map_err(anyhow::Error::from)?;
    Ok(Json(()))
}

fn view(token: TokenRecord, now_ms: u64) -> TokenView {
    let state = if token.revoked_ms.is_some() {
        TokenState::Revoked
    } else if token.expires_ms.is_some_and(|expires| expires <= now_ms) {
        TokenState::Expired
    } else if token.uses.is_some_and(|uses| token.used >= uses) {
        TokenState::UsedUp
    } else {
        TokenState::Open
    };
    TokenView {
        hash: token.hash,
        label: token.label,
        state,
        uses: token.uses,
        used: token.used,
        age_seconds: now_ms.saturating_sub(token.created_ms) / 1000,
        expires_in_seconds: token
            .expires_ms
            .map(|expires| expires.saturating_sub(now_ms) / 1000),
    }
}
