//! A merge is computed beside the API, not in its way.

use std::time::{Duration, Instant};

use opengpu_protocol::Codec;
use opengpu_trainer_protocol::ModelConfig;

use super::support::{Server, key, offer, spec};
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

    let operator = server.operator();
    let (_, node) = server.enrol(&key(9), "bystander").await;
    let watch = async {
        let mut merging: Option<Instant> = None;
        let (mut during, mut slowest) = (0u32, Duration::ZERO);
        loop {
            let started = Instant::now();
            // A request to the memory, one to the database, and a signed one that writes.
            let view = operator.run(run).await.unwrap();
            operator.datasets().await.unwrap();
            node.offer(0, &offer()).await.unwrap();
            match view.phase.as_str() {
                "merging" => {
                    merging.get_or_insert(started);
                    during += 1;
                    slowest = slowest.max(started.elapsed());
                }
                "finished" => return (during, slowest, merging.map(|since| since.elapsed())),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let ((during, slowest, merge), ()) = tokio::join!(
        watch,
        worker.work_until(run, |view| view.phase == "finished")
    );
    let merge = merge.expect("a merge was seen");
    println!(
        "{parameters} parameters: three requests {during} times during a merge of {merge:?}, the \
         slowest time {slowest:?}"
    );
    assert!(
        during >= 3,
        "only {during} answers came while the merge was computed"
    );
}
