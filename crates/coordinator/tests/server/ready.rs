//! A coordinator with a long log answers again after a restart. How soon is printed, not
//! asserted: a busy machine proves nothing.

use std::time::Instant;

use opengpu_coordinator::store::Store;
use opengpu_trainer_protocol::ModelConfig;

use super::support::{Server, spec};
use crate::store::long_run;

/// Rounds in the log, twenty events each.
const ROUNDS: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_with_a_thousand_rounds_in_the_log_is_ready_again_and_knows_them() {
    let mut server = Server::start().await;
    let dataset = server.dataset("noise", 512).await;
    server.stop().await;
    let url = server.home.path().join("opengpu.db").display().to_string();
    let mut spec = spec("long", "noise", ROUNDS + 1, 8);
    let mut model = ModelConfig::preset("pico").unwrap();
    model.vocab_size = dataset.vocab_size;
    spec.model = Some(model);

    // As long as a log can be without a snapshot, and as short as one: the driver stores one
    // every thousand events, but a log without any must open just as well.
    let store = Store::open(&url).await.unwrap();
    let run = store
        .create_run(&spec, &long_run::first_events(ROUNDS + 1))
        .await
        .unwrap();
    let epoch = store.claim(run).await.unwrap();
    let mut head = long_run::first_events(ROUNDS + 1).len() as u64;
    let (mut events, mut credits) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (more_events, more_credits) = long_run::round(round);
        events.extend(more_events);
        credits.extend(more_credits);
        if round % 100 == 99 {
            head = store
                .append(run, epoch, head, &events, &credits)
                .await
                .unwrap();
            events.clear();
            credits.clear();
        }
    }
    store.close().await.unwrap();

    let mut took = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        server = server.restart().await;
        let ready = reqwest::get(format!("{}/readyz", server.url))
            .await
            .unwrap();
        assert_eq!(ready.status(), 200);
        let view = server.operator().run(run).await.unwrap();
        assert_eq!(view.revision.number, ROUNDS);
        took.push(started.elapsed());
    }
    took.sort_unstable();
    println!("{head} events: ready after {took:?}");
}
