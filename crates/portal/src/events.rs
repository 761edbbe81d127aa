//! The event stream of a page.
//!
//! A message without a name carries the parts that changed, as `<hx-partial>` elements that
//! htmx puts in their places; a message named `points` carries the chart's data. The first
//! messages carry everything, and each later one whole parts, so that a lost message, a
//! restarted server or a laptop that slept costs nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use opengpu_rounds::RunId;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::Source;
use crate::pages::{Part, Points, Show};

/// Streams that one server keeps open.
pub const MAX_STREAMS: usize = 512;
/// A stream sends at most this often, however often the run changes.
const SHORTEST_GAP: Duration = Duration::from_millis(500);
/// It looks this often even when nobody told of a change: some numbers age by themselves.
const LONGEST_GAP: Duration = Duration::from_secs(2);
/// A sign of life for the proxies between us and the browser.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What the watcher has been sent, and what is needed to send more.
struct Watcher {
    source: Arc<dyn Source>,
    run: RunId,
    show: Show,
    changes: watch::Receiver<u64>,
    stopping: BoxFuture<'static, ()>,
    looked_at: Option<Instant>,
    parts: Vec<Part>,
    points: Option<Points>,
    // Given back when the stream is dropped.
    _place: OwnedSemaphorePermit,
}

/// The parts of a page, now and whenever they change.
pub fn stream(
    source: Arc<dyn Source>,
    run: RunId,
    show: Show,
    place: OwnedSemaphorePermit,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = source.changes(run);
    let stopping = source.stopping();
    let watcher = Watcher {
        source,
        run,
        show,
        changes,
        stopping,
        looked_at: None,
        parts: Vec::new(),
        points: None,
        _place: place,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let events = watcher.next().await?;
        Some((stream::iter(events.into_iter().map(Ok)), watcher))
    });
    Sse::new(events.flatten()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl Watcher {
    /// The next messages; none when the run or the server is gone.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            if let Some(looked_at) = self.looked_at
                && !self.wait(looked_at).await
            {
                return None;
            }
            self.looked_at = Some(Instant::now());
            // Marked as seen before looking, so that a change while we look is not missed.
            self.changes.borrow_and_update();
            let view = self.source.run(self.run).await?;
            let parts = match self.show.parts(&view) {
                Ok(parts) => parts,
                Err(error) => {
                    tracing::error!(code = "render", %error, "a live page could not be rendered");
                    return None;
                }
            };
            let mut events = Vec::new();
            let changed = changed_parts(&self.parts, &parts);
            if !changed.is_empty() {
                events.push(Event::default().data(changed));
            }
            self.parts = parts;
            let points = self.show.points(&view);
            if points != self.points
                && let Some(points) = &points
                && let Ok(event) = Event::default().event("points").json_data(points)
            {
                events.push(event);
            }
            self.points = points;
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    /// Waits for a change, or until it is time to look anyway. False when the server stops.
    async fn wait(&mut self, looked_at: Instant) -> bool {
        let waiting = async {
            let changed = self.changes.changed();
            if let Ok(Err(_sender_is_gone)) =
                tokio::time::timeout_at(looked_at + LONGEST_GAP, changed).await
            {
                return false;
            }
            tokio::time::sleep_until(looked_at + SHORTEST_GAP).await;
            true
        };
        tokio::select! {
            () = &mut self.stopping => false,
            go_on = waiting => go_on,
        }
    }
}

/// The parts that differ, wrapped so that htmx finds their places.
fn changed_parts(before: &[Part], now: &[Part]) -> String {
    let mut changed = String::new();
    for part in now.iter().filter(|part| !before.contains(part)) {
        let Part { id, html } = part;
        changed.push_str(&format!(
            "<hx-partial hx-target=\"#{id}\" hx-swap=\"outerMorph\">{html}</hx-partial>\n"
        ));
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent_again() {
        let part = |id, html: &str| Part {
            id,
            html: html.into(),
        };
        let before = [part("a", "<p>1</p>"), part("b", "<p>2</p>")];
        let now = [part("a", "<p>1</p>"), part("b", "<p>3</p>")];
        let changed = changed_parts(&before, &now);
        assert!(
            changed.contains("#b") && changed.contains("<p>3</p>"),
            "{changed}"
        );
        assert!(!changed.contains("#a"), "{changed}");
        assert_eq!(changed_parts(&now, &now), "");
    }
}
