//! What is refused of a node's work is in the ledger when its sender is told, once, with its
//! numbers; and whatever becomes of an update is told at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use opengpu_ledger::{Entry, EntryKind, Receipt, VerifierKey, line};
use opengpu_protocol::Client;
use opengpu_protocol::wire::{Activity, Outcome, Plan};
use opengpu_rounds::standing::Level;
use opengpu_rounds::{AssignmentId, AuditOutcome, EventKind, FeedbackId, Hash, RunId};

use super::standing::{audited, first_update, open_nonsense, plan_with, standing, stream};
use super::support::{Server, code, key, offer, spec};
use super::worker::Worker;

/// As long as a node may wait for its verdict once there is one.
const VERDICT: Duration = Duration::from_secs(2);

async fn entries(client: &Client, run: RunId) -> Vec<Entry> {
    let lines = client.ledger_lines(run, 0).await.unwrap();
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines.map(|bytes| line::read(bytes).unwrap()).collect()
}

/// What the receipt of a rejection proves.
async fn proven(client: &Client, run: RunId, assignment: AssignmentId, code: &str) -> Entry {
    let key: VerifierKey = client.ledger_head(run).await.unwrap().key.parse().unwrap();
    let receipt = client.rejection_receipt(run, assignment, code).await;
    let receipt = Receipt::parse(&receipt.unwrap()).unwrap();
    receipt.verify(&key).unwrap().entry
}

