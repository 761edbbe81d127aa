//! What the coordinator says of the runs that this node's workers are in: credit for the
//! owner's eyes, and whether all is over. Asked rarely: a description of a run is long.

use std::time::Duration;

use opengpu_protocol::Client;
use opengpu_rounds::{RunId, WorkerId};

use crate::status::Board;

const INTERVAL: Duration = Duration::from_secs(60);
/// How long the question at shutdown may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Brings the credit in the status up to date, for ever.
pub(crate) async fn watch(client: Client, board: Board) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        for (device, run, worker) in parts(&board) {
            // The next one is a minute away.
            let Ok(view) = client.run(run).await else {
                continue;
            };
            if let Some(seen) = view.workers.iter().find(|seen| seen.worker == worker) {
                board.device(device, |status| {
                    status.credited_tokens = seen.credited_tokens
                });
            }
        }
    }
}

/// Whether every run that a device of this node is in has ended.
pub(crate) async fn all_over(client: &Client, board: &Board) -> bool {
    let ask = async {
        for (_, run, _) in parts(board) {
            match client.run(run).await {
                Ok(view) if matches!(view.phase.as_str(), "finished" | "failed") => {}
                _ => return false,
            }
        }
        true
    };
    !parts(board).is_empty() && tokio::time::timeout(PATIENCE, ask).await.unwrap_or(false)
}

/// Device, run and worker of those that are in a run.
fn parts(board: &Board) -> Vec<(u32, RunId, WorkerId)> {
    let status = board.snapshot();
    let part = |device: &crate::DeviceStatus| Some((device.device, device.run?, device.worker?));
    status.devices.iter().filter_map(part).collect()
}
