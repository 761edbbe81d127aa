//! The attacker: three enrolled nodes and a raw socket, from three addresses of this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use opengpu_coordinator::api::endpoint::{Access, BodyRule};
use opengpu_protocol::signing::sign;
use opengpu_protocol::{Client, SigningKey};
use opengpu_rounds::{Hash, NodeId, RunId, WorkerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::bodies::Body;
use super::honest::{Honest, enrol};
use super::tally::{Became, Must, Tally};
use super::targets::{Target, targets};
use crate::installation::Installation;

/// Between two requests: 250 a second at most leave the processor to both sides.
const PACE: Duration = Duration::from_millis(4);
/// Requests that wait for an answer at a time.
const AT_ONCE: usize = 64;
/// Longest wait for the first bytes of an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of an endless body after which even an attacker gives up.
const ENDLESS_BYTES: usize = 8 << 20;

pub struct Attacker {
    pub server: SocketAddr,
    pub run: RunId,
    pub targets: Vec<Target>,
    /// Whose requests are written by hand.
    pub key: SigningKey,
    pub node: NodeId,
    /// Who takes part in the run; a node of its own, because a client counts for itself.
    pub worker_key: SigningKey,
    pub worker_client: Client,
    /// Whom the operator vouches for, so that it is asked to train again what others sent.
    pub auditor_key: SigningKey,
    pub auditor_client: Client,
    pub victim: NodeId,
    pub victims_worker: WorkerId,
    operator_token: String,
    counter: AtomicU64,
    turn: AtomicU64,
    tally: Mutex<Tally>,
}

impl Attacker {
    pub async fn join(installation: &Installation, run: RunId, honest: &Honest) -> Result<Self> {
        let invitation = &honest.invitation;
        let key = SigningKey::from_bytes(&[0x5a; 32]);
        let (node, _) = enrol(installation, invitation, &key, "hostile").await?;
        let worker_key = SigningKey::from_bytes(&[0x5b; 32]);
        let enrolling = enrol(installation, invitation, &worker_key, "hostile worker");
        let (_, worker_client) = enrolling.await?;
        // Machines with this token are taken for the operator's own.
        let own = installation.secret("join.token")?;
        let auditor_key = SigningKey::from_bytes(&[0x5c; 32]);
        let enrolling = enrol(installation, &own, &auditor_key, "hostile auditor");
        let (_, auditor_client) = enrolling.await?;
        Ok(Self {
            server: installation.address(),
            run,
            targets: targets(run, honest.node, honest.worker),
            key,
            node,
            worker_key,
            worker_client,
            auditor_key,
            auditor_client,
            victim: honest.node,
            victims_worker: honest.worker,
            operator_token: installation.secret("operator.token")?,
            counter: AtomicU64::new(unix_ms() * 1000),
            turn: AtomicU64::new(0),
            tally: Mutex::default(),
        })
    }

    /// Sends each body to each target, once as nobody and once as one whom it is for.
    pub async fn send_to_each(self: &Arc<Self>, bodies: &[Body]) {
        let mut sending = JoinSet::new();
        for target in &self.targets {
            // A page reads nothing of a body, and answers as to anyone.
            let must = match target.is_page {
                true => Must::BeNoFault,
                false => Must::BeRefused,
            };
            for body in bodies {
                let known = self.credentials(target, &body.bytes);
                for credentials in [String::new(), known] {
                    let request = Request::new(target, &credentials, body);
                    self.send(&mut sending, must, request).await;
                }
            }
        }
        while sending.join_next().await.is_some() {}
    }

    /// Sends a request and counts what becomes of it, without waiting for that.
    pub async fn send(self: &Arc<Self>, sending: &mut JoinSet<()>, must: Must, request: Request) {
        self.pace(sending).await;
        let attacker = Arc::clone(self);
        sending.spawn(async move {
            attacker.send_now(must, &request).await;
        });
    }

    /// Sends a request that may pass, and, once it was answered, one that must not.
    pub async fn send_before(
        self: &Arc<Self>,
        sending: &mut JoinSet<()>,
        first: Request,
        replay: Request,
    ) {
        self.pace(sending).await;
        let attacker = Arc::clone(self);
        sending.spawn(async move {
            let became = attacker.send_now(Must::BeNoFault, &first).await;
            // One that was not answered may not have come in: then the next is none again.
            if matches!(became, Became::Status(_)) {
                attacker.send_now(Must::BeRefused, &replay).await;
            }
        });
    }

    async fn pace(&self, sending: &mut JoinSet<()>) {
        tokio::time::sleep(PACE).await;
        while sending.len() >= AT_ONCE {
            sending.join_next().await;
        }
    }

    async fn send_now(&self, must: Must, request: &Request) -> Became {
        let became = match self.connect().await {
            Ok(stream) => request.send(stream).await,
            Err(_) => Became::Closed,
        };
        self.count(&request.what, must, became);
        became
    }

    /// A connection from the next of the addresses.
    pub async fn connect(&self) -> Result<TcpStream> {
        let last = self.turn.fetch_add(1, Ordering::Relaxed) % 3;
        let from = Ipv4Addr::new(127, 0, 0, 1 + u8::try_from(last)?);
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.into(), 0))?;
        let connecting = tokio::time::timeout(PATIENCE, socket.connect(self.server));
        Ok(connecting.await.context("no connection")??)
    }

    /// What lets a request to this target pass: nothing, a signature or the operator's token.
    pub fn credentials(&self, target: &Target, body: &[u8]) -> String {
        match target.access {
            Access::Open => String::new(),
            Access::Node | Access::NodeOrOperator => {
                let hash = match target.body {
                    // Its address names it.
                    BodyRule::Payload => Hash([1; 32]),
                    _ => Hash::of(body),
                };
                self.signature(&self.key, self.node, target, &hash, unix_ms())
            }
            Access::Operator => format!("Authorization: Bearer {}\r\n", self.operator_token),
        }
    }

    /// The lines of a signature, with a counter of its own.
    pub fn signature(
        &self,
        key: &SigningKey,
        node: NodeId,
        target: &Target,
        body: &Hash,
        unix_ms: u64,
    ) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let (method, path) = (&target.method, &target.path);
        let signed = sign(key, node, method, path, body, unix_ms, counter);
        let lines = signed
            .pairs()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        lines.concat()
    }

    pub fn count(&self, what: &str, must: Must, became: Became) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.count(what, must, became);
    }

    /// What was counted since the last time.
    pub fn take_tally(&self) -> Tally {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *tally)
    }
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(0)
}

