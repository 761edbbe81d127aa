//! What an agent is told when it starts.

use std::ffi::OsString;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// One agent: one home, one coordinator, its devices.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The installation's folder; the agent keeps to `node/` and `logs/` in it.
    pub home: PathBuf,
    /// The coordinator's address; None: the one this home is enrolled at.
    pub server: Option<String>,
    /// Enrolment token; needed the first time only, and not where the coordinator admits without.
    pub token: Option<String>,
    /// What the owner calls this machine.
    pub name: String,
    /// The devices that work, in order: their position is their number.
    pub devices: Vec<DeviceSettings>,
    /// Cancelled when the agent shall end. What is under way can be resumed later.
    pub shutdown: CancellationToken,
}

/// One device and the trainer that drives it.
#[derive(Clone, Debug)]
pub struct DeviceSettings {
    /// The trainer's program, normally `std::env::current_exe()`.
    pub program: PathBuf,
    /// Its arguments, normally `trainer`.
    pub args: Vec<OsString>,
    /// Threads that it may use; None: as it likes.
    pub threads: Option<usize>,
    /// Memory that a training step may take; None: most of what is free.
    pub memory_bytes: Option<u64>,
    /// Which device it is to take; None: as it likes.
    pub device: Option<String>,
    /// Slows training down by this factor (1.0: not), for owners who want a cooler machine
    /// and for experiments with uneven ones.
    pub slowdown: f64,
}

impl DeviceSettings {
    /// A device driven by this very program, started again as `… trainer`.
    pub fn this_program() -> std::io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            args: vec!["trainer".into()],
            threads: None,
            memory_bytes: None,
            device: None,
            slowdown: 1.0,
        })
    }
}
