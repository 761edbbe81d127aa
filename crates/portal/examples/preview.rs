//! The portal's pages over a sample run that moves, without a coordinator:
//! `cargo run -p opengpu-portal --example preview [ADDRESS]`.
//!
//! With more than one run: `PREVIEW_RUNS=all`; with none: `PREVIEW_RUNS=none`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use opengpu_portal::{Source, sample};
use opengpu_protocol::wire::{Activity, RunView};
use opengpu_rounds::RunId;
use tokio::sync::watch;

struct Preview {
    runs: String,
    started: Instant,
    changes: watch::Sender<u64>,
}

impl Preview {
    /// A round every four seconds, from the 38th to the last, and again.
    fn moving_run(&self) -> RunView {
        let seconds = self.started.elapsed().as_secs_f64();
        let round = 38 + (seconds / 4.0) as u64 % (sample::ROUNDS - 38);
        let mut run = sample::training_run(round);
        for worker in &mut run.workers {
            if let Some(Activity::Training { blocks_done, .. }) = &mut worker.activity {
                *blocks_done = (seconds.rem_euclid(4.0) * 6.0) as u64;
            }
        }
        if let Some(open) = run.rounds.last_mut() {
            open.duration_ms = (seconds.rem_euclid(4.0) * 1000.0) as u64;
        }
        run
    }
}

impl Source for Preview {
    fn runs(&self) -> BoxFuture<'_, Vec<RunView>> {
        let mut runs = match self.runs.as_str() {
            "none" => Vec::new(),
            "all" => sample::runs(),
            _ => vec![self.moving_run()],
        };
        if let Some(first) = runs.first_mut() {
            *first = self.moving_run();
        }
        async { runs }.boxed()
    }

    fn run(&self, run: RunId) -> BoxFuture<'_, Option<RunView>> {
        async move { self.runs().await.into_iter().find(|view| view.run == run) }.boxed()
    }

    fn changes(&self, _run: RunId) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into());
    let (changes, _) = watch::channel(0);
    let ticks = changes.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ticks.send_modify(|change| *change += 1);
        }
    });
    let runs = std::env::var("PREVIEW_RUNS").unwrap_or_default();
    let source = Arc::new(Preview {
        runs,
        started: Instant::now(),
        changes,
    });
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("http://{}/", listener.local_addr()?);
    axum::serve(listener, opengpu_portal::router(source)).await
}
