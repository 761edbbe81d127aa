//! `opengpu serve`: the coordinator, with the portal's pages beside its API.

use std::{
    io::IsTerminal,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use opengpu_coordinator::{Coordinator, EnrolmentPolicy, LimitSettings, ServeSettings};
use opengpu_portal::Source;
use opengpu_protocol::{Client, wire::RunView};
use opengpu_rounds::RunId;
use opengpu_trainer_protocol::TrainerCommand;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    cli::Serve,
    commands::invitation::Invitation,
    home::{Home, read_line},
    open_files, shutdown,
};

/// Where a coordinator listens if nothing is said.
const LISTEN: &str = "127.0.0.1:8470";

/// The settings file. What the command line says comes first.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: Option<SocketAddr>,
    database: Option<String>,
    enrolment: Option<EnrolmentPolicy>,
    #[serde(default)]
    limits: LimitSettings,
}

impl Config {
    /// The file that was named, or the home's own if there is one.
    fn read(home: &Home, named: Option<&Path>) -> Result<Self> {
        let own = home.config_file();
        let file = match named {
            Some(file) => file,
            None if own.exists() => &own,
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the settings {}", file.display()))?;
        toml::from_str(&text).with_context(|| {
            format!(
                "{} is no valid settings file; it may have `listen`, `database`, `enrolment` (invite, open or approval) and \
                 a table `limits`",
                file.display()
            )
        })
    }
}

/// Serves until told to stop.
pub async fn run(home: &Home, json: bool, args: Serve) -> Result<()> {
    let config = Config::read(home, args.config.as_deref())?;
    open_files::allow_many();
    let listen = match args.listen.or(config.listen) {
        Some(listen) => listen,
        None => LISTEN.parse()?,
    };
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    std::fs::create_dir_all(home.logs()).context("cannot make the folder for logs")?;
    let log = home.logs().join("coordinator-trainer.log");
    let trainer = TrainerCommand {
        // What it does is never urgent, and must not slow down nodes on the same machine.
        niceness: 5,
        ..TrainerCommand::new(program, log)
            .arg("trainer")
            .env("OPENGPU_THREADS", "1")
            .env("OPENGPU_DEVICE", "cpu")
    };
    let bound = opengpu_coordinator::serve(ServeSettings {
        home: home.path().to_path_buf(),
        listen,
        database_url: args.database.or(config.database),
        enrolment: args.enrolment.or(config.enrolment).unwrap_or_default(),
        limits: config.limits,
        trainer: Some(trainer),
        extra_routes: Some(Box::new(|coordinator| {
            opengpu_portal::router(Arc::new(Runs(coordinator.clone())))
        })),
        shutdown: shutdown::token(args.until_stdin_closes),
    })
    .await?;
    let address = format!("http://{}", reachable(bound.addr));
    home.tell_address(&address)?;
    let operator = read_line(
        &home.operator_token_file(),
        "the operator's token",
        "start it again",
    )?;
    let operator = Client::operator(&address, &operator)?;
    let on_terminal = std::io::stdout().is_terminal();
    let elsewhere = from_elsewhere(bound.addr);
    let invitation = Invitation::make(home, bound.addr, elsewhere, &operator, on_terminal).await?;
    if json {
        // One line, flushed, for a program that reads along.
        let told = serde_json::json!({
            "address": address, "join": invitation.join, "note": invitation.note,
        });
        println!("{told}");
    } else {
        println!("serving at {address}");
        println!("join with: {}", invitation.join);
        if let Some(note) = &invitation.note {
            println!("{note}");
        }
    }
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

/// The address that another machine can use, as far as this one knows: that of the interface
/// towards the rest of the world.
fn from_elsewhere(bound: SocketAddr) -> SocketAddr {
    // Connecting a datagram socket sends nothing; it only chooses an interface.
    let towards = |any: &str, world: &str| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(world).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let outward = match bound {
        _ if !bound.ip().is_unspecified() => None,
        SocketAddr::V4(_) => towards("0.0.0.0:0", "192.0.2.1:9"),
        SocketAddr::V6(_) => towards("[::]:0", "[2001:db8::1]:9"),
    };
    outward.map_or_else(
        || reachable(bound),
        |outward| SocketAddr::new(outward, bound.port()),
    )
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_homes_own_settings_are_read_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path())).unwrap();
        assert!(Config::read(&home, None).unwrap().listen.is_none());
        std::fs::write(home.config_file(), "listen = \"0.0.0.0:9000\"\n").unwrap();
        let listen = Config::read(&home, None).unwrap().listen.unwrap();
        assert_eq!(listen.to_string(), "0.0.0.0:9000");
        std::fs::write(home.config_file(), "enrolment = \"approval\"\n").unwrap();
        let enrolment = Config::read(&home, None).unwrap().enrolment;
        assert_eq!(enrolment, Some(EnrolmentPolicy::Approval));
        std::fs::write(home.config_file(), "lisen = 1\n").unwrap();
        let error = format!("{:#}", Config::read(&home, None).unwrap_err());
        assert!(
            error.contains("config.toml") && error.contains("lisen"),
            "{error}"
        );
    }
}
