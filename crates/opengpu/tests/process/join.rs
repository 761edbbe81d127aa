//! `serve` and three `join` on homes of their own, and a run from a run file.

use std::time::Duration;

use crate::{
    cluster::{Cluster, opengpu},
    invariants,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_and_three_joins_train_a_submitted_run_to_its_end() {
    let mut cluster = Cluster::start().await;
    for _ in 0..3 {
        cluster.add_node(&[]);
    }
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
    let folder = exported["path"].as_str().unwrap();
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
