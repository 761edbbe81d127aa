//! `opengpu serve`: the coordinator, with the portal's pages beside its API.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use opengpu_coordinator::{Coordinator, ServeSettings};
use opengpu_portal::Source;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::RunId;
use opengpu_trainer_protocol::TrainerCommand;
use tokio::sync::watch;

use crate::{cli::Serve, home::Home, shutdown};

/// Serves until told to stop.
pub async fn run(home: &Home, args: Serve) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    std::fs::create_dir_all(home.logs()).context("cannot make the folder for logs")?;
    let log = home.logs().join("coordinator-trainer.log");
    let trainer = TrainerCommand {
        // What it does is never urgent, and must not slow down nodes on the same machine.
        niceness: 5,
        ..TrainerCommand::new(program, log)
            .arg("trainer")
            .env("OPENGPU_THREADS", "1")
    };
    let bound = opengpu_coordinator::serve(ServeSettings {
        home: home.path().to_path_buf(),
        listen: args.listen,
        database_url: args.database,
        trainer: Some(trainer),
        extra_routes: Some(Box::new(|coordinator| {
            opengpu_portal::router(Arc::new(Runs(coordinator.clone())))
        })),
        shutdown: shutdown::token(args.until_stdin_closes),
    })
    .await?;
    let address = format!("http://{}", reachable(bound.addr));
    std::fs::write(home.address_file(), &address)
        .with_context(|| format!("cannot write {}", home.address_file().display()))?;
    println!("serving at {address}");
    println!(
        "join with: opengpu join {address} --token $(cat {})",
        home.join_token_file().display()
    );
    let stopped = bound.stopped().await;
    // A leftover address would only mislead; that it is gone already is no problem.
    let _ = std::fs::remove_file(home.address_file());
    stopped
}

/// The address that a client on this machine can use.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut address = bound;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The coordinator's runs, as the portal wants them.
struct Runs(Coordinator);

impl Source for Runs {
    fn runs(&self) -> BoxFuture<'_, Vec<RunView>> {
        let mut runs = self.0.runs();
        runs.sort_by_key(|run| std::cmp::Reverse(run.run));
        Box::pin(std::future::ready(runs))
    }

    fn run(&self, run: RunId) -> BoxFuture<'_, Option<RunView>> {
        Box::pin(std::future::ready(self.0.run_view(run)))
    }

    fn changes(&self, run: RunId) -> watch::Receiver<u64> {
        self.0.subscribe(run)
    }

    fn stopping(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.0.shutdown_token().cancelled_owned())
    }
}
