//! A request, from its head to the last byte of its answer that the system has taken: for so long
//! its connection does not rest, and for so long what it makes the server hold is counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::{Request, Version};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{Connections, STREAM_WINDOW_BYTES};

/// Longest body that the API holds for somebody who has proved nothing.
const BODY_BYTES: u64 = 16 * 1024;
/// What the program itself needs for a request, roughly.
const REQUEST_BYTES: u64 = 8 * 1024;

/// A request's connection, as the API sees it.
#[derive(Clone)]
pub struct Seat {
    connections: Arc<Connections>,
    id: u64,
    claim: u64,
}

impl Seat {
    /// Who sends this request has proved who they are.
    pub fn prove(&self) {
        let mut taken = self.connections.lock();
        taken.places.prove(self.id);
        taken.held.release(self.claim);
    }
}

/// A request that is not yet answered in full.
pub struct UnderWay(Seat);

impl UnderWay {
    /// Its head has come.
    pub fn begin(connections: &Arc<Connections>, id: u64, request: &Request<Incoming>) -> Self {
        connections.lock().places.begin(id);
        let claim = connections.hold(id, bytes_of(request));
        Self(Seat {
            connections: Arc::clone(connections),
            id,
            claim,
        })
    }

    /// For the API.
    pub fn seat(&self) -> Seat {
        self.0.clone()
    }

    /// The answer, which ends the request when all of it was taken. One whose length is known is
    /// in memory as a whole; of a stream there are only pieces.
    pub fn answers(mut self, body: Body) -> UntilTaken {
        let Seat {
            connections,
            id,
            claim,
        } = &mut self.0;
        connections.lock().held.release(*claim);
        if let Some(bytes) = body.size_hint().exact().filter(|bytes| *bytes > 0) {
            *claim = connections.hold(*id, bytes);
        }
        UntilTaken {
            body,
            under_way: Arc::new(self),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut taken = self.0.connections.lock();
        taken.places.end(self.0.id, Instant::now());
        taken.held.release(self.0.claim);
    }
}

/// What a request can make the server hold until it has proved who sends it.
fn bytes_of(request: &Request<Incoming>) -> u64 {
    let headers = request.headers().iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let path = request.uri().path_and_query();
    let head = headers + path.map_or(0, |path| path.as_str().len());
    let whole = request.body().size_hint().upper().unwrap_or(u64::MAX);
    let window = match request.version() {
        Version::HTTP_2 => u64::from(STREAM_WINDOW_BYTES),
        _ => 0,
    };
    // Twice, for the buffer that it is gathered in grows by doubling.
    REQUEST_BYTES + head as u64 + window.min(whole) + 2 * BODY_BYTES.min(whole)
}

/// An answer's body, whose pieces know their request.
pub struct UntilTaken {
    body: Body,
    under_way: Arc<UnderWay>,
}

impl HttpBody for UntilTaken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| self.follow(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl UntilTaken {
    /// The same bytes; the request is under way as long as they are in memory.
    fn follow(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        frame.map_data(|bytes| {
            Bytes::from_owner(Piece {
                bytes,
                _under_way: Arc::clone(&self.under_way),
            })
        })
    }
}

/// A piece of an answer.
struct Piece {
    bytes: Bytes,
    _under_way: Arc<UnderWay>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::BODY_BYTES;
    use crate::api::endpoint::{Access, BodyRule};
    use crate::api::endpoints;

    #[test]
    fn no_endpoint_holds_a_longer_body_of_somebody_who_has_proved_nothing() {
        for endpoint in endpoints() {
            // The operator's token is looked at before the body.
            if let BodyRule::Json(bytes) = endpoint.body
                && endpoint.access != Access::Operator
            {
                assert!(bytes as u64 <= BODY_BYTES, "{}", endpoint.path);
            }
        }
    }
}
