//! A node that holds an assignment and sends what is no update for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use opengpu_protocol::wire::{AssignmentPlan, Plan, Report, RunPlan, UpdateNotice};
use opengpu_rounds::{AssignmentId, FeedbackId, Hash, Revision, WorkerId};
use tokio::time::Instant;

use super::attacker::{Attacker, Became};
use super::honest::{claim, offer};

/// Longest wait for a plan.
const SILENCE: Duration = Duration::from_secs(20);
/// Longest time for one request; the client is patient with an answer like "too many".
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest wait for an assignment.
const PATIENCE_FOR_WORK: Duration = Duration::from_secs(60);

/// Gets an assignment by claiming to hold the weights, and sends broken updates until then, at
/// least once.
pub async fn attack(attacker: &Arc<Attacker>, until: Instant) -> Result<()> {
    let client = &attacker.worker_client;
    let worker = client.offer(0, &offer()).await?.worker;
    let mut plans = client.directives(SILENCE).await?;
    let patient_until = Instant::now() + PATIENCE_FOR_WORK;
    let mut sent = false;
    while !sent || Instant::now() < until {
        ensure!(
            sent || Instant::now() < patient_until,
            "the attacker was given no assignment"
        );
        let plan = match tokio::time::timeout(PATIENCE, plans.next()).await {
            // The last plan stands.
            Err(_elapsed) => continue,
            Ok(plan) => plan?,
        };
        let Some(plan) = plan else {
            plans = client.directives(SILENCE).await?;
            continue;
        };
        let Some(run) = run_of(plan, worker) else {
            continue;
        };
        let report = claim(run.run, run.revision, run.digest);
        // A lie about its own speed, and about another's worker.
        let fast = Report {
            blocks_per_second: 1e300,
            ..report.clone()
        };
        let not_mine = client.report(attacker.victims_worker, &report).await;
        attacker.count_client("a report for another's worker", &not_mine);
        let heard = client.report(worker, &report).await;
        attacker.count_client("a report", &heard);
        let heard = client.report(worker, &fast).await;
        attacker.count_client("a report of great speed", &heard);
        if let Some(assignment) = run.assignment {
            send_broken(attacker, worker, &assignment).await;
            sent = true;
        }
    }
    Ok(())
}

fn run_of(plan: Plan, worker: WorkerId) -> Option<RunPlan> {
    let mut workers = plan.workers.into_iter();
    workers.find(|plan| plan.worker == worker)?.run
}

async fn send_broken(attacker: &Attacker, worker: WorkerId, assignment: &AssignmentPlan) {
    let (client, run) = (&attacker.worker_client, attacker.run);
    for (what, bytes) in broken() {
        let hash = Hash::of(&bytes);
        let payload_bytes = bytes.len() as u64;
        let sending = client.put_payload(run, hash, bytes.clone().into());
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(sent) => attacker.count_client(what, &sent),
            Err(_elapsed) => attacker.count(what, &Became::Silent),
        }
        let opening = client.put_openings(run, assignment.assignment, hash, bytes.into());
        if let Ok(sent) = tokio::time::timeout(PATIENCE, opening).await {
            attacker.count_client(what, &sent);
        }
        let notice = UpdateNotice {
            worker,
            assignment: assignment.assignment,
            base: assignment.base,
            blocks_completed: 1,
            payload: hash,
            payload_bytes,
            feedback: FeedbackId(1),
            loss: 1.0,
            train_seconds: 1.0,
            commitment: None,
            numerics_class: None,
        };
        for (what, notice) in wrong(&notice, attacker.victims_worker) {
            let posting = client.post_update(run, &notice);
            if let Ok(posted) = tokio::time::timeout(PATIENCE, posting).await {
                attacker.count_client(what, &posted);
            }
        }
    }
}

/// Notices of which none is true.
fn wrong(notice: &UpdateNotice, victims: WorkerId) -> Vec<(&'static str, UpdateNotice)> {
    let like = || notice.clone();
    let base = Revision {
        lineage: u32::MAX,
        number: 1 << 52,
    };
    let of_another = UpdateNotice {
        worker: victims,
        ..like()
    };
    let anothers = UpdateNotice {
        assignment: AssignmentId(0),
        ..like()
    };
    let all_blocks = UpdateNotice {
        blocks_completed: u64::MAX,
        ..like()
    };
    let no_numbers = UpdateNotice {
        loss: f64::NAN,
        train_seconds: -1e300,
        ..like()
    };
    let huge = UpdateNotice {
        payload_bytes: u64::MAX,
        ..like()
    };
    vec![
        ("a notice of what was refused", like()),
        ("a notice for another's worker", of_another),
        ("a notice for another's assignment", anothers),
        ("a notice of no revision", UpdateNotice { base, ..like() }),
        ("a notice of all blocks there are", all_blocks),
        ("a notice without numbers", no_numbers),
        ("a notice of a huge payload", huge),
    ]
}

/// Bytes that are no payload; some say to be safetensors, whose length of the header comes
/// first.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let tensors = |length: u64, header: &[u8]| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(header);
        bytes
    };
    let beyond = br#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,18446744073709551615]}}"#;
    vec![
        ("an empty payload", Vec::new()),
        ("ones", vec![0xff; 4_000]),
        ("zeros", vec![0; 4_000]),
        ("a byte", vec![1]),
        ("safetensors of a huge header", tensors(u64::MAX, b"{}")),
        (
            "safetensors beyond their file",
            tensors(beyond.len() as u64, beyond),
        ),
        (
            "safetensors of a deep header",
            tensors(4_000, "[".repeat(4_000).as_bytes()),
        ),
        ("a payload longer than any", vec![7; 32 << 20]),
    ]
}
