//! What every request passes before its handler: who is it, may it, and is its body within
//! bounds. The cheap questions come first; the body is read only for a caller that is known,
//! and never past its limit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use opengpu_protocol::signing::{COUNTER_TOO_LOW, SignatureRefusal, SignedHeaders};
use opengpu_rounds::{Hash, NodeId};

use super::endpoint::{Access, BodyRule, Counts, matched_path};
use super::error::{ApiError, Refused};
use super::extract::{Buffered, Caller, SignedWith};
use crate::Coordinator;
use crate::connections::Seat;
use crate::metrics::{CodeLabel, RequestLabels};

/// Longest wait for the next piece of a body.
pub const STALL: Duration = Duration::from_secs(30);
/// Longest time for a whole body that is held in memory.
const WHOLE: Duration = Duration::from_secs(120);

/// Where updates come in: what is refused there is counted by its code.
const UPDATES: [&str; 2] = ["/v1/runs/{run}/payloads/{hash}", "/v1/runs/{run}/updates"];

/// The rule of one endpoint.
#[derive(Clone)]
pub struct Gate {
    /// The server.
    pub coordinator: Coordinator,
    /// Who may call.
    pub access: Access,
    /// What may be sent.
    pub body: BodyRule,
    /// Longest time until the handler's answer begins.
    pub within: Duration,
    /// Whether a node that waits for approval may call.
    pub pending: bool,
    /// Whether a node that is banned may call.
    pub banned: bool,
    /// What a request counts as, if anyone may call.
    pub counts: Counts,
}

/// Middleware of one endpoint.
pub async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let address = address_of(&request);
    let request = match admit(&gate, request).await {
        Ok(request) => request,
        Err(response) => return refusal(&gate.coordinator, address, response),
    };
    match tokio::time::timeout(gate.within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::unavailable(
            "timeout",
            format!(
                "the coordinator did not answer within {} s",
                gate.within.as_secs()
            ),
        )
        .into_response(),
    }
}

/// Where a request comes from, as far as this machine can see.
fn address_of(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip())
}

/// The answer to a caller that was not admitted. One that proved nothing is answered in full
/// as often as its address may be refused, and then told to wait: honest callers at that
/// address are admitted all the same, and the log is not for strangers to fill.
fn refusal(coordinator: &Coordinator, address: IpAddr, response: Response) -> Response {
    let refused = response.extensions().get::<Refused>();
    let code = refused.map_or("", |refused| refused.code.as_str());
    // Anyone can say to be a banned node; a counter is looked at after the signature.
    let unproved = response.status() == StatusCode::UNAUTHORIZED || code == "banned";
    if !unproved || code == COUNTER_TOO_LOW {
        return response;
    }
    match coordinator.limits().refusal(address) {
        Ok(()) => response,
        Err(wait) => {
            ApiError::too_often("requests were refused to your address", wait).into_response()
        }
    }
}

/// Outermost middleware: counts and logs every answer, refusals once with their code.
pub async fn record(
    State(coordinator): State<Coordinator>,
    request: Request,
    next: Next,
) -> Response {
    let route = matched_path(&request);
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    coordinator
        .metrics()
        .requests
        .get_or_create(&RequestLabels {
            route: route.clone(),
            status,
        })
        .inc();
    let refused = response.extensions().get::<Refused>();
    if let Some(refused) = refused
        && response.status().is_client_error()
        && UPDATES.contains(&route.as_str())
    {
        let code = refused.code.clone();
        let updates_refused = &coordinator.metrics().updates_refused;
        updates_refused.get_or_create(&CodeLabel { code }).inc();
    }
    match refused {
        Some(refused) if status == StatusCode::TOO_MANY_REQUESTS => {
            tracing::debug!(%method, route, status, code = refused.code, message = refused.message, "refused");
        }
        Some(refused) => {
            tracing::info!(%method, route, status, code = refused.code, message = refused.message, "refused");
        }
        None => tracing::debug!(%method, route, status, "answered"),
    }
    response
}

async fn admit(gate: &Gate, request: Request) -> Result<Request, Response> {
    let signed = request
        .headers()
        .contains_key(opengpu_protocol::signing::SIGNATURE_HEADER);
    match gate.access {
        Access::Open => {
            may_anyone_ask(&gate.coordinator, gate.counts, address_of(&request))
                .map_err(IntoResponse::into_response)?;
            let (mut parts, body) = request.into_parts();
            hold(gate, &mut parts, body).await?;
            parts.extensions.insert(Caller::Anyone);
            Ok(Request::from_parts(parts, Body::empty()))
        }
        Access::Node => admit_node(gate, request).await,
        Access::NodeOrOperator if signed => admit_node(gate, request).await,
        Access::NodeOrOperator | Access::Operator => admit_operator(gate, request).await,
    }
}

