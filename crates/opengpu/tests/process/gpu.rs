//! A node on a GPU beside one on a processor; a software Vulkan device such as lavapipe will do.

use std::time::Duration;

use crate::{cluster::Cluster, invariants};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpu_and_processor_train_one_run_to_the_same_weights() {
    let mut cluster = Cluster::start().await;
    let gpu = cluster.add_node(&["--device", "gpu"]);
    cluster.add_node(&["--device", "cpu"]);
    let run = cluster.submit(6, 2, "evaluate_every = 0");

    let view = cluster
        .wait_until_settled(run, Duration::from_secs(300))
        .await;
    let events = invariants::whole_log(&cluster.client(), run).await;
    invariants::check(&events, &view);
    for worker in &view.workers {
        assert!(worker.accepted >= 1, "{worker:#?}");
    }
    let devices: Vec<_> = view.workers.iter().map(|worker| &worker.device).collect();
    let on_gpu = devices.iter().filter(|name| !name.starts_with("CPU"));
    assert_eq!((devices.len(), on_gpu.count()), (2, 1), "{devices:?}");

    let kept = cluster.node_home(gpu).join("node/kernels/0");
    let files = std::fs::read_dir(&kept).map_or(0, Iterator::count);
    assert!(files > 0, "nothing is kept in {}", kept.display());
}
