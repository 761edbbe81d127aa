//! Every answer that is not a success: a status, a code for programs and a sentence for
//! people. A fault of the server tells the client nothing but that; the log has the detail.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opengpu_protocol::wire::ErrorBody;
use opengpu_rounds::{Compared, Refusal};

use crate::limits::TooOften;

/// A refusal or a fault.
#[derive(Debug)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// For a program.
    pub code: String,
    /// For a person.
    pub message: String,
    /// Seconds after which the same request may succeed.
    pub retry_after: Option<u64>,
    /// The numbers, where what refused it is a comparison.
    pub compared: Option<Compared>,
}

/// What the log and the metrics know about a refusal once the answer is built.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The code of the answer.
    pub code: String,
    /// Its sentence.
    pub message: String,
}

/// A handler's answer.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error of any status.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            retry_after: None,
            compared: None,
        }
    }
    /// The same, with the numbers that its check compared.
    pub fn comparing(mut self, measured: u64, allowed: u64) -> Self {
        self.compared = Some(Compared { measured, allowed });
        self
    }
    /// 400: the request is no request.
    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }
    /// 401: who asks is unknown.
    pub fn unauthorised(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }
    /// 403: who asks may not.
    pub fn forbidden(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }
    /// 404: there is no such thing.
    pub fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }
    /// 409: not in this state.
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }
    /// 413: more bytes than allowed.
    pub fn too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the request's body is larger than the {limit} bytes allowed here"),
        )
    }
    /// 422: well-formed, but not acceptable.
    pub fn unacceptable(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }
    /// 429: too many requests.
    pub fn too_many(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        error.retry_after = Some(1);
        error
    }
    /// 429, with how long to wait.
    pub fn too_often(what: &str, wait: TooOften) -> Self {
        let seconds = wait.seconds();
        let mut error = Self::too_many(format!(
            "{what} more often than this coordinator allows; ask again in {seconds} s"
        ));
        error.retry_after = Some(seconds);
        error
    }
    /// 503: not now; the same request may succeed later.
    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        error.retry_after = Some(1);
        error
    }
    /// 500, logged here with its cause.
    pub fn fault(error: &anyhow::Error) -> Self {
        tracing::error!(
            error = format!("{error:#}"),
            "a request failed by the server's fault"
        );
        if is_disk_full(error) {
            return Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk_full",
                "the coordinator's disk is full; make room in its home folder, then the same \
                 request will do",
            );
        }
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_fault",
            "the coordinator could not do this; its log says why. Trying again does no harm",
        )
    }
}

/// Whether some cause of an error is that a disk, or the database on it, is full.
fn is_disk_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| matches!(io.kind(), StorageFull | QuotaExceeded))
            // SQLite's own words for its error SQLITE_FULL.
            || cause.to_string().contains("database or disk is full")
    })
}

/// What a run refused, as a conflict with its state.
impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let mut error = Self::conflict(refusal.code, refusal.message);
        error.compared = refusal.compared;
        error
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        Self::fault(&error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let refused = Refused {
            code: self.code.clone(),
            message: self.message.clone(),
        };
        let body = ErrorBody {
            code: self.code,
            message: self.message,
            measured: self.compared.map(|compared| compared.measured),
            allowed: self.compared.map(|compared| compared.allowed),
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer, OpenGPU-Signature"),
            );
        }
        response.extensions_mut().insert(refused);
        response
    }
}
