//! Connections: who gets one of the places there are, how long it may say nothing, and what one
//! connection can make the server hold. Below HTTP's own rules, and before any of the API's.
//!
//! `places` decides who stays, and `held` how many bytes wait for peers, both without a socket;
//! `under_way` tells them of each request; `unread` ends what a peer does not read. Here they
//! meet the listener. What a request asks is none of its business: whoever is in is asked who
//! they are by the API's gate, which tells the seat once they have proved it.
//!
//! What peers can make the server hold, whatever they do, follows from this: [`PLACE_BYTES`] for
//! each place, and [`HELD_BYTES`] for all requests together.

mod held;
mod places;
mod under_way;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{ConnectionSettings, site};
use crate::metrics::{CodeLabel, Metrics};
use held::Held;
use places::{Due, Places};
use under_way::UnderWay;
use unread::EndsUnread;

pub use under_way::Seat;

/// Most bytes that one connection can make the server hold beside its requests: its task, and
/// of HTTP/1 a head and as much of an answer's pieces, of HTTP/2 a frame each way and the tables
/// of two compressed heads.
pub const PLACE_BYTES: u64 = 64 * 1024;
/// Most bytes that all requests together hold for peers that are waited for; one answer that is
/// longer passes alone.
pub const HELD_BYTES: u64 = 64 << 20;

/// Most bytes of a request's head, and of what is read ahead of a body (HTTP/1). A signed
/// request's head has less than 2 KiB, a browser's seldom more than 8.
const HEAD_BYTES: usize = 16 * 1024;
/// The same for HTTP/2, decompressed.
const HEADER_LIST_BYTES: u32 = 8 * 1024;
/// Requests at a time on one connection of HTTP/2. An agent uses HTTP/1; a proxy that speaks
/// HTTP/2 opens another connection when these are taken.
const STREAMS: u32 = 8;
/// Bytes of a body that may come over HTTP/2 before they are asked for, and of all bodies of a
/// connection.
const STREAM_WINDOW_BYTES: u32 = 32 * 1024;
const WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes of an answer that are taken ahead of its peer over HTTP/2.
const SEND_BYTES: usize = 16 * 1024;
/// Requests that a peer may take back before they were looked at, and errors that it may
/// provoke, before its connection of HTTP/2 ends: what "rapid reset" (CVE-2023-44487) and "made
/// you reset" (CVE-2025-8671) are made of.
const RESETS: usize = 20;
const PROVOKED_RESETS: usize = 128;

/// Pause after the system could not give a connection, as when files have run out: asking
/// again at once would only burn the processor.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that are closed then.
const CLOSED_FOR_FILES: usize = 16;
/// How often that is logged.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// All open connections.
pub struct Connections {
    taken: Mutex<Taken>,
    metrics: Counted,
}

/// What they have taken.
struct Taken {
    places: Places,
    held: Held,
}

/// The numbers that change here.
struct Counted {
    open: Gauge,
    closed: Family<CodeLabel, Counter>,
}

impl Connections {
    /// None yet.
    pub fn new(settings: &ConnectionSettings, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::new(Taken {
                places: Places::new(settings),
                held: Held::new(HELD_BYTES),
            }),
            metrics: Counted {
                open: metrics.connections_open.clone(),
                closed: metrics.connections_closed.clone(),
            },
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; None: it has to be closed.
    fn enter(self: &Arc<Self>, peer: SocketAddr) -> Option<(Place, Due)> {
        let (entered, open) = {
            let places = &mut self.lock().places;
            let entered = places.enter(site(peer.ip()), Instant::now());
            (entered, places.len())
        };
        self.tell_open(open);
        match entered {
            Ok(entered) => {
                if entered.made_room {
                    self.count("made_room");
                }
                let place = Place {
                    connections: Arc::clone(self),
                    id: entered.id,
                };
                Some((place, entered.due))
            }
            Err(full) => {
                self.count(full.code());
                None
            }
        }
    }

    /// Counts bytes that are held for a connection, and closes those that have held theirs
    /// longest where they are too many. The number to release them by.
    fn hold(&self, id: u64, bytes: u64) -> u64 {
        let (claim, closed) = {
            let taken = &mut *self.lock();
            let (claim, over) = taken.held.hold(id, bytes);
            let now = Instant::now();
            let closed = over.into_iter().filter(|id| taken.places.close(*id, now));
            (claim, closed.count())
        };
        (0..closed).for_each(|_| self.count("slow"));
        claim
    }

    fn count(&self, code: &'static str) {
        self.metrics
            .closed
            .get_or_create(&CodeLabel { code: code.into() })
            .inc();
    }

    fn tell_open(&self, open: usize) {
        let open = i64::try_from(open).unwrap_or(i64::MAX);
        self.metrics.open.set(open);
    }

    /// Closes some of those that are worth least, for want of files.
    fn make_room(&self) {
        let places = &mut self.lock().places;
        let closed = places.make_room(CLOSED_FOR_FILES, Instant::now());
        (0..closed).for_each(|_| self.count("made_room"));
    }
}

/// A connection's place, given back when it is dropped.
struct Place {
    connections: Arc<Connections>,
    id: u64,
}

impl Place {
    /// Whether it was not given to another.
    fn is_held(&self) -> bool {
        self.connections.lock().places.holds(self.id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = {
            let places = &mut self.connections.lock().places;
            places.leave(self.id);
            places.len()
        };
        self.connections.tell_open(open);
    }
}

/// Serves until it is told to stop; then takes no more, and waits for the requests that are
/// under way. Dropped, it ends them all.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections: Arc<Connections>,
    stopping: CancellationToken,
) {
    let builder = builder();
    let mut open = JoinSet::new();
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => break,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Who gets no place hears nothing: an answer would cost more than it tells.
                if let Some((place, due)) = connections.enter(peer) {
                    let connection = Connection {
                        stream,
                        peer,
                        place,
                        due,
                    };
                    open.spawn(connection.serve(router.clone(), builder.clone(), stopping.clone()));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
                    tracing::warn!(%error, "can't take new connections; closing idle ones");
                    told = Some(Instant::now());
                }
                connections.make_room();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Whether what failed is one connection, which is over, and not the listener.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// The bounds of one connection. Times are kept by its place, which knows them for both versions
/// of HTTP and for the bytes before the version is known.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(HEAD_BYTES)
        .header_read_timeout(None::<Duration>);
    builder
        .http2()
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(PROVOKED_RESETS);
    builder
}

/// A connection that has a place.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    due: Due,
}

impl Connection {
    /// Answers its requests until it ends: by itself, because its time is up or another needs
    /// its place, or, when the server stops, after the requests that are under way.
    async fn serve(
        self,
        router: Router,
        builder: Builder<TokioExecutor>,
        stopping: CancellationToken,
    ) {
        let (peer, id) = (self.peer, self.place.id);
        let connections = Arc::clone(&self.place.connections);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let under_way = UnderWay::begin(&connections, id, &request);
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(under_way.seat());
            let answer = tower::Service::call(&mut router.clone(), request);
            async move {
                let response = answer.await?;
                Ok::<_, Infallible>(response.map(|body| under_way.answers(body)))
            }
        });
        let stream = TokioIo::new(EndsUnread::new(self.stream));
        let mut connection = pin!(builder.serve_connection(stream, service));
        let mut over = pin!(places::over(self.due));
        let mut told = false;
        loop {
            tokio::select! {
                // How a connection ended is its peer's business.
                _ = connection.as_mut() => return,
                () = over.as_mut() => {
                    if self.place.is_held() {
                        self.place.connections.count("late");
                    }
                    return;
                }
                () = stopping.cancelled(), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
