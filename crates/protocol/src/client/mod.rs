//! The HTTP client of agent, command line, portal and tests: one method for each endpoint,
//! with time limits, and repetition with full jitter where a request may be repeated.

mod agent;
mod blobs;
mod clock;
mod directives;
mod error;
mod identity;
mod lines;
mod operator;
mod send;
mod standing;
mod sums;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use opengpu_rounds::NodeId;
use reqwest::Url;

use clock::Clock;

pub use directives::Directives;
pub use error::ClientError;
pub use lines::{LineTooLong, Lines};
pub use send::full_jitter;

/// A coordinator, and as whom to speak to it. Cheap to clone; clones share connections,
/// clock and counter.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    /// Without a slash at the end.
    server: String,
    authorisation: Authorisation,
    clock: Clock,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// Bytes of request and answer bodies so far, without headers and encryption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the coordinator, each attempt counted.
    pub sent_bytes: u64,
    /// From the coordinator.
    pub received_bytes: u64,
}

enum Authorisation {
    None,
    Operator(String),
    Node { key: Box<SigningKey>, node: NodeId },
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = match &self.inner.authorisation {
            Authorisation::None => "nobody".to_owned(),
            Authorisation::Operator(_) => "operator".to_owned(),
            Authorisation::Node { node, .. } => format!("node {node}"),
        };
        write!(f, "Client({} as {who})", self.inner.server)
    }
}

impl Client {
    /// For `hello`, enrolment and what is open to all.
    pub fn anonymous(server: &str) -> Result<Self, ClientError> {
        Self::build(server, Authorisation::None)
    }

    /// As the operator, with the token in the coordinator's file `operator.token`.
    pub fn operator(server: &str, token: &str) -> Result<Self, ClientError> {
        Self::build(server, Authorisation::Operator(token.trim().to_owned()))
    }

    /// As an enrolled node: every request is signed.
    pub fn node(server: &str, key: SigningKey, node: NodeId) -> Result<Self, ClientError> {
        Self::build(
            server,
            Authorisation::Node {
                key: Box::new(key),
                node,
            },
        )
    }

    /// The coordinator's address, without a slash at the end.
    pub fn server(&self) -> &str {
        &self.inner.server
    }

    /// What went over the line so far, through this client and its clones.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent_bytes: self.inner.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.inner.received_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.inner
            .received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn build(server: &str, authorisation: Authorisation) -> Result<Self, ClientError> {
        let bad = || ClientError::BadAddress {
            address: server.to_owned(),
        };
        let url = Url::parse(server.trim()).map_err(|_| bad())?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.path() == "/";
        let host = url.host_str().filter(|_| plain).ok_or_else(bad)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("opengpu/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none());
        // A proxy for the internet is never the way to this machine itself.
        if matches!(host, "localhost" | "[::1]") || host.starts_with("127.") {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|source| ClientError::Setup { source })?;
        let server = url.as_str().trim_end_matches('/').to_owned();
        let clock = Clock::default();
        let inner = Inner {
            http,
            server,
            authorisation,
            clock,
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}
