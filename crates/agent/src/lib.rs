//! The agent: the process on a volunteer's machine that enrols, keeps the global weights and
//! each worker's error feedback, supervises a trainer for each device, and reports.
//!
//! It trains nothing itself, listens on nothing, and decides nothing about a run: the
//! coordinator says in its plan what should be, and the agent makes it so, step by step, from
//! whatever state it finds itself in.
//!
//! - [`run`]: an agent until shutdown.
//! - [`status`]: what the agent of a home is doing.
//! - [`rotate_key`]: gives this machine another key; [`node_client`]: speaks as its node.
//! - [`forget`]: removes what an agent left on this machine.

mod connection;
mod credit;
mod device;
mod error;
#[cfg(test)]
mod fake;
mod feedback;
mod home;
mod identity;
mod journal;
mod keys;
mod mirror;
mod next_step;
mod receipts;
mod reporter;
mod settings;
mod shards;
mod status;

use std::path::Path;
use std::time::Duration;

use opengpu_protocol::Client;
use opengpu_trainer_protocol::SharedFolder;
use tokio::sync::watch;
use tokio::task::JoinSet;

use connection::Line;
use device::{Device, Shared};
use home::{NodeHome, failed};
use identity::Enrolment;
use receipts::Receipts;
use shards::Shards;
use status::Board;

pub use error::AgentError;
pub use keys::{node_client, rotate_key};
pub use settings::{AgentSettings, DeviceSettings};
pub use status::{AgentStatus, DeviceStatus, status};

/// What this agent calls itself.
pub(crate) const SOFTWARE: &str = concat!("opengpu ", env!("CARGO_PKG_VERSION"));

/// How long the devices may take to come to rest at shutdown.
const REST: Duration = Duration::from_secs(10);
/// How long receipts of the last updates are waited for when the agent stops.
const LAST_RECEIPTS: Duration = Duration::from_secs(2);

/// Runs an agent until its shutdown is asked for (`Ok`) or it can't go on.
pub async fn run(settings: AgentSettings) -> Result<(), AgentError> {
    if settings.devices.is_empty() {
        return Err(AgentError::NoDevice);
    }
    let home = NodeHome::open(&settings.home)?;
    let key = identity::key(&home)?;
    let mut enrolment = identity::enrol_if_needed(&home, &settings, &key).await?;
    loop {
        let client = Client::node(&enrolment.server, key.clone(), enrolment.node)?;
        match work(&home, &settings, client, &enrolment).await {
            // The token tells that the owner means this coordinator.
            Err(AgentError::UnknownNode { server, node }) if settings.token.is_some() => {
                tracing::warn!(
                    server,
                    node = node.0,
                    "the coordinator does not know this node; enrolling again"
                );
                let again = identity::enrol(&home, &settings, &key, &server).await?;
                if again.node == node {
                    return Err(AgentError::UnknownNode { server, node });
                }
                enrolment = again;
            }
            ended => return ended,
        }
    }
}

/// Removes what an agent left in shared memory and its caches; the key and the enrolment
/// stay. Refused while an agent runs.
pub fn forget(home: &Path) -> Result<(), AgentError> {
    let home = NodeHome::open(home)?;
    let folder = SharedFolder::of(home.folder());
    folder
        .and_then(SharedFolder::remove_all)
        .map_err(|e| failed("remove the shared files of", home.folder(), e))?;
    for name in ["runs", "blobs", "journal"] {
        let path = home.folder().join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Works for one coordinator under one enrolment.
async fn work(
    home: &NodeHome,
    settings: &AgentSettings,
    client: Client,
    enrolment: &Enrolment,
) -> Result<(), AgentError> {
    let board = Board::default();
    board.update(|status| {
        status.pid = std::process::id();
        status.server.clone_from(&enrolment.server);
        status.node = Some(enrolment.node);
        status.name.clone_from(&enrolment.name);
        status.devices = (0..settings.devices.len() as u32)
            .map(|device| DeviceStatus {
                device,
                ..DeviceStatus::default()
            })
            .collect();
    });
    let folder = SharedFolder::of(home.folder())
        .map_err(|e| failed("make the shared folder of", home.folder(), e))?;
    let (line, follow) = watch::channel(Line::default());
    // Ends with this call, whatever ends it.
    let shutdown = settings.shutdown.child_token();
    let (receipts, clerk) = Receipts::new(client.clone(), home.clone(), board.clone());
    let shared = Shared {
        home: home.clone(),
        folder,
        client: client.clone(),
        shards: Shards::new(home.clone(), client.clone()),
        board: board.clone(),
        receipts,
        line: follow,
        shutdown: shutdown.clone(),
    };

    let mut devices = JoinSet::new();
    let mut beside = JoinSet::new();
    for (number, settings) in settings.devices.iter().enumerate() {
        let (saying, said) = watch::channel(None);
        let (dispute, disputed) = watch::channel(None);
        beside.spawn(reporter::report(client.clone(), said, dispute));
        let device = Device::new(
            number as u32,
            settings.clone(),
            shared.clone(),
            saying,
            disputed,
        )?;
        devices.spawn(device.run());
    }
    beside.spawn(credit::watch(client.clone(), board.clone()));
    let clerk = tokio::spawn(clerk.work());
    let writer = {
        let client = client.clone();
        let traffic = move || client.traffic();
        board
            .clone()
            .keep_written(home.clone(), traffic, shutdown.clone())
    };
    let writer = tokio::spawn(writer);

    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        error = connection::hold(client.clone(), enrolment.node, line, board.clone()) => Err(error),
        Some(ended) = devices.join_next() => Err(AgentError::Device {
            problem: ended.err().map_or("it stopped".into(), |panic| panic.to_string()),
        }),
    };
    shutdown.cancel();
    let rest = async { while devices.join_next().await.is_some() {} };
    if tokio::time::timeout(REST, rest).await.is_err() {
        tracing::warn!("a device did not come to rest; it is abandoned");
    }
    // The last updates' receipts; nobody wants another any more.
    let Shared {
        folder, receipts, ..
    } = shared;
    drop(receipts);
    if tokio::time::timeout(LAST_RECEIPTS, clerk).await.is_err() {
        tracing::info!("some receipts could not be fetched any more");
    }
    if ended.is_ok() && credit::all_over(&client, &board).await {
        // Nothing will be taken up again, so the machine gets its memory back.
        if let Err(error) = folder.remove_all() {
            tracing::warn!(%error, "could not remove the shared files");
        }
    }
    board.update(|status| status.connected = false);
    // It may be writing its last; it ends by itself.
    let _ = tokio::time::timeout(REST, writer).await;
    ended
}
