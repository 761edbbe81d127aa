//! Reports of one worker: about once a second, and at once when something changed.

use std::time::Duration;

use opengpu_protocol::Client;
use opengpu_protocol::wire::Report;
use opengpu_rounds::{Hash, WorkerId};
use tokio::sync::watch;

/// Between reports when nothing changes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between reports when much changes.
const SHORTEST: Duration = Duration::from_millis(200);

/// What is reported, as the device task sees it.
pub(crate) type Saying = watch::Sender<Option<(WorkerId, Report)>>;

/// Digest of a worker that holds no weights yet: no weights have it.
pub(crate) const NO_WEIGHTS: Hash = Hash([0; 32]);

/// Reports whatever `saying` holds, for ever. When the coordinator disagrees with a digest,
/// that digest goes to `disputed`.
pub(crate) async fn report(
    client: Client,
    mut said: watch::Receiver<Option<(WorkerId, Report)>>,
    disputed: watch::Sender<Option<Hash>>,
) {
    loop {
        let saying = said.borrow_and_update().clone();
        if let Some((worker, report)) = saying {
            match client.report(worker, &report).await {
                Ok(reported) if reported.resync && report.digest != NO_WEIGHTS => {
                    disputed.send_replace(Some(report.digest));
                }
                Ok(_) => {}
                // The next one is a second away; a broken line is logged where it is held.
                Err(error) => tracing::debug!(%error, "a report did not arrive"),
            }
        }
        tokio::time::sleep(SHORTEST).await;
        let changed = tokio::time::timeout(INTERVAL - SHORTEST, said.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return; // The device task has ended.
        }
    }
}
