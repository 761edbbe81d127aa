//! What the agent is doing, for its owner: kept in memory, written to `node/status.json`
//! about every two seconds when it changed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opengpu_protocol::standing::{NoWork, StandingPlan};
use opengpu_protocol::wire::{Activity, Verdict};
use opengpu_rounds::standing::Level;
use opengpu_rounds::{FeedbackId, Hash, NodeId, Revision, RunId, WorkerId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::AgentError;
use crate::home::{NodeHome, failed};

/// An agent and its devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Whether the agent is running; when it is not, the rest is what it was last.
    #[serde(default)]
    pub running: bool,
    /// Its process.
    pub pid: u32,
    /// When this was written, milliseconds since 1970.
    pub updated_unix_ms: u64,
    /// The coordinator.
    pub server: String,
    /// This node.
    pub node: Option<NodeId>,
    /// What the coordinator calls it.
    pub name: String,
    /// Whether the directive stream is open.
    pub connected: bool,
    /// Why it is not.
    pub connection_problem: Option<String>,
    /// Whether the operator is draining this node.
    pub draining: bool,
    /// Whether the node gets no work until the operator approves it.
    #[serde(default)]
    pub pending: bool,
    /// How the node stands; older coordinators don't say.
    #[serde(default)]
    pub standing: Option<StandingPlan>,
    /// Why no run takes the node.
    #[serde(default)]
    pub no_work: Option<NoWork>,
    /// Bytes of requests since the agent started.
    pub sent_bytes: u64,
    /// Bytes of answers since the agent started.
    pub received_bytes: u64,
    /// Receipts fetched and verified since the agent started.
    #[serde(default)]
    pub receipts: u64,
    /// What is wrong with a ledger, if something is.
    #[serde(default)]
    pub ledger_problem: Option<String>,
    /// Bytes written to the disk since the agent started (not to shared memory).
    pub disk_bytes: u64,
    /// One entry for each device.
    pub devices: Vec<DeviceStatus>,
}

/// A device and its worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its number on this node.
    pub device: u32,
    /// What the coordinator calls its worker.
    pub worker: Option<WorkerId>,
    /// The trainer and device in the trainer's words.
    pub trainer: Option<String>,
    /// The trainer's process.
    pub trainer_pid: Option<u32>,
    /// How often the trainer was started.
    pub trainer_starts: u32,
    /// Why the trainer ended last.
    pub trainer_problem: Option<String>,
    /// The run it takes part in.
    pub run: Option<RunId>,
    /// That run's name.
    pub run_name: Option<String>,
    /// The round of the latest assignment.
    pub round: Option<u64>,
    /// The weights it holds.
    pub revision: Option<Revision>,
    /// Their digest.
    pub digest: Option<Hash>,
    /// The life of its error feedback.
    pub feedback: Option<FeedbackId>,
    /// What it does.
    pub activity: Option<Activity>,
    /// Why it does nothing, if so.
    pub idle_because: Option<String>,
    /// Measured.
    pub blocks_per_second: f64,
    /// Assignments trained since the agent started.
    pub trained: u64,
    /// Updates without a verdict.
    pub unsettled: usize,
    /// Updates merged since the agent started.
    pub merged: u64,
    /// Updates refused or not merged since the agent started.
    pub not_merged: u64,
    /// The run that was found to be over.
    pub over: Option<RunId>,
    /// Tokens credited to the worker, as the coordinator said last.
    pub credited_tokens: u64,
    /// The latest verdicts, oldest first.
    pub verdicts: Vec<Verdict>,
    /// What went wrong last, until the next step succeeds.
    pub problem: Option<String>,
}

impl AgentStatus {
    /// The coordinator shut the node out: why, it tells who asks with `opengpu appeal`.
    pub(crate) fn ban(&mut self) {
        self.standing = Some(StandingPlan {
            standing: Level::Banned,
            against: None,
        });
        self.no_work = None;
    }
}

/// What the agent of this home is doing, or did last. None if none ever ran here.
pub fn status(home: &Path) -> Result<Option<AgentStatus>, AgentError> {
    let path = home.join("node").join("status.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path, error)),
    };
    let status: AgentStatus = serde_json::from_slice(&text).map_err(|error| {
        let problem = format!("{error}; a running agent writes it anew within seconds");
        AgentError::Damaged { path, problem }
    })?;
    let running = NodeHome::is_in_use(home);
    Ok(Some(AgentStatus { running, ..status }))
}

/// The status in memory, shared by all tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    status: Arc<Mutex<AgentStatus>>,
}

impl Board {
    pub(crate) fn update(&self, change: impl FnOnce(&mut AgentStatus)) {
        // A panic elsewhere leaves at worst one field behind.
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn device(&self, number: u32, change: impl FnOnce(&mut DeviceStatus)) {
        self.update(|status| {
            if let Some(device) = status.devices.get_mut(number as usize) {
                change(device);
            }
        });
    }

    pub(crate) fn snapshot(&self) -> AgentStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes the status until `shutdown`, and once more then.
    pub(crate) async fn keep_written(
        self,
        home: NodeHome,
        traffic: impl Fn() -> opengpu_protocol::client::Traffic,
        shutdown: CancellationToken,
    ) {
        let mut written = AgentStatus::default();
        loop {
            let ending = shutdown.is_cancelled();
            let traffic = traffic();
            self.update(|status| {
                status.sent_bytes = traffic.sent_bytes;
                status.received_bytes = traffic.received_bytes;
            });
            let mut now = self.snapshot();
            if now != written {
                written = now.clone();
                now.disk_bytes = home.written();
                now.updated_unix_ms = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as u64);
                let text = serde_json::to_vec_pretty(&now).unwrap_or_default();
                let path = home.folder().join("status.json");
                if let Err(error) = home.replace(&path, &[&text], false) {
                    tracing::warn!(%error, "could not write the status");
                }
            }
            if ending {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}