async fn admit_operator(gate: &Gate, request: Request) -> Result<Request, Response> {
    let (mut parts, body) = request.into_parts();
    let token = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        let error = ApiError::unauthorised(
            "no_token",
            "this address is for the operator: send `Authorization: Bearer` with the token \
             from the file operator.token in the coordinator's home",
        );
        return Err(error.into_response());
    };
    if !gate.coordinator.is_operator(token) {
        let error = ApiError::unauthorised(
            "wrong_token",
            "this is not the operator's token; it is in the file operator.token in the \
             coordinator's home",
        );
        return Err(error.into_response());
    }
    prove(&parts);
    parts.extensions.insert(Caller::Operator);
    if gate.body == BodyRule::Streamed {
        return Ok(Request::from_parts(parts, body));
    }
    hold(gate, &mut parts, body).await?;
    Ok(Request::from_parts(parts, Body::empty()))
}

async fn admit_node(gate: &Gate, request: Request) -> Result<Request, Response> {
    let (mut parts, body) = request.into_parts();
    let get = |name| parts.headers.get(name)?.to_str().ok();
    let headers = SignedHeaders::read(get).map_err(|refusal| refuse(&refusal))?;
    let named = SignedHeaders::named_key(get).map_err(|refusal| refuse(&refusal))?;
    headers
        .check_clock(crate::clock::unix_ms())
        .map_err(|refusal| refuse(&refusal))?;
    let nodes = gate.coordinator.signatures();
    let keys = nodes
        .keys_of(headers.node, named, gate.banned)
        .map_err(IntoResponse::into_response)?;
    let (hash, body) = match gate.body {
        // A payload's address names its hash, so that the signature is checked before a byte
        // of it is read. The handler sees that the bytes are those.
        BodyRule::Payload => {
            let hash = hash_in(parts.uri.path()).map_err(IntoResponse::into_response)?;
            (hash, body)
        }
        _ => {
            let held = hold(gate, &mut parts, body).await?;
            (Hash::of(&held), Body::empty())
        }
    };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let key = signer(&headers, &keys, parts.method.as_str(), path, &hash)
        .map_err(|refusal| refuse(&refusal))?;
    if !nodes.is_live(headers.node, &key) {
        return Err(refuse(&SignatureRefusal::Revoked));
    }
    match nodes.admit(headers.node, headers.counter).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return Err(refuse(&refusal)),
        Err(error) => return Err(ApiError::fault(&error).into_response()),
    }
    prove(&parts);
    may_ask(&gate.coordinator, headers.node).map_err(IntoResponse::into_response)?;
    if !gate.pending && nodes.is_pending(headers.node) {
        return Err(not_approved(headers.node).into_response());
    }
    parts.extensions.insert(SignedWith(key));
    parts.extensions.insert(Caller::Node(headers.node));
    Ok(Request::from_parts(parts, body))
}

