//! How handlers read a request. Bodies were read, bounded and verified by the gate; what is
//! left is to parse them, and to refuse in this API's own words.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use opengpu_rounds::{Hash, NodeId};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Who calls, as the gate found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anyone,
    /// A node.
    Node(NodeId),
    /// The operator.
    Operator,
}

/// The body as the gate read it.
#[derive(Clone, Debug, Default)]
pub struct Buffered(pub Bytes);

/// The calling node.
#[derive(Clone, Copy, Debug)]
pub struct SignedNode(pub NodeId);

impl<S: Send + Sync> FromRequestParts<S> for SignedNode {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<Caller>() {
            Some(Caller::Node(node)) => Ok(Self(*node)),
            _ => Err(unsigned()),
        }
    }
}

/// The key with which the calling node signed.
#[derive(Clone, Copy, Debug)]
pub struct SignedWith(pub Hash);

impl<S: Send + Sync> FromRequestParts<S> for SignedWith {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get().copied().ok_or_else(unsigned)
    }
}

fn unsigned() -> ApiError {
    ApiError::unauthorised("unsigned", "this request must be signed by a node")
}

/// The caller, whoever it is.
#[derive(Clone, Copy, Debug)]
pub struct Called(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for Called {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(
            parts.extensions.get().copied().unwrap_or(Caller::Anyone),
        ))
    }
}

/// Parameters in the path.
#[derive(Clone, Debug)]
pub struct Segments<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::not_found("bad_path", error.body_text())),
        }
    }
}

/// Parameters after the question mark.
#[derive(Clone, Debug)]
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::bad_request("bad_query", error.body_text())),
        }
    }
}

/// The body as bytes.
#[derive(Clone, Debug)]
pub struct Content(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Content {
    type Rejection = ApiError;
    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(
            request
                .extensions()
                .get::<Buffered>()
                .cloned()
                .unwrap_or_default()
                .0,
        ))
    }
}

/// The body as JSON.
#[derive(Clone, Debug)]
pub struct Parsed<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Parsed<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Content(body) = Content::from_request(request, state).await?;
        parse(&body).map(Self)
    }
}

/// A body as JSON.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(error) if error.is_data() => Err(ApiError::unacceptable(
            "bad_body",
            format!("the body is JSON, but not what this address takes: {error}"),
        )),
        Err(error) => Err(ApiError::bad_request(
            "not_json",
            format!("the body is not JSON: {error}"),
        )),
    }
}
