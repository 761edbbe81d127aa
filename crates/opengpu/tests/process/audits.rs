//! Audits from end to end: strangers on probation, one of whom trains on other data than it was
//! given. Nodes that the operator vouches for train their assignments again. The others' trainers
//! are the real one; the liar's is too, behind a script that changes what it is told.

use std::time::{Duration, Instant};

use opengpu_rounds::{AuditOutcome, Event, EventKind, Finding, NodeId, Outcome};

use crate::cluster::{Cluster, OPENGPU, opengpu};
use crate::invariants;
use crate::stranger::{Stranger, altered_trainer, node};

const RUN: &str = "evaluate_every = 0\n[inner]\nstate = \"reset\"\n\
                   [trust]\naudit_rate = 0.2\nprobation_audits = 2\n";

/// What the audits of a node's updates found.
fn audits(log: &[Event], node: NodeId) -> Vec<Finding> {
    let mut workers = Vec::new();
    let mut given = Vec::new();
    let mut findings = Vec::new();
    for event in log {
        match &event.kind {
            EventKind::WorkerJoined {
                worker, node: of, ..
            } if *of == node => workers.push(*worker),
            EventKind::Assigned {
                assignment, worker, ..
            } if workers.contains(worker) => given.push(*assignment),
            EventKind::Audited {
                assignment,
                finding,
                ..
            } if given.contains(assignment) => findings.push(finding.clone()),
            _ => {}
        }
    }
    findings
}

/// Audits of a node's updates that passed because a node, or the coordinator's own trainer,
/// trained them again.
fn passed(log: &[Event], node: NodeId) -> (usize, usize) {
    let passed = audits(log, node).into_iter();
    let passed = passed.filter(|finding| finding.outcome == AuditOutcome::Passed);
    let (by_nodes, here): (Vec<_>, Vec<_>) =
        passed.partition(|finding| finding.decided_by().is_some());
    (by_nodes.len(), here.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_find_who_trains_on_other_data_and_make_an_honest_stranger_trusted() {
    let cluster = Cluster::with_nodes(2).await;
    let started = Instant::now();
    for name in ["node-0", "node-1"] {
        while !node(&cluster, name)
            .await
            .is_some_and(|node| node.connected)
        {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{name} is not there"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let lying = altered_trainer(&cluster, r#"s/"seed":[0-9]*/"seed":99/"#);
    let honest = Stranger::join(&cluster, "honest", OPENGPU.into());
    let liar = Stranger::join(&cluster, "liar", lying);
    let run = cluster.submit(400, 2, RUN);

    let started = Instant::now();
    loop {
        let found = node(&cluster, liar.name).await;
        let found = found.is_some_and(|node| node.state == "quarantined");
        let trusted = match node(&cluster, honest.name).await {
            Some(node) if node.audits_passed >= 3 => {
                let log = invariants::whole_log(&cluster.client(), run).await;
                // Those of its probation, at least.
                passed(&log, node.node).0 >= 2
            }
            _ => false,
        };
        if found && trusted {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(240),
            "found: {found}, trusted: {trusted}; nodes: {:#?}\n{}",
            cluster.client().nodes().await.unwrap(),
            cluster.log("coordinator")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let url = cluster.url();
    opengpu(&cluster.home(), &["run", "stop", "1", "--url", &url]);
    // Not settled: who is in quarantine fetches no last merge.
    while cluster.client().run(run).await.unwrap().phase != "finished" {
        assert!(started.elapsed() < Duration::from_secs(300), "not stopped");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let log = invariants::whole_log(&cluster.client(), run).await;
    let id = node(&cluster, liar.name).await.unwrap().node;
    let of_liar = audits(&log, id);
    assert_eq!(of_liar[0].outcome, AuditOutcome::Failed, "{of_liar:?}");
    // Nobody is accused by one alone.
    let by: Vec<_> = of_liar[0].reruns.iter().map(|rerun| rerun.by).collect();
    assert!(by.len() >= 2 && by[0] != by[1], "{by:?}");
    let other = node(&cluster, honest.name).await.unwrap();
    let of_honest = audits(&log, other.node);
    let failed = |finding: &Finding| finding.outcome == AuditOutcome::Failed;
    assert!(!of_honest.iter().any(failed), "{of_honest:?}");
    let (by_nodes, here) = passed(&log, other.node);
    assert!(
        by_nodes > here,
        "{by_nodes} by nodes, {here} by the coordinator"
    );
    let trained_again = of_honest.iter().flat_map(|finding| &finding.reruns);
    let by_itself = trained_again.filter(|rerun| rerun.by == Some(other.node));
    assert_eq!(by_itself.count(), 0, "nobody looks at his own");
    for name in ["node-0", "node-1"] {
        let node = node(&cluster, name).await.unwrap();
        assert_eq!((node.vouched, node.audits_failed), (true, 0), "{name}");
    }
    // The first audits decide before anything is merged.
    let state = opengpu_rounds::Run::from_events(&log);
    let merged = |node: NodeId| {
        let members = state
            .members()
            .filter(move |(_, member)| member.node == node);
        members
            .flat_map(|(_, member)| &member.verdicts)
            .filter(|verdict| matches!(verdict.outcome, Outcome::Merged { .. }))
            .count()
    };
    assert_eq!(merged(id), 0, "nothing of the liar is in the weights");
    assert!(merged(other.node) >= 1, "what the stranger did is");

    // The ledger says so to everybody, and its sums are the run's.
    let out = cluster.folder.path().join("ledger");
    let folder = out.to_str().unwrap();
    opengpu(
        &cluster.home(),
        &["ledger", "export", "1", "--url", &url, "--out", folder],
    );
    let report = opengpu(&cluster.home(), &["ledger", "verify", folder, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let credited = |finding: &Finding| finding.credited().count() as u64;
    let trained_again: u64 = of_liar.iter().chain(&of_honest).map(credited).sum();
    assert!(trained_again > 0);
    // The vouched nodes' own updates are audited as well, now and then.
    assert!(report["totals"]["trained_again"].as_u64().unwrap() >= trained_again);
    let lines = std::fs::read_to_string(out.join("ledger.jsonl")).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let lines = lines.filter(|entry| entry["type"] == "trained_again");
    let for_audits: u64 = lines.map(|entry| entry["tokens"].as_u64().unwrap()).sum();
    assert_eq!(
        report["totals"]["tokens"],
        state.totals().tokens + for_audits
    );
    assert_eq!(report["totals"]["audits_failed"], of_liar.len());
    let nodes = report["nodes"].as_array().unwrap();
    let of = |id: NodeId| nodes.iter().find(|node| node["node"] == id.0).unwrap();
    assert_eq!(of(id)["tokens"], 0, "no credit for what was not done");

    // An operator can take it back.
    opengpu(
        &cluster.home(),
        &["node", "restore", &id.to_string(), "--url", &url],
    );
    assert_eq!(node(&cluster, liar.name).await.unwrap().state, "active");
    honest.leave().await;
    liar.leave().await;
}
