//! The coordinator's clock: milliseconds that only rise, over restarts and over steps of
//! the system's clock. Events carry it; nothing else is measured with it. The clock for
//! signatures is the system's, for both sides must be able to read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic milliseconds, continued from the newest event of the log.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    base_ms: AtomicU64,
}

impl Clock {
    /// A clock at 0.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            base_ms: AtomicU64::new(0),
        }
    }

    /// Makes sure that the clock reads at least `at_ms`: called with the time of the newest
    /// event of each log, before anything is decided.
    pub fn raise(&self, at_ms: u64) {
        self.base_ms.fetch_max(at_ms, Ordering::SeqCst);
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.base_ms.load(Ordering::SeqCst).saturating_add(elapsed)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The system's clock: milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_from_the_newest_event_and_never_back() {
        let clock = Clock::new();
        clock.raise(5_000);
        clock.raise(3_000);
        let first = clock.now_ms();
        assert!(first >= 5_000, "{first}");
        assert!(clock.now_ms() >= first);
    }
}
