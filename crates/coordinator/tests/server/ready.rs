//! A coordinator with a long log is killed with signal 9 and answers again. How soon is
//! printed, not asserted: a busy machine proves nothing.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use opengpu_coordinator::OPERATOR_TOKEN;
use opengpu_coordinator::store::Store;
use opengpu_protocol::Client;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::RunId;
use opengpu_trainer_protocol::ModelConfig;

use super::support::{Server, program, spec};
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
    let (mut events, mut entries) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (more_events, more_entries) = long_run::round(round);
        events.extend(more_events);
        entries.extend(more_entries);
        if round % 100 == 99 {
            head = store
                .append(run, epoch, head, &events, &entries)
                .await
                .unwrap();
            events.clear();
            entries.clear();
        }
    }
    store.close().await.unwrap();

    let home = server.home.path();
    let mut took = Vec::new();
    for _ in 0..5 {
        // The address that the process before it left must not be taken for this one's.
        let _ = std::fs::remove_file(home.join("address"));
        let started = Instant::now();
        let mut serve = serve(home);
        let view = wait_until_ready(home, run).await;
        took.push(started.elapsed());
        serve.kill().await.unwrap();
        assert_eq!(view.revision.number, ROUNDS);
    }
    took.sort_unstable();
    println!("{head} events: ready after {:?} of {took:?}", took[2]);
}

/// The program itself, to be killed.
fn serve(home: &Path) -> tokio::process::Child {
    tokio::process::Command::new(program())
        .args(["serve", "--listen", "127.0.0.1:0", "--home"])
        .arg(home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Waits until the coordinator says that it is ready, and looks at the run.
async fn wait_until_ready(home: &Path, run: RunId) -> RunView {
    let started = Instant::now();
    loop {
        if let Ok(address) = std::fs::read_to_string(home.join("address"))
            && !address.is_empty()
        {
            let token = std::fs::read_to_string(home.join(OPERATOR_TOKEN)).unwrap();
            let client = Client::operator(&address, token.trim()).unwrap();
            if client.is_ready().await {
                return client.run(run).await.unwrap();
            }
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never ready");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
