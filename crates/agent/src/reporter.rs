//! Reports of one worker: every two seconds, and at once when something changed. A
//! coordinator that forgot the worker (it was started anew) is offered the device again from
//! here, as the device's own task may be in the middle of training.

use std::time::Duration;

use opengpu_protocol::Client;
use opengpu_protocol::wire::{NO_WEIGHTS, Offer, Report};
use opengpu_rounds::{Hash, WorkerId};
use tokio::sync::watch;

/// Between reports when nothing changes.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between reports when much changes.
const SHORTEST: Duration = Duration::from_millis(200);

/// What is to be said of a worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Word {
    pub(crate) device: u32,
    pub(crate) offer: Offer,
    pub(crate) worker: WorkerId,
    pub(crate) report: Report,
}

/// The device task's end.
pub(crate) type Saying = watch::Sender<Option<Word>>;

/// Reports whatever is to be said, for ever. When the coordinator disagrees with a digest,
/// that digest goes to `disputed`.
pub(crate) async fn report(
    client: Client,
    mut said: watch::Receiver<Option<Word>>,
    disputed: watch::Sender<Option<Hash>>,
) {
    loop {
        let word = said.borrow_and_update().clone();
        if let Some(word) = word {
            say(&client, &word, &disputed).await;
        }
        tokio::time::sleep(SHORTEST).await;
        let changed = tokio::time::timeout(INTERVAL - SHORTEST, said.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return; // The device task has ended.
        }
    }
}

async fn say(client: &Client, word: &Word, disputed: &watch::Sender<Option<Hash>>) {
    let mut reported = client.report(word.worker, &word.report).await;
    if reported
        .as_ref()
        .is_err_and(|error| error.code() == Some("unknown_worker"))
    {
        let offered = client.offer(word.device, &word.offer).await;
        if offered.is_ok_and(|offered| offered.worker == word.worker) {
            reported = client.report(word.worker, &word.report).await;
        }
    }
    match reported {
        Ok(reported) if reported.resync && word.report.digest != NO_WEIGHTS => {
            disputed.send_replace(Some(word.report.digest));
        }
        Ok(_) => {}
        // The next one is seconds away; a broken line is logged where it is held.
        Err(error) => tracing::debug!(%error, "a report did not arrive"),
    }
}
