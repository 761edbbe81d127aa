//! One request: address, authorisation, timeout, attempts. Everything typed is built on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use opengpu_rounds::Hash;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{Authorisation, Client, ClientError};
use crate::signing::{self, CLOCK_HEADER, COUNTER_FLOOR_HEADER};
use crate::wire::ErrorBody;

/// Largest JSON answer that is read.
const JSON_LIMIT: u64 = 64 << 20;
/// Largest body of a refusal that is read.
const ERROR_LIMIT: u64 = 64 << 10;
/// Attempts of a request that may be repeated.
const ATTEMPTS: u32 = 5;
/// Attempts beyond those, to mend clock and counter.
const MENDS: u32 = 3;
/// The slowest link that a transfer's time limit allows for.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;

/// A request about to be sent.
pub(super) struct Call {
    /// Completes "could not …".
    pub operation: String,
    pub method: Method,
    /// With query.
    pub path: String,
    pub body: Bytes,
    pub content_type: &'static str,
    pub timeout: Option<Duration>,
    /// Whether doing it twice does no more than doing it once.
    pub idempotent: bool,
    pub range_from: Option<u64>,
    pub attempts: u32,
}

impl Call {
    pub(super) fn get(operation: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            method: Method::GET,
            path: path.into(),
            body: Bytes::new(),
            content_type: "application/json",
            timeout: Some(Duration::from_secs(30)),
            idempotent: true,
            range_from: None,
            attempts: ATTEMPTS,
        }
    }

    pub(super) fn json(
        operation: impl Into<String>,
        method: Method,
        path: impl Into<String>,
        body: &impl serde::Serialize,
    ) -> Self {
        // The wire types are plain structs with string keys, which always serialise.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self {
            method,
            body: body.into(),
            ..Self::get(operation, path)
        }
    }

    pub(super) fn bytes(
        operation: impl Into<String>,
        path: impl Into<String>,
        body: Bytes,
    ) -> Self {
        let seconds = 30 + body.len() as u64 / SLOWEST_BYTES_PER_SECOND;
        Self {
            method: Method::PUT,
            body,
            content_type: "application/octet-stream",
            timeout: Some(Duration::from_secs(seconds)),
            ..Self::get(operation, path)
        }
    }

    pub(super) fn once(self) -> Self {
        Self {
            idempotent: false,
            ..self
        }
    }

    pub(super) fn patient(self, seconds: u64) -> Self {
        Self {
            timeout: Some(Duration::from_secs(seconds)),
            ..self
        }
    }
}

/// A wait before attempt `attempt` (from 1): drawn evenly from zero to a bound that doubles
/// ("full jitter"), so that clients cut off together do not come back together.
pub fn full_jitter(attempt: u32, base: Duration, cap: Duration) -> Duration {
    let bound = base
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(cap);
    bound.mul_f64(rand::random::<f64>())
}

