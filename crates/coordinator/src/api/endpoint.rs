//! What one endpoint is: its address, who may call it, how much it may send, and the words
//! that the OpenAPI document says about it. The router and the document are both made from
//! these values, so that no endpoint exists without either.

use std::time::Duration;

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{MethodRouter, on};

use crate::Coordinator;

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// A node, by signature.
    Node,
    /// The operator, by token.
    Operator,
    /// Either.
    NodeOrOperator,
}

/// What an endpoint does with the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// There is none.
    Empty,
    /// JSON of at most so many bytes.
    Json(usize),
    /// An update's payload, which the handler reads and bounds: its address names its hash,
    /// so that a node's signature is checked before it is read.
    Payload,
    /// Passed through as it arrives; the handler bounds it. For the operator only: a node's
    /// signature needs the hash of the body.
    Streamed,
}

/// What a request counts as where nobody proves who he is: each has a limit for each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// A request for something that is open to anyone.
    Open,
    /// An enrolment.
    Enrolment,
    /// A poll of a program that looks after this one.
    Probe,
    /// Nothing: it is answered always.
    Nothing,
}

/// One endpoint.
#[derive(Clone)]
pub struct Endpoint {
    /// HTTP method.
    pub method: Method,
    /// Path with its parameters in braces.
    pub path: &'static str,
    /// Who may call.
    pub access: Access,
    /// What is read of the body.
    pub body: BodyRule,
    /// One sentence.
    pub summary: &'static str,
    /// Name of the request's type, if there is a body.
    pub request: Option<&'static str>,
    /// Name of the answer's type, or a media type.
    pub answer: &'static str,
    /// Query parameters.
    pub query: &'static [&'static str],
    /// Longest time until the answer begins.
    pub within: Duration,
    /// Whether a node that waits for approval may call.
    pub pending: bool,
    /// Whether a node that is banned may call.
    pub banned: bool,
    /// What a request counts as, if anyone may call.
    pub counts: Counts,
    /// The function.
    pub route: MethodRouter<Coordinator>,
}

impl Endpoint {
    fn new<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Coordinator>,
        T: 'static,
    {
        // The methods in use are a handful, all of which axum knows.
        let filter = match method {
            Method::PUT => axum::routing::MethodFilter::PUT,
            Method::POST => axum::routing::MethodFilter::POST,
            Method::DELETE => axum::routing::MethodFilter::DELETE,
            _ => axum::routing::MethodFilter::GET,
        };
        Self {
            method,
            path,
            access,
            body: BodyRule::Empty,
            summary: "",
            request: None,
            answer: "application/json",
            query: &[],
            within: Duration::from_secs(60),
            pending: false,
            banned: false,
            counts: Counts::Open,
            route: on(filter, handler),
        }
    }

    /// A `GET`.
    pub fn get<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Coordinator>,
        T: 'static,
    {
        Self::new(Method::GET, path, access, handler)
    }
    /// A `PUT`.
    pub fn put<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Coordinator>,
        T: 'static,
    {
        Self::new(Method::PUT, path, access, handler)
    }
    /// A `POST`.
    pub fn post<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Coordinator>,
        T: 'static,
    {
        Self::new(Method::POST, path, access, handler)
    }
    /// A `DELETE`.
    pub fn delete<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Coordinator>,
        T: 'static,
    {
        Self::new(Method::DELETE, path, access, handler)
    }

    /// What it does, in one sentence.
    pub fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }
    /// JSON of this type and of at most so many bytes is expected.
    pub fn reads(mut self, request: &'static str, limit: usize) -> Self {
        self.request = Some(request);
        self.body = BodyRule::Json(limit);
        self
    }
    /// Bytes are expected.
    pub fn reads_bytes(mut self, rule: BodyRule) -> Self {
        self.request = Some("application/octet-stream");
        self.body = rule;
        self
    }
    /// The type of the answer, or its media type.
    pub fn answers(mut self, answer: &'static str) -> Self {
        self.answer = answer;
        self
    }
    /// The answer may take this long to begin; a minute where nothing is said.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
    /// Nodes that wait for approval may call, too.
    pub fn for_pending(mut self) -> Self {
        self.pending = true;
        self
    }
    /// Nodes that wait for approval or are banned may call, too.
    pub fn for_whoever_signs(mut self) -> Self {
        self.pending = true;
        self.banned = true;
        self
    }
    /// A request counts as this, if anyone may call.
    pub fn counts(mut self, counts: Counts) -> Self {
        self.counts = counts;
        self
    }
    /// Parameters after the question mark.
    pub fn asks(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }
}

/// The template of the route that a request matched, for logs and metrics.
pub fn matched_path(request: &Request) -> String {
    request
        .extensions()
        .get::<axum::extract::MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned())
}

/// An answer and the route it came from.
pub type Answer = Response;
