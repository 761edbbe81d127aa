//! Bytes on their way into the store, above all updates' payloads: who may send one, how many,
//! and how much of them is in memory.
//!
//! A node sends for the work that it holds: [`PAYLOADS_PER_LEASE`] different payloads for each
//! open lease until it gets another, and as many at the same time. So what a node can make the
//! coordinator keep is bounded by the work that it was given. Bytes are written as they arrive;
//! a payload is in memory as a whole only while it is checked.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use opengpu_rounds::{AssignmentId, Hash, NodeId, Run};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::{ApiError, ApiResult};
use super::gate::STALL;
use crate::Coordinator;
use crate::blobs::PutError;
use crate::driver::LiveRun;

/// Different payloads that a node may send for each lease that it holds, and how many at once.
const PAYLOADS_PER_LEASE: usize = 4;
/// Bytes a second at which a body must arrive at least: one that is held back for ever would keep
/// its connection and its place on the disk.
const SLOWEST: u64 = 4096;
/// Longest wait for the next piece of a body that nobody wants.
const DRAIN_STALL: Duration = Duration::from_secs(5);
/// Payloads that are checked, and in memory for it, at once.
const CHECKED_AT_ONCE: usize = 2;

/// Stores a body of at most `max_bytes` under its hash as it arrives.
pub async fn store(
    coordinator: &Coordinator,
    hash: Hash,
    body: Body,
    max_bytes: u64,
) -> ApiResult<()> {
    let blobs = coordinator.blobs();
    if blobs.touch(hash).await.map_err(anyhow::Error::from)? {
        drain(body, max_bytes).await;
        return Ok(());
    }
    let received = coordinator.clone();
    let pieces = paced(body).inspect_ok(move |piece| {
        received.metrics().received_bytes.inc_by(piece.len() as u64);
    });
    match blobs.put_named(hash, pieces, max_bytes).await {
        Ok(_) => Ok(()),
        Err(PutError::TooLarge { max_bytes }) => Err(ApiError::too_large(max_bytes)),
        Err(error @ PutError::Mismatch { .. }) => {
            Err(ApiError::unacceptable("wrong_hash", error.to_string()))
        }
        Err(PutError::Source { bytes, source }) if is_too_slow(source.as_ref()) => {
            Err(ApiError::bad_request(
                "stalled",
                format!(
                    "{bytes} bytes came, and then nothing for {} s, or all of it at less than \
                     {SLOWEST} bytes a second",
                    STALL.as_secs()
                ),
            ))
        }
        Err(error @ PutError::Source { .. }) => {
            Err(ApiError::bad_request("broken_body", error.to_string()))
        }
        Err(error) => Err(ApiError::fault(&error.into())),
    }
}

/// The pieces of a body for as long as they keep coming: none of them may take longer than
/// [`STALL`], and all of them no longer than that beyond what they take at [`SLOWEST`]. Only
/// waiting for them counts, not what is done with them.
fn paced(body: Body) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let begins = (body.into_data_stream(), Duration::ZERO, 0);
    stream::try_unfold(begins, |(mut stream, waited, bytes)| async move {
        let left = (STALL + Duration::from_secs(bytes / SLOWEST)).saturating_sub(waited);
        let asked = Instant::now();
        let piece = tokio::time::timeout(left.min(STALL), stream.next()).await;
        let Some(piece) = piece.map_err(|_elapsed| Error::from(ErrorKind::TimedOut))? else {
            return Ok(None);
        };
        let piece = piece.map_err(Error::other)?;
        let bytes = bytes + piece.len() as u64;
        Ok(Some((piece, (stream, waited + asked.elapsed(), bytes))))
    })
}

fn is_too_slow(source: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = source.downcast_ref::<Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::TimedOut)
}

/// Reads a body for nothing, so that its sender gets to hear an answer that was known before:
/// a connection is closed on whoever still sends.
pub async fn drain(body: Body, max_bytes: u64) {
    let mut pieces = pin!(paced(body));
    let mut bytes = 0;
    while bytes <= max_bytes
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(DRAIN_STALL, pieces.next()).await
    {
        bytes += piece.len() as u64;
    }
}

/// Checks stored payloads, a few at a time.
#[derive(Debug)]
pub struct Checker(Semaphore);

impl Default for Checker {
    fn default() -> Self {
        Self(Semaphore::new(CHECKED_AT_ONCE))
    }
}

