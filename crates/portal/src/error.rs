//! Errors become pages here, and nowhere else.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use crate::pages::{ErrorPage, Frame};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PortalError {
    /// No run of that number.
    #[error("there is no run {0}")]
    UnknownRun(String),
    /// No file of that name.
    #[error("there is no file {0}")]
    UnknownAsset(String),
    /// As many event streams are open as one server keeps.
    #[error("{0} live pages are open already, the most this server keeps; try again in a minute")]
    TooManyStreams(usize),
    /// A template failed, which is a fault of ours.
    #[error("a page could not be rendered")]
    Render(#[from] askama::Error),
}

impl PortalError {
    fn status(&self) -> StatusCode {
        match self {
            Self::UnknownRun(_) | Self::UnknownAsset(_) => StatusCode::NOT_FOUND,
            Self::TooManyStreams(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Render(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for PortalError {
    fn into_response(self) -> Response {
        let status = self.status();
        if let Self::Render(source) = &self {
            tracing::error!(code = "render", error = %source, "a page could not be rendered");
        }
        let page = ErrorPage {
            frame: Frame::new(status.canonical_reason().unwrap_or("Error")),
            status: status.as_u16(),
            message: format!("{self}."),
        };
        let body = askama::Template::render(&page).unwrap_or_else(|_| format!("{self}."));
        (status, Html(body)).into_response()
    }
}
