//! What the coordinator says of the runs that this node's workers are in: credit for the
//! owner's eyes, and whether all is over. Asked rarely: a description of a run is long.

use std::time::{Duration, Instant};

use opengpu_protocol::Client;
use opengpu_rounds::{RunId, WorkerId};

use crate::status::Board;

/// Between questions when all goes on.
const INTERVAL: Duration = Duration::from_secs(60);
/// Between questions while a device waits: its run may be over.
const WAITING: Duration = Duration::from_secs(15);
/// How often it is looked whether one waits.
const LOOK: Duration = Duration::from_secs(3);
/// How long the question at shutdown may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Brings credit and ends in the status up to date, for ever.
pub(crate) async fn watch(client: Client, board: Board) {
    let mut asked = Instant::now();
    let mut waited = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let waits = board.snapshot().devices.iter().any(|device| {
            device.idle_because.is_some() && device.run.is_some() && device.over != device.run
        });
        let due = if waits && waited { WAITING } else { INTERVAL };
        waited = waits;
        if asked.elapsed() >= due {
            ask(&client, &board).await;
            asked = Instant::now();
        }
    }
}

async fn ask(client: &Client, board: &Board) {
    for (device, run, worker) in parts(board) {
        // It is asked again soon.
        let Ok(view) = client.run(run).await else {
            continue;
        };
        let credit = view.workers.iter().find(|seen| seen.worker == worker);
        board.device(device, |status| {
            status.over = matches!(view.phase.as_str(), "finished" | "failed").then_some(run);
            if let Some(credit) = credit {
                status.credited_tokens = credit.credited_tokens;
            }
        });
    }
}

/// Whether every run that a device of this node is in has ended.
pub(crate) async fn all_over(client: &Client, board: &Board) -> bool {
    let over = || {
        let devices = board.snapshot().devices;
        let mut taken_up = devices
            .iter()
            .filter(|device| device.run.is_some())
            .peekable();
        taken_up.peek().is_some() && taken_up.all(|device| device.over == device.run)
    };
    if !over() {
        // The coordinator may be ending as well.
        let _ = tokio::time::timeout(PATIENCE, ask(client, board)).await;
    }
    over()
}

/// Device, run and worker of those that are in a run.
fn parts(board: &Board) -> Vec<(u32, RunId, WorkerId)> {
    let status = board.snapshot();
    let part = |device: &crate::DeviceStatus| Some((device.device, device.run?, device.worker?));
    status.devices.iter().filter_map(part).collect()
}
