//! The device's trainer: started, stopped, and replaced when it is gone.

use std::sync::Arc;
use std::time::Duration;

use opengpu_protocol::wire::{Activity, Offer};
use opengpu_trainer_protocol::{Sign, TrainerCommand, TrainerError, TrainerProcess};

use super::Shared;
use crate::settings::DeviceSettings;
use crate::status::Board;

/// How long a trainer may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two log lines of a long preparation.
const LOGGED_SECONDS: u64 = 10;

/// How long a trainer that is not to be started after all may take to notice, so that it can
/// forget which GPU it was trying.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What a trainer prepares, if that is what it says.
pub(super) fn preparation(sign: Sign) -> Option<String> {
    let Sign::Preparing { what, seconds } = sign else {
        return None;
    };
    if seconds.is_multiple_of(LOGGED_SECONDS) {
        tracing::info!(seconds, "{what}");
    }
    Some(what)
}

/// Where the trainer is, when it is.
pub(super) struct TrainerSlot {
    device: u32,
    command: TrainerCommand,
    board: Board,
    process: Option<Arc<TrainerProcess>>,
    /// Whether it was being started when nobody waited for that any more.
    starting: bool,
    starts: u32,
}

impl TrainerSlot {
    pub(super) fn new(device: u32, settings: &DeviceSettings, shared: &Shared) -> Self {
        let log = shared.home.trainer_log(device);
        let kernels = shared.home.kernels(device);
        let mut command =
            TrainerCommand::new(&settings.program, log).env("OPENGPU_KERNELS", kernels);
        command.args.clone_from(&settings.args);
        if let Some(threads) = settings.threads {
            command = command.env("OPENGPU_THREADS", threads.to_string());
        }
        if let Some(device) = &settings.device {
            command = command.env("OPENGPU_DEVICE", device);
        }
        if let Some(bytes) = settings.memory_bytes {
            command = command.env("OPENGPU_MEMORY_BYTES", bytes.to_string());
        }
        Self {
            device,
            command,
            board: shared.board.clone(),
            process: None,
            starting: false,
            starts: 0,
        }
    }

    /// Whether it is there and has not ended.
    pub(super) fn is_running(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.ended().is_none())
    }

    pub(super) fn process(&self) -> Option<Arc<TrainerProcess>> {
        self.process.clone()
    }

    /// The device in the trainer's words.
    pub(super) fn offer(&self) -> Option<Offer> {
        let greeting = self.process.as_ref()?.greeting();
        Some(Offer {
            trainer: greeting.trainer.clone(),
            device: greeting.device.clone(),
            numerics_class: greeting.numerics_class.clone(),
        })
    }

    /// Starts it, in place of one that is gone.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take()
            && let Some(why) = process.ended()
        {
            self.lost(&format!("the trainer {why}"));
        }
        self.starts += 1;
        let (board, number) = (self.board.clone(), self.device);
        let hear = |sign| {
            if let Some(what) = preparation(sign) {
                board.device(number, |status| {
                    status.activity = Some(Activity::Preparing { what });
                });
            }
        };
        self.starting = true;
        let process = TrainerProcess::spawn_hearing(&self.command, hear).await;
        self.starting = false;
        let process = process?;
        let (pid, greeting, starts) = (process.pid(), process.greeting().clone(), self.starts);
        tracing::info!(
            device = self.device,
            pid,
            trainer = greeting.trainer,
            on = greeting.device,
            "trainer started"
        );
        self.board.device(self.device, |status| {
            status.trainer = Some(format!("{} on {}", greeting.trainer, greeting.device));
            status.trainer_pid = Some(pid);
            status.trainer_starts = starts;
        });
        self.process = Some(Arc::new(process));
        Ok(())
    }

    /// Takes note of a failed request: a trainer that is gone is dropped.
    pub(super) fn note(&mut self, error: &TrainerError) {
        if error.is_fatal() {
            self.lost(&error.to_string());
            self.process = None;
        }
    }

    fn lost(&self, why: &str) {
        tracing::warn!(device = self.device, why, "the trainer is gone");
        self.board.device(self.device, |status| {
            status.trainer_problem = Some(why.to_owned());
            status.trainer_pid = None;
        });
    }

    /// Ends it.
    pub(super) async fn stop(&mut self) {
        let Some(process) = self.process.take() else {
            if self.starting {
                tokio::time::sleep(LAST_WORDS).await;
            }
            return;
        };
        // Nothing is lost when it is killed: what it does can be done again.
        match Arc::try_unwrap(process) {
            Ok(process) => drop(process.stop(PATIENCE).await),
            Err(process) => drop(process.kill().await),
        }
    }
}