/// One request as it goes over the line.
pub struct Request {
    what: String,
    head: String,
    body: Vec<u8>,
    endless: bool,
}

impl Request {
    /// The same, under a name of its own.
    pub fn named(self, name: &str) -> Self {
        let what = format!("{name}: {}", self.what);
        Self { what, ..self }
    }

    /// `credentials` are whole lines.
    pub fn new(target: &Target, credentials: &str, body: &Body) -> Self {
        let (method, path) = (&target.method, &target.path);
        let begins = format!("{method} {path} HTTP/1.1\r\nHost: opengpu\r\nConnection: close\r\n");
        Self {
            what: format!("{method} {path} with {}", body.what),
            head: format!("{begins}{credentials}{}\r\n", body.lines),
            body: body.bytes.clone(),
            endless: body.endless,
        }
    }

    async fn send(&self, mut stream: TcpStream) -> Became {
        let (mut read, mut write) = stream.split();
        let writing = async {
            // The server may have answered and closed before it has read all of it.
            let mut wrote = write.write_all(self.head.as_bytes()).await;
            let mut sent = 0;
            while wrote.is_ok() {
                wrote = write.write_all(&self.body).await;
                sent += self.body.len();
                if !self.endless || sent >= ENDLESS_BYTES {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut line = [0; 12];
            match read.read_exact(&mut line).await {
                Ok(_) => {
                    let status = std::str::from_utf8(&line[9..]).ok();
                    let status = status.and_then(|status| status.parse().ok());
                    status.map_or(Became::Closed, Became::Status)
                }
                Err(_) => Became::Closed,
            }
        };
        tokio::select! {
            became = tokio::time::timeout(PATIENCE, reading) => became.unwrap_or(Became::Silent),
            () = writing => Became::Closed,
        }
    }
}