impl Checker {
    /// Refuses a stored blob that is no payload of this run. Returns its size.
    pub async fn check(
        &self,
        coordinator: &Coordinator,
        run: &LiveRun,
        payload: Hash,
    ) -> ApiResult<u64> {
        if let Some(bytes) = run.checked(payload) {
            return Ok(bytes);
        }
        let blobs = coordinator.blobs();
        // It may be some other blob that the sender knows the name of.
        let limit = run.payload_limit() as u64;
        let bytes = blobs.size(payload).await.map_err(anyhow::Error::from)?;
        if bytes > limit {
            return Err(ApiError::unacceptable(
                "bad_payload",
                format!("the payload has {bytes} bytes, at most {limit} are allowed"),
            )
            .comparing(bytes, limit));
        }
        let _turn = self.0.acquire().await.map_err(anyhow::Error::from)?;
        let body = blobs.read(payload).await.map_err(anyhow::Error::from)?;
        let (codec, layout) = (run.spec.sync.up, Arc::clone(&run.layout));
        let checked = tokio::task::spawn_blocking(move || {
            opengpu_merge::check(codec.into(), &layout, &body).map_err(|error| {
                let refusal = ApiError::unacceptable("bad_payload", error.to_string());
                match error.compared() {
                    Some((measured, allowed)) => refusal.comparing(measured, allowed),
                    None => refusal,
                }
            })
        });
        checked.await.map_err(anyhow::Error::from)??;
        run.remember_checked(payload, bytes);
        Ok(bytes)
    }
}

/// What each node of one run sends for the leases it holds.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<HashMap<NodeId, Sent>>);

#[derive(Debug)]
struct Sent {
    /// The newest lease that it held so far.
    newest: AssignmentId,
    /// Most leases that it held at once since it got that one.
    leases: usize,
    /// What it sent since then.
    payloads: Vec<Hash>,
    under_way: usize,
}

/// A payload under way.
#[derive(Debug)]
pub struct UnderWay<'a> {
    quotas: &'a Quotas,
    node: NodeId,
}

