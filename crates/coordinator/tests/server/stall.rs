//! A merge is computed beside the API, not in its way.

use std::time::{Duration, Instant};

use opengpu_protocol::Codec;
use opengpu_trainer_protocol::ModelConfig;

use super::support::{Server, spec};
use super::worker::Worker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_answers_while_a_large_merge_is_computed() {
    let server = Server::start().await;
    server.dataset("noise", 8192).await;
    let mut spec = spec("large", "noise", 1, 1);
    let model = ModelConfig {
        vocab_size: 8192,
        hidden_size: 1024,
        ..ModelConfig::preset("pico").unwrap()
    };
    let parameters = model.parameters();
    assert!(parameters > 10_000_000, "{parameters}");
    spec.model = Some(model);
    spec.preset = None;
    spec.evaluate_every = 0;
    spec.sync.up = Codec::Sparse { k: 64 };
    let run = server.start_run(&spec).await;
    let mut worker = Worker::join(&server, 1).await;

    let watch = async {
        let mut during = 0u32;
        let mut slowest = Duration::ZERO;
        loop {
            let started = Instant::now();
            let healthy = reqwest::get(format!("{}/healthz", server.url))
                .await
                .unwrap();
            assert_eq!(healthy.status(), 200);
            let view = server.coordinator.run_view(run).unwrap();
            match view.phase.as_str() {
                "merging" => {
                    during += 1;
                    slowest = slowest.max(started.elapsed());
                }
                "finished" => return (during, slowest),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let ((during, slowest), ()) = tokio::join!(
        watch,
        worker.work_until(run, |view| view.phase == "finished")
    );
    println!(
        "{parameters} parameters: {during} answers during the merge, the slowest after {slowest:?}"
    );
    assert!(
        during >= 3,
        "only {during} answers came while the merge was computed"
    );
}
