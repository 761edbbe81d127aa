//! What goes wrong on a node, short of its death: a trainer that hangs, weights that rot in
//! memory, a run that goes back. The agent mends each by itself, and says why.

use std::time::{Duration, Instant};

use opengpu_protocol::wire::RunView;
use opengpu_rounds::{Revision, RunId};
use opengpu_trainer_protocol::SharedFolder;

use crate::cluster::{Cluster, opengpu, signal, trainer_of};

const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until the run looks as it should.
async fn until(cluster: &Cluster, run: RunId, what: &str, looks: impl Fn(&RunView) -> bool) {
    let client = cluster.client();
    let started = Instant::now();
    loop {
        let view = client.run(run).await.unwrap();
        if looks(&view) {
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}; the run is {} at revision {} ({})",
            view.phase,
            view.revision,
            view.explanation
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stop(cluster: &mut Cluster, run: RunId) -> RunView {
    let client = cluster.client();
    let action = opengpu_protocol::operator::RunAction::Stop;
    client.act_on_run(run, action).await.unwrap();
    cluster.wait_until_settled(run, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trainer_that_hangs_is_replaced_and_its_worker_trains_again() {
    let mut cluster = Cluster::with_nodes(1).await;
    let run = cluster.submit(100_000, 1, "evaluate_every = 0");
    until(&cluster, run, "a first merge", |view| {
        view.revision.number >= 2
    })
    .await;
    let hung = trainer_of(&cluster.nodes[0]).unwrap();
    signal(hung, "STOP");
    let before = cluster.client().run(run).await.unwrap().revision.number;
    until(&cluster, run, "merges after the hang", |view| {
        view.revision.number >= before + 3
    })
    .await;
    assert_ne!(trainer_of(&cluster.nodes[0]), Some(hung));
    let log = cluster.log("node-0");
    assert!(log.contains("gave no sign of life"), "{log}");
    // The agent writes its status down every other second.
    let started = Instant::now();
    let problem = loop {
        let status = opengpu(&cluster.node_home(0), &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        if let Some(problem) = status["devices"][0]["trainer_problem"].as_str() {
            break problem.to_owned();
        }
        assert!(started.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(problem.contains("gave no sign of life"), "{problem}");
    stop(&mut cluster, run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_that_rot_in_memory_are_found_by_their_digest_and_fetched_again() {
    let mut cluster = Cluster::with_nodes(2).await;
    let run = cluster.submit(100_000, 2, "evaluate_every = 0");
    until(&cluster, run, "a first merge", |view| {
        view.revision.number >= 2
    })
    .await;
    let shared = SharedFolder::of(&cluster.node_home(0).join("node")).unwrap();
    let mut weights = shared.open("weights-0").unwrap().unwrap();
    weights.as_f32_mut()[1000] += 1.0;
    drop(weights);
    let started = Instant::now();
    while !cluster
        .log("node-0")
        .contains("weights differ after a merge")
    {
        assert!(started.elapsed() < PATIENCE, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let at = cluster.client().run(run).await.unwrap().revision.number;
    until(&cluster, run, "both go on with right weights", |view| {
        let holds_new = |revision: Option<Revision>| revision.is_some_and(|held| held.number > at);
        view.workers.iter().all(|worker| holds_new(worker.revision))
    })
    .await;
    let view = stop(&mut cluster, run).await;
    assert_eq!(view.workers.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_is_a_replay_on_each_node_and_training_goes_on_in_a_new_lineage() {
    let mut cluster = Cluster::with_nodes(2).await;
    // A checkpoint every four merges.
    let run = cluster.submit(100_000, 2, "evaluate_every = 0");
    until(&cluster, run, "six merges", |view| {
        view.revision.number >= 6
    })
    .await;
    let checkpoint = cluster.client().history(run, revision(0, 0)).await.unwrap();
    let to = checkpoint.checkpoint.revision;
    let url = cluster.url();
    let arguments = ["run", "rollback", "1", "--url", &url, "--to"];
    let to_text = to.to_string();
    opengpu(
        &cluster.home(),
        &[&arguments[..], &[to_text.as_str()]].concat(),
    );
    until(&cluster, run, "merges in the new lineage", |view| {
        view.revision.lineage == 1 && view.revision.number >= to.number + 3
    })
    .await;
    let view = stop(&mut cluster, run).await;
    assert_eq!(view.revision.lineage, 1);
    for node in ["node-0", "node-1"] {
        let log = cluster.log(node);
        assert!(
            log.contains("the run went back") && log.contains("made a checkpoint from the disk"),
            "{node} fetched what it had"
        );
    }
}

fn revision(lineage: u32, number: u64) -> Revision {
    Revision { lineage, number }
}