impl Client {
    /// Sends until there is a success, a final refusal, or no attempt left.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, ClientError> {
        let (mut attempt, mut mends) = (1, 0);
        let body_hash = Hash::of(&call.body);
        loop {
            let outcome = self.attempt(call, &body_hash).await;
            let (error, wait) = match outcome {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let (mended, retry_after) = (self.mend(&response), retry_after(&response));
                    let status = response.status();
                    let error = refusal(call, response).await;
                    // A refused signature did nothing, so even a request that must not be
                    // repeated may be sent again.
                    if mended && mends < MENDS {
                        mends += 1;
                        continue;
                    }
                    let passing = matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS
                            | StatusCode::BAD_GATEWAY
                            | StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::GATEWAY_TIMEOUT
                    );
                    if !passing {
                        return Err(error);
                    }
                    (error, retry_after)
                }
                Err(source) => {
                    let safe = call.idempotent || source.is_connect();
                    let server = self.server().to_owned();
                    let operation = call.operation.clone();
                    let error = ClientError::Unreachable {
                        operation,
                        server,
                        source,
                    };
                    if !safe {
                        return Err(error);
                    }
                    (error, None)
                }
            };
            if attempt >= call.attempts || !call.idempotent {
                return Err(error);
            }
            let jitter = full_jitter(attempt, Duration::from_millis(200), Duration::from_secs(5));
            tokio::time::sleep(wait.map_or(jitter, |wait| wait + jitter)).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, call: &Call, body_hash: &Hash) -> Result<Response, reqwest::Error> {
        let url = format!("{}{}", self.inner.server, call.path);
        let mut request = self.inner.http.request(call.method.clone(), url);
        if let Some(timeout) = call.timeout {
            request = request.timeout(timeout);
        }
        if !call.body.is_empty() {
            let bytes = call.body.len() as u64;
            self.inner.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            request = request
                .header("content-type", call.content_type)
                .body(call.body.clone());
        }
        if let Some(from) = call.range_from {
            request = request.header("range", format!("bytes={from}-"));
        }
        match &self.inner.authorisation {
            Authorisation::None => {}
            Authorisation::Operator(token) => request = request.bearer_auth(token),
            Authorisation::Node { key, node } => {
                let (method, path) = (call.method.as_str(), call.path.as_str());
                let (now, counter) = (self.inner.clock.now_ms(), self.inner.clock.next_counter());
                let signed = signing::sign(key, *node, method, path, body_hash, now, counter);
                for (name, value) in signed.pairs() {
                    request = request.header(name, value);
                }
                request = request.header(signing::KEY_HEADER, signing::public_key(key).to_string());
            }
        }
        request.send().await
    }

    /// Takes clock and counter from a refusal; whether that gives hope for another attempt.
    fn mend(&self, response: &Response) -> bool {
        let number = |name| {
            response
                .headers()
                .get(name)?
                .to_str()
                .ok()?
                .parse::<u64>()
                .ok()
        };
        let mut mended = false;
        if let Some(unix_ms) = number(CLOCK_HEADER) {
            self.inner.clock.learn_time(unix_ms);
            mended = true;
        }
        if let Some(floor) = number(COUNTER_FLOOR_HEADER) {
            self.inner.clock.raise_counter(floor);
            mended = true;
        }
        mended
    }

    /// Sends and reads a JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        call: &Call,
        expected: &'static str,
    ) -> Result<T, ClientError> {
        let response = self.send(call).await?;
        let body = self.read(&call.operation, response, JSON_LIMIT).await?;
        serde_json::from_slice(&body).map_err(|source| ClientError::BadAnswer {
            operation: call.operation.clone(),
            server: self.server().to_owned(),
            expected,
            source,
        })
    }

    /// The body of the answer as it is, of at most `limit` bytes.
    pub(super) async fn bytes(&self, call: &Call, limit: u64) -> Result<Vec<u8>, ClientError> {
        let response = self.send(call).await?;
        self.read(&call.operation, response, limit).await
    }

    /// Sends; any success will do.
    pub(super) async fn done(&self, call: &Call) -> Result<(), ClientError> {
        self.send(call).await.map(drop)
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) async fn read(
        &self,
        operation: &str,
        mut response: Response,
        limit: u64,
    ) -> Result<Vec<u8>, ClientError> {
        let too_large = || ClientError::TooLarge {
            operation: operation.to_owned(),
            limit,
        };
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        loop {
            let chunk = response
                .chunk()
                .await
                .map_err(|source| ClientError::Unreachable {
                    operation: operation.to_owned(),
                    server: self.server().to_owned(),
                    source,
                })?;
            let Some(chunk) = chunk else { return Ok(body) };
            self.count_received(chunk.len());
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds: u64 = response
        .headers()
        .get("retry-after")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

/// The refusal as the coordinator words it, or the status if something else answered.
async fn refusal(call: &Call, mut response: Response) -> ClientError {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if (body.len() + chunk.len()) as u64 > ERROR_LIMIT {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let said = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorBody {
        code: "no_coordinator".to_owned(),
        message: format!(
            "{} (the answer is not a coordinator's; is this the right address?)",
            status.canonical_reason().unwrap_or("unknown status")
        ),
        measured: None,
        allowed: None,
    });
    ClientError::Refused {
        operation: call.operation.clone(),
        status: status.as_u16(),
        code: said.code,
        message: said.message,
    }
}
