//! Enrolment tokens.

use axum::Json;
use axum::extract::State;
use opengpu_protocol::operator::{TokenMade, TokenRequest};
use opengpu_rounds::Hash;

use super::error::{ApiError, ApiResult};
use super::extract::Parsed;
use crate::Coordinator;

/// `POST /v1/tokens`
pub async fn make(
    State(coordinator): State<Coordinator>,
    Parsed(asked): Parsed<TokenRequest>,
) -> ApiResult<Json<TokenMade>> {
    if asked.uses == 0 || asked.label.chars().count() > 100 {
        return Err(ApiError::unacceptable(
            "bad_token_request",
            format!(
                "a token needs at least 1 use (not {}) and a label of at most 100 characters",
                asked.uses
            ),
        ));
    }
    let token = crate::home::new_token();
    let hash = Hash::of(token.as_bytes());
    let store = coordinator.store();
    store
        .create_token(hash, &asked.label, Some(asked.uses))
        .await
        .map_err(anyhow::Error::from)?;
    let detail = format!("{:?}, {} uses", asked.label, asked.uses);
    store
        .audit("operator", "token.make", &detail)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(Json(TokenMade { token }))
}