/// Middleware of what is no endpoint: pages, and addresses that are unknown.
pub async fn pass_anyone(
    State(coordinator): State<Coordinator>,
    request: Request,
    next: Next,
) -> Response {
    match may_anyone_ask(&coordinator, Counts::Open, address_of(&request)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Refuses an address from which too much is asked by nobody in particular.
fn may_anyone_ask(
    coordinator: &Coordinator,
    counts: Counts,
    address: IpAddr,
) -> Result<(), ApiError> {
    let limits = coordinator.limits();
    let (counted, what) = match counts {
        Counts::Nothing => return Ok(()),
        Counts::Open => (limits.open_request(address), "your address sends requests"),
        Counts::Enrolment => (limits.enrolment(address), "your address enrols machines"),
        Counts::Probe => (
            limits.probe(address),
            "your address asks how this server is",
        ),
    };
    counted.map_err(|wait| ApiError::too_often(what, wait))
}

/// Refuses a node that asks too often, alone or with the others of its account.
fn may_ask(coordinator: &Coordinator, node: NodeId) -> Result<(), ApiError> {
    let limits = coordinator.limits();
    limits
        .request(node)
        .map_err(|wait| ApiError::too_often(&format!("node {node} sends requests"), wait))?;
    let account = coordinator.fleet().lock().account_of(node);
    let Some(account) = account else {
        return Ok(());
    };
    limits
        .account_request(account)
        .map_err(|wait| ApiError::too_often("the nodes of your account send requests", wait))
}

/// Tells the connection that whoever speaks over it has proved who they are, so that it keeps its
/// place when there are more connections than places.
fn prove(parts: &Parts) {
    if let Some(seat) = parts.extensions.get::<Seat>() {
        seat.prove();
    }
}

/// Which of these keys made the signature.
fn signer(
    headers: &SignedHeaders,
    keys: &[Hash],
    method: &str,
    path: &str,
    body: &Hash,
) -> Result<Hash, SignatureRefusal> {
    let mut refusal = SignatureRefusal::BadSignature;
    for key in keys {
        match headers.verify(key, method, path, body) {
            Ok(()) => return Ok(*key),
            Err(other) => refusal = other,
        }
    }
    Err(refusal)
}

fn not_approved(node: NodeId) -> ApiError {
    ApiError::forbidden(
        "not_approved",
        format!(
            "node {node} gets no work until the operator of this coordinator approves it, with \
             `opengpu node approve {node}`"
        ),
    )
}

/// The hash that ends `/v1/runs/{run}/payloads/{hash}`.
fn hash_in(path: &str) -> Result<Hash, ApiError> {
    let hash = path.rsplit('/').next().and_then(|hash| hash.parse().ok());
    hash.ok_or_else(|| ApiError::not_found("bad_path", "the address does not end in a hash"))
}

/// Reads the body up to the limit of its address and keeps it with the request.
async fn hold(gate: &Gate, parts: &mut Parts, body: Body) -> Result<Bytes, Response> {
    let limit = match gate.body {
        BodyRule::Json(limit) => limit,
        BodyRule::Empty | BodyRule::Streamed | BodyRule::Payload => 0,
    };
    let body = read(&parts.headers, body, limit)
        .await
        .map_err(IntoResponse::into_response)?;
    let metrics = gate.coordinator.metrics();
    metrics.received_bytes.inc_by(body.len() as u64);
    parts.extensions.insert(Buffered(body.clone()));
    Ok(body)
}

fn refuse(refusal: &SignatureRefusal) -> Response {
    let error = match refusal {
        SignatureRefusal::TooLong => ApiError::bad_request(refusal.code(), refusal.to_string()),
        _ => ApiError::unauthorised(refusal.code(), refusal.to_string()),
    };
    let mut response = error.into_response();
    if let Some((name, value)) = refusal.mending_header() {
        response
            .headers_mut()
            .insert(name, HeaderValue::from(value));
    }
    response
}

/// The length that the request states for its body.
pub fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `limit` bytes, refusing a longer one before it is held and one that
/// arrives too slowly.
async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    if declared_length(headers).is_some_and(|bytes| bytes > limit as u64) {
        return Err(ApiError::too_large(limit as u64));
    }
    match tokio::time::timeout(WHOLE, read_pieces(body, limit)).await {
        Ok(read) => read,
        Err(_) => Err(stalled(format!(
            "the request's body took longer than {} s",
            WHOLE.as_secs()
        ))),
    }
}

fn stalled(message: String) -> ApiError {
    ApiError::bad_request("stalled", message)
}

async fn read_pieces(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let piece = tokio::time::timeout(STALL, stream.next())
            .await
            .map_err(|_| {
                stalled(format!(
                    "nothing of the request's body arrived for {} s",
                    STALL.as_secs()
                ))
            })?;
        match piece {
            None => return Ok(whole.freeze()),
            Some(Ok(piece)) if whole.len() + piece.len() > limit => {
                return Err(ApiError::too_large(limit as u64));
            }
            Some(Ok(piece)) => whole.extend_from_slice(&piece),
            Some(Err(error)) => {
                return Err(ApiError::bad_request(
                    "broken_body",
                    format!("the body broke off: {error}"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use futures::stream;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_small_body_that_dribbles_is_waited_for_two_minutes() {
        let began = Instant::now();
        let dribble = Body::from_stream(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Some((Ok::<_, std::convert::Infallible>("7"), ()))
        }));
        let read = read(&HeaderMap::new(), dribble, 16 * 1024).await;
        assert_eq!(read.unwrap_err().code, "stalled");
        assert_eq!(began.elapsed().as_secs(), WHOLE.as_secs());
    }
}
