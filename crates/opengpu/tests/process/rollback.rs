//! A run that one worker spoils goes back by itself, without it, and goes on.

use std::time::{Duration, Instant};

use opengpu_protocol::wire::RunView;
use opengpu_rounds::{Event, EventKind, RunId, WorkerId};

use crate::cluster::{Cluster, opengpu};
use crate::invariants;
use crate::stranger::{Stranger, altered_trainer, node};

const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until the run looks as it should.
async fn until(cluster: &Cluster, run: RunId, what: &str, looks: impl Fn(&RunView) -> bool) {
    let started = Instant::now();
    loop {
        let view = cluster.client().run(run).await.unwrap();
        if looks(&view) {
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}; the run is {} at revision {} ({})\n{}",
            view.phase,
            view.revision,
            view.explanation,
            cluster.log("coordinator")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Who was left out by the rollbacks that nobody asked for.
fn left_out(log: &[Event]) -> Vec<Vec<WorkerId>> {
    let rollbacks = log.iter().filter_map(|event| match &event.kind {
        EventKind::RolledBack {
            by_itself: true,
            left_out,
            ..
        } => Some(left_out.clone()),
        _ => None,
    });
    rollbacks.collect()
}

/// Held-out losses, oldest first.
async fn losses(cluster: &Cluster, run: RunId) -> Vec<f64> {
    let history = cluster.client().run(run).await.unwrap().evaluations;
    history.iter().map(|known| known.nats_per_token).collect()
}

/// Alone in its rounds, a worker whose learning rate is a hundred thousand times too high is compared
/// with nobody, so that its update is merged; what stops it is the held-out text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_one_worker_spoils_goes_back_without_it_and_goes_on() {
    let mut cluster = Cluster::with_nodes(1).await;
    let run = cluster.submit(100_000, 1, "evaluate_every = 1");
    until(&cluster, run, "a checkpoint", |view| {
        view.revision.number >= 6
    })
    .await;
    cluster.nodes[0].kill();
    let wild = altered_trainer(
        &cluster,
        r#"s/"learning_rate":[0-9.e-]*/"learning_rate":400.0/"#,
    );
    let wild = Stranger::join(&cluster, "wild", wild);
    until(&cluster, run, "a rollback", |view| {
        view.revision.lineage >= 1
    })
    .await;
    let spoilt = losses(&cluster, run).await;
    cluster.restart_node(0);
    let back = cluster.client().run(run).await.unwrap().revision.number;
    until(&cluster, run, "progress without the worker", |view| {
        view.revision.number >= back + 6
    })
    .await;

    let log = invariants::whole_log(&cluster.client(), run).await;
    let id = node(&cluster, wild.name).await.unwrap().node;
    let state = opengpu_rounds::Run::from_events(&log);
    let members = state.members();
    let of_wild = members.filter(|(_, member)| member.node == id);
    let of_wild: Vec<_> = of_wild.map(|(worker, _)| worker).collect();
    assert_eq!(
        left_out(&log),
        std::slice::from_ref(&of_wild),
        "one rollback, without it"
    );
    let after = log
        .iter()
        .skip_while(|event| !matches!(event.kind, EventKind::RolledBack { .. }));
    for event in after {
        if let EventKind::Assigned { worker, .. } = &event.kind {
            assert!(!of_wild.contains(worker), "left out, but given work");
        }
    }
    let lowest = spoilt.iter().copied().fold(f64::INFINITY, f64::min);
    let now = losses(&cluster, run).await;
    assert!(now.last().unwrap() < &(lowest * 1.1), "{now:?}");

    // An operator who looked at it takes it back.
    let url = cluster.url();
    opengpu(
        &cluster.home(),
        &["node", "restore", &id.to_string(), "--url", &url],
    );
    let log = invariants::whole_log(&cluster.client(), run).await;
    let readmitted = |event: &Event| matches!(&event.kind, EventKind::Readmitted { worker } if of_wild.contains(worker));
    assert!(log.iter().any(readmitted));
    wild.leave().await;
}
