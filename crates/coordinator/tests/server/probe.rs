//! The probe: the loss of each merge, and of an update that stands out, tried alone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::Hash;
use opengpu_rounds::standing::Level;

use super::support::{Server, spec};
use super::worker::Worker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_are_probed_beside_the_run_and_their_losses_outlive_a_restart() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 4, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    worker
        .work_until(run, |view| view.phase == "finished")
        .await;
    // The newest merge is never overtaken by another.
    let last = |view: &RunView| view.rounds.last().and_then(|round| round.probe_loss);
    let probed = |view: &RunView| last(view).is_some();
    let view = server.wait_for(run, "its last probe", probed).await;
    let loss = last(&view).unwrap();
    // Tokens without any pattern: about as much as a guess.
    assert!((loss - 512f64.ln()).abs() < 1.0, "{loss}");
    assert!(
        server.metrics().await.contains("opengpu_probe_loss "),
        "the newest is a number of the server"
    );
    let server = server.restart().await;
    let view = server.wait_for(run, "the same loss", probed).await;
    assert!((last(&view).unwrap() - loss).abs() < 1e-9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_wants_no_probe_has_none() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut quiet = spec("first", "noise", 2, 1);
    quiet.trust.probe_sequences = 0;
    let run = server.start_run(&quiet).await;
    let mut worker = Worker::join(&server, 1).await;
    worker
        .work_until(run, |view| view.phase == "finished")
        .await;
    let measured = |view: &RunView| view.evaluations.iter().any(|e| e.revision == view.revision);
    let view = server.wait_for(run, "its last loss", measured).await;
    assert!(view.rounds.iter().all(|round| round.probe_loss.is_none()));
}

/// Three workers, of which one sends the same step as the others, turned round and twenty times as
/// long. Nothing refuses it: it is merged, and counts nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_stands_out_is_tried_alone() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let rules = spec("first", "noise", 3, 3);
    let run = server.start_run(&rules).await;
    let [mut one, mut two, mut odd] = [
        Worker::join(&server, 1).await,
        Worker::join(&server, 2).await,
        Worker::join(&server, 3).await,
    ];
    let given = tokio::join!(
        one.wait_for_assignment(),
        two.wait_for_assignment(),
        odd.wait_for_assignment()
    );
    let workers = [
        (&one, given.0, 1.0),
        (&two, given.1, 1.0),
        (&odd, given.2, -20.0),
    ];
    for (place, (worker, given, length)) in workers.into_iter().enumerate() {
        let blocks = given.blocks.iter().map(|range| range.end - range.start);
        let (assignment, blocks) = (given.assignment, blocks.sum());
        let mut notice = worker.update(run, assignment, given.base, blocks).await;
        let held = worker.held.as_ref().unwrap();
        // A common direction, and a little of each worker's own.
        let part = |number: usize, of: usize| (number % of) as f32 / of as f32 - 0.5;
        let weights = 0..held.values.len();
        let mut step: Vec<f32> = weights
            .map(|weight| {
                let own = part(weight * 31 + place * 17, 101);
                length * 1e-3 * (part(weight * 7919, 1009) + 0.2 * own)
            })
            .collect();
        let codec = rules.sync.up.into();
        let payload = opengpu_merge::encode(codec, &held.layout, &mut step).unwrap();
        notice.payload = Hash::of(&payload);
        notice.payload_bytes = payload.len() as u64;
        let payload = Bytes::from(payload);
        let sent = worker.client.put_payload(run, notice.payload, payload);
        sent.await.unwrap();
        worker.client.post_update(run, &notice).await.unwrap();
    }
    let started = Instant::now();
    loop {
        let text = server.metrics().await;
        if text.contains("opengpu_updates_tried_total{") {
            let flagged = "opengpu_updates_flagged_total{code=\"disagrees\"} 1";
            assert!(text.contains(flagged), "{text}");
            break;
        }
        let waited = started.elapsed();
        assert!(
            waited < Duration::from_secs(60),
            "nothing was tried: {text}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let view = server.operator().node_view(odd.node).await.unwrap();
    assert_eq!(view.standing, Level::Trusted, "once accuses nobody");
}