fn numbers(entry: &Entry) -> (String, Option<f64>, Option<f64>) {
    let EntryKind::Rejected {
        code,
        measured,
        allowed,
    } = &entry.kind
    else {
        panic!("no rejection: {entry:?}");
    };
    let number = |number: &Option<opengpu_ledger::Finite>| number.map(|number| number.get());
    (code.to_string(), number(measured), number(allowed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_is_in_the_ledger_before_its_sender_is_told_and_once() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 2, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    let given = worker.wait_for_assignment().await;
    let assignment = given.assignment;
    let client = worker.client.clone();

    // A payload that is none.
    let junk = Bytes::from_static(b"junk");
    let hash = Hash::of(&junk);
    let sent = client.put_payload_for(run, assignment, hash, junk.clone());
    assert_eq!(code(sent.await), "bad_payload");
    let entry = proven(&client, run, assignment, "bad_payload").await;
    assert_eq!((entry.node, entry.worker), (worker.node, worker.worker));
    let (_, measured, allowed) = numbers(&entry);
    assert_eq!(measured, Some(4.0), "bytes");
    assert!(allowed > measured);

    // More blocks than were given.
    let blocks = given.blocks.iter().map(|range| range.end - range.start);
    let blocks: u64 = blocks.sum();
    let mut notice = worker.update(run, assignment, given.base, blocks).await;
    notice.blocks_completed += 1;
    let begun = Instant::now();
    let told = client.post_update(run, &notice).await;
    assert_eq!(code(told), "too_many_blocks");
    let entry = proven(&client, run, assignment, "too_many_blocks").await;
    println!("told and proven after {:?}", begun.elapsed());
    let (_, measured, allowed) = numbers(&entry);
    let expected = (Some(blocks as f64 + 1.0), Some(blocks as f64));
    assert_eq!((measured, allowed), expected);

    // The same again, and the same from somebody whose assignment it is not, add nothing.
    let stranger = Worker::join(&server, 2).await;
    for _ in 0..3 {
        assert_eq!(
            code(client.post_update(run, &notice).await),
            "too_many_blocks"
        );
        let sent = client.put_payload_for(run, assignment, hash, junk.clone());
        assert_eq!(code(sent.await), "bad_payload");
        let named = stranger
            .client
            .put_payload_for(run, assignment, hash, junk.clone());
        assert_eq!(code(named.await), "no_lease");
    }
    assert_eq!(entries(&client, run).await.len(), 2);
    let none = client.rejection_receipt(run, assignment, "no_lease").await;
    assert_eq!(code(none), "no_receipt");

    // Then as it should be: the credit is beside the rejections.
    notice.blocks_completed = blocks;
    client.post_update(run, &notice).await.unwrap();
    let receipt = client.receipt(run, assignment).await.unwrap();
    let line = Receipt::parse(&receipt).unwrap().line;
    let accepted = line::read(&line).unwrap();
    assert!(matches!(accepted.kind, EntryKind::Accepted { .. }));
    let metrics = server.metrics().await;
    for counted in [
        "opengpu_updates_refused_total{code=\"too_many_blocks\"} 4",
        "opengpu_updates_refused_total{code=\"bad_payload\"} 4",
        "opengpu_updates_refused_total{code=\"no_lease\"} 3",
    ] {
        assert!(metrics.contains(counted), "{counted} is not in {metrics}");
    }

    // A second, other payload for it is refused, and the accepted one stays.
    let mut other = notice.clone();
    other.payload = hash;
    assert_eq!(code(client.post_update(run, &other).await), "bad_payload");
    assert_eq!(entries(&client, run).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_for_no_named_assignment_is_rejected_under_the_one_that_its_node_holds() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 2, 3)).await;
    let mut one = Worker::join(&server, 1).await;
    let mut two = Worker::join(&server, 2).await;
    two.client.offer(1, &offer()).await.unwrap();
    let (given, ()) = tokio::join!(one.wait_for_assignment(), both_hold_one(&mut two));
    let junk = Bytes::from_static(b"junk");
    let hash = Hash::of(&junk);
    let send = async |client: &Client| {
        let sent = client.put_payload(run, hash, junk.clone());
        assert_eq!(code(sent.await), "bad_payload");
    };
    for _ in 0..2 {
        send(&one.client).await;
    }
    let all = entries(&one.client, run).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let entry = proven(&one.client, run, given.assignment, "bad_payload").await;
    assert_eq!((entry.node, entry.worker), (one.node, one.worker));
    // Which of two it was for nobody can tell.
    send(&two.client).await;
    assert_eq!(entries(&one.client, run).await.len(), 1);
    // And who holds none is no worker.
    let (_, stranger) = server.enrol(&key(9), "stranger").await;
    let sent = stranger.put_payload(run, hash, junk.clone()).await;
    assert_eq!(code(sent), "no_lease");
    assert_eq!(entries(&one.client, run).await.len(), 1);
}

/// Gets the two devices of a node ready, until each of them holds an assignment.
async fn both_hold_one(worker: &mut Worker) {
    let patience = Duration::from_secs(20);
    let mut directives = worker.client.directives(patience).await.unwrap();
    loop {
        let plan = directives.next().await.unwrap().expect("it goes on");
        let runs = plan.workers.into_iter();
        let runs = runs.filter_map(|plan| Some((plan.worker, plan.run?)));
        let runs: Vec<_> = runs.collect();
        if runs.len() == 2 && runs.iter().all(|(_, run)| run.assignment.is_some()) {
            return;
        }
        for (device, run) in runs {
            worker.sync(run.run, run.revision, run.digest).await;
            worker.worker = device;
            worker.feedback = FeedbackId(2000 + device.0);
            worker.report(run.run, Activity::Idle).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_are_as_they_were_after_a_restart() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 2, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    let assignment = worker.wait_for_assignment().await.assignment;
    let junk = Bytes::from_static(b"junk");
    let hash = Hash::of(&junk);
    let send = async |worker: &Worker| {
        let client = &worker.client;
        let sent = client.put_payload_for(run, assignment, hash, junk.clone());
        code(sent.await)
    };
    assert_eq!(send(&worker).await, "bad_payload");
    let before = entries(&worker.client, run).await;
    let server = server.restart().await;
    worker.at(&server);
    assert_eq!(send(&worker).await, "bad_payload");
    assert_eq!(entries(&worker.client, run).await, before);
    proven(&worker.client, run, assignment, "bad_payload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_is_in_the_plan_within_two_seconds_of_its_decision() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 2, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    let given = worker.wait_for_assignment().await;
    let patience = Duration::from_secs(20);
    let mut directives = worker.client.directives(patience).await.unwrap();
    let blocks = given.blocks.iter().map(|range| range.end - range.start);
    let notice = worker.update(run, given.assignment, given.base, blocks.sum());
    let notice = notice.await;
    worker.client.post_update(run, &notice).await.unwrap();
    // The check's verdict was the answer; what became of the update comes with the plan.
    let merged = |view: &opengpu_protocol::wire::RunView| view.revision.number == 1;
    server.wait_for(run, "the merge", merged).await;
    let decided = Instant::now();
    let told = async {
        loop {
            let plan = directives.next().await.unwrap().expect("it goes on");
            let plans = plan.workers.into_iter().filter_map(|plan| plan.run);
            let mut verdicts = plans.flat_map(|plan| plan.verdicts);
            if verdicts.any(|verdict| {
                verdict.assignment == given.assignment
                    && matches!(verdict.outcome, Outcome::Merged { .. })
            }) {
                return;
            }
        }
    };
    let told = tokio::time::timeout(VERDICT, told).await;
    assert!(told.is_ok(), "no verdict within {VERDICT:?} of the merge");
    println!("told {:?} after the merge was seen", decided.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_audit_is_told_within_two_seconds_of_its_finding() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&audited("first")).await;
    let mut worker = Worker::join(&server, 1).await;
    let mut plans = stream(&worker.client).await;
    first_update(&mut worker, &mut plans).await;
    open_nonsense(&worker, run, &mut plans).await;
    // The log is looked at all the time, so what is seen there was decided just before.
    let decided = async {
        let operator = server.operator();
        loop {
            let log = operator.whole_log(run).await.unwrap();
            let found = log.into_iter().find_map(|entry| match entry.event.kind {
                EventKind::Audited { finding, .. } => Some(finding),
                _ => None,
            });
            if let Some(finding) = found {
                return (finding, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = async {
        let shut_out = |plan: &Plan| standing(plan).filter(|s| s.standing == Level::Quarantined);
        (plan_with(&mut plans, shut_out).await, Instant::now())
    };
    let ((finding, decided), (told, heard)) = tokio::join!(decided, told);
    assert_eq!(finding.outcome, AuditOutcome::Failed, "{finding:?}");
    assert_eq!(told.against.unwrap().code, finding.code);
    let took = heard.saturating_duration_since(decided);
    println!("told {took:?} after the finding was seen");
    // It is pushed within some milliseconds; the sign of life that would tell it otherwise comes
    // each 5 s.
    assert!(took < VERDICT, "{took:?}");
}
