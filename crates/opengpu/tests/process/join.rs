//! `serve` and three `join` on homes of their own, and a run from a run file.

use std::{collections::BTreeSet, path::Path, time::Duration};

use opengpu_protocol::{RunSpec, operator::RunAction};
use opengpu_rounds::{AssignmentId, Event, EventKind};

use crate::{
    cluster::{Cluster, opengpu},
    invariants,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_and_three_joins_train_a_submitted_run_to_its_end() {
    let mut cluster = Cluster::with_nodes(3).await;
    let run = cluster.submit(6, 3, "evaluate_every = 3");
    let view = cluster
        .wait_until_settled(run, Duration::from_secs(120))
        .await;
    let events = invariants::whole_log(&cluster.client(), run).await;
    let figures = invariants::check(&events, &view);
    assert_eq!(view.revision.number, 6);
    assert!(
        figures.merged >= 12,
        "three workers in six rounds: {figures:?}"
    );
    let url = cluster.url();
    let exported = opengpu(
        &cluster.home(),
        &["run", "export", &run.to_string(), "--json", "--url", &url],
    );
    let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
    let kept = Path::new(exported["path"].as_str().unwrap());
    // The same folder, as somebody on another machine gets it.
    let fetched = cluster.folder.path().join("fetched");
    let folder = fetched.to_str().unwrap();
    let arguments = ["run", "export", "1", "--url", &url, "--out", folder];
    opengpu(&cluster.home(), &arguments);
    for file in ["model.safetensors", "config.json", "manifest.json"] {
        let bytes = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert_eq!(bytes(kept), bytes(&fetched), "{file}");
    }
    let text = opengpu(
        &cluster.home(),
        &[
            "generate",
            "--model",
            folder,
            "--prompt",
            "KING",
            "--max-tokens",
            "8",
        ],
    );
    assert!(text.starts_with("KING"), "{text:?}");
    let status = opengpu(&cluster.node_home(0), &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status.is_object(), "{status}");
    let nodes = opengpu(&cluster.home(), &["node", "list", "--json", "--url", &url]);
    let nodes: Vec<opengpu_protocol::wire::NodeView> = serde_json::from_str(&nodes).unwrap();
    assert_eq!(nodes.len(), 3);
}

/// Runs number their assignments alike: what was done in one says nothing of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_trained_one_run_train_the_next() {
    let mut cluster = Cluster::with_nodes(2).await;
    let client = cluster.client();
    let first = cluster.submit(4, 2, "evaluate_every = 0");
    let patience = Duration::from_secs(120);
    let view = cluster.wait_until_settled(first, patience).await;
    let spec = RunSpec {
        name: "second".into(),
        ..view.spec
    };
    let second = client.create_run(&spec).await.unwrap().run;
    client.act_on_run(second, RunAction::Start).await.unwrap();
    let view = cluster.wait_until_settled(second, patience).await;
    let events = invariants::whole_log(&client, second).await;
    invariants::check(&events, &view);
    let answered_in_first = answered(&invariants::whole_log(&client, first).await);
    let answered_in_second = answered(&events);
    assert!(
        !answered_in_first.is_disjoint(&answered_in_second),
        "first {answered_in_first:?}, second {answered_in_second:?}"
    );
}

/// The assignments to which an update was accepted.
fn answered(events: &[Event]) -> BTreeSet<AssignmentId> {
    let assignment = |event: &Event| match event.kind {
        EventKind::UpdateAccepted { assignment, .. } => Some(assignment),
        _ => None,
    };
    events.iter().filter_map(assignment).collect()
}