impl Quotas {
    /// Counts a payload of `node`, or says why it may not be sent. Sending the same one again
    /// counts once.
    pub fn begin(&self, run: &Run, node: NodeId, payload: Hash) -> ApiResult<UnderWay<'_>> {
        let of_node = |worker| run.member(worker).is_some_and(|member| member.node == node);
        let leases = run.leases().filter(|(_, lease)| of_node(lease.worker));
        let leases: Vec<_> = leases.map(|(assignment, _)| assignment).collect();
        let Some(newest) = leases.iter().copied().max() else {
            return Err(ApiError::conflict(
                "no_lease",
                format!("node {node} holds no assignment that an update could be sent for"),
            ));
        };
        let mut nodes = self.lock();
        let sent = nodes.entry(node).or_insert(Sent {
            newest,
            leases: 0,
            payloads: Vec::new(),
            under_way: 0,
        });
        // Leases end in any order, and what was sent for one must not count against the others.
        if sent.newest < newest {
            sent.newest = newest;
            sent.leases = 0;
            sent.payloads.clear();
        }
        sent.leases = sent.leases.max(leases.len());
        let allowed = PAYLOADS_PER_LEASE * sent.leases;
        let known = sent.payloads.contains(&payload);
        if sent.under_way >= allowed || (!known && sent.payloads.len() >= allowed) {
            return Err(ApiError::too_many(format!(
                "node {node} sent {} different payloads for {} assignments, and {} are under way",
                sent.payloads.len(),
                sent.leases,
                sent.under_way
            )));
        }
        if !known {
            sent.payloads.push(payload);
        }
        sent.under_way += 1;
        Ok(UnderWay { quotas: self, node })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(sent) = self.quotas.lock().get_mut(&self.node) {
            sent.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_rounds::{Event, EventKind, Revision, WorkerId};

    use super::*;

    const NODE: NodeId = NodeId(7);
    const WORKER: WorkerId = WorkerId(3);

    fn assigned(run: &mut Run, assignment: u64) {
        let base = Revision {
            lineage: 0,
            number: 0,
        };
        run.fold(&Event {
            at_ms: 0,
            kind: EventKind::Assigned {
                assignment: AssignmentId(assignment),
                worker: WORKER,
                round: 0,
                base,
                blocks: Vec::new(),
                attempt: 0,
                span: None,
            },
        });
    }

    fn run() -> Run {
        let mut run = Run::default();
        run.fold(&Event {
            at_ms: 0,
            kind: EventKind::WorkerJoined {
                worker: WORKER,
                node: NODE,
                feedback: opengpu_rounds::FeedbackId(1),
                founder: true,
            },
        });
        run
    }

    fn code(refused: ApiResult<UnderWay<'_>>) -> String {
        refused.unwrap_err().code
    }

    /// A body of so many pieces of so many bytes, one every so many seconds.
    fn slow(pieces: u32, bytes: usize, seconds: u64) -> Body {
        Body::from_stream(stream::unfold(pieces, move |left| async move {
            let left = left.checked_sub(1)?;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Some((Ok::<_, std::convert::Infallible>(vec![7; bytes]), left))
        }))
    }

    async fn bytes_that_come(body: Body) -> std::io::Result<usize> {
        let sum = |sum, piece: Bytes| async move { Ok(sum + piece.len()) };
        paced(body).try_fold(0, sum).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_dribbles_ends_however_long_it_may_be() {
        let began = Instant::now();
        let came = bytes_that_come(slow(u32::MAX, 1, 10)).await;
        let error = came.unwrap_err();
        assert!(is_too_slow(&error), "{error}");
        // Timers have milliseconds.
        assert_eq!(began.elapsed().as_secs(), STALL.as_secs());
        let began = Instant::now();
        drain(slow(u32::MAX, 1, 4), u64::MAX).await;
        assert_eq!(began.elapsed().as_secs(), STALL.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_and_a_slow_disk_are_no_dribble() {
        let pieces = 1_000;
        let bytes = SLOWEST as usize * 10;
        let came = bytes_that_come(slow(pieces, bytes, 10)).await;
        assert_eq!(came.unwrap(), pieces as usize * bytes);
        let mut pieces = pin!(paced(slow(100, 1, 0)));
        let mut came = 0;
        while let Some(piece) = pieces.next().await {
            came += piece.unwrap().len();
            tokio::time::sleep(STALL).await;
        }
        assert_eq!(came, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_dead_for_too_long_ends_a_body() {
        let came = bytes_that_come(slow(2, 10_000_000, STALL.as_secs() + 1)).await;
        assert!(is_too_slow(&came.unwrap_err()));
    }

    #[test]
    fn who_holds_no_assignment_sends_nothing() {
        let (quotas, mut run) = (Quotas::default(), run());
        assert_eq!(code(quotas.begin(&run, NODE, Hash([1; 32]))), "no_lease");
        assigned(&mut run, 0);
        assert!(quotas.begin(&run, NODE, Hash([1; 32])).is_ok());
        assert_eq!(
            code(quotas.begin(&run, NodeId(8), Hash([1; 32]))),
            "no_lease"
        );
    }

    #[test]
    fn a_lease_allows_a_few_payloads_and_the_next_lease_a_few_more() {
        let (quotas, mut run) = (Quotas::default(), run());
        assigned(&mut run, 0);
        let send = |run: &Run, number: u8| {
            let sent = quotas.begin(run, NODE, Hash([number; 32]));
            sent.map(drop).map_err(|error| error.code)
        };
        for number in 0..PAYLOADS_PER_LEASE as u8 {
            send(&run, number).unwrap();
        }
        assert_eq!(send(&run, 99), Err("too_many_requests".into()));
        assert_eq!(send(&run, 0), Ok(()), "the same one again");
        assigned(&mut run, 1);
        assert_eq!(send(&run, 99), Ok(()));
    }

    #[test]
    fn what_was_sent_for_leases_that_ended_does_not_count_against_the_last() {
        let (quotas, mut run) = (Quotas::default(), run());
        let devices = 3 * PAYLOADS_PER_LEASE as u64;
        (0..devices).for_each(|assignment| assigned(&mut run, assignment));
        for assignment in 0..devices {
            let payload = Hash([assignment as u8; 32]);
            assert!(quotas.begin(&run, NODE, payload).is_ok(), "{assignment}");
            run.fold(&Event {
                at_ms: 0,
                kind: EventKind::LeaseReturned {
                    assignment: AssignmentId(assignment),
                    reason: "done".into(),
                },
            });
        }
    }

    #[test]
    fn few_are_under_way_at_once() {
        let (quotas, mut run) = (Quotas::default(), run());
        assigned(&mut run, 0);
        let same = || quotas.begin(&run, NODE, Hash([1; 32]));
        let mut under_way: Vec<_> = (0..PAYLOADS_PER_LEASE).map(|_| same().unwrap()).collect();
        assert_eq!(code(same()), "too_many_requests");
        under_way.pop();
        assert!(same().is_ok());
    }
}
