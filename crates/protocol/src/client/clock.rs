//! A signing client's time and counter: both follow what the coordinator says.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Offset to the coordinator's clock, and the last counter used.
///
/// Counters are microseconds since 1970 or one more than the last, whichever is higher: they
/// rise across restarts without a file, and stay below 2^53 until the year 2255. Should the
/// machine's clock be set back, the coordinator's refusal carries the floor to jump over.
#[derive(Debug, Default)]
pub(super) struct Clock {
    offset_ms: AtomicI64,
    last_counter: AtomicU64,
}

impl Clock {
    pub(super) fn now_ms(&self) -> u64 {
        let now = i64::try_from(system_micros() / 1000).unwrap_or(0);
        let there = now.saturating_add(self.offset_ms.load(Ordering::Relaxed));
        u64::try_from(there).unwrap_or(0)
    }

    pub(super) fn learn_time(&self, unix_ms: u64) {
        let now = i64::try_from(system_micros() / 1000).unwrap_or(0);
        let there = i64::try_from(unix_ms).unwrap_or(now);
        self.offset_ms
            .store(there.saturating_sub(now), Ordering::Relaxed);
    }

    pub(super) fn next_counter(&self) -> u64 {
        let micros = system_micros();
        let next = |last: u64| Some(micros.max(last + 1));
        match self
            .last_counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        {
            Ok(last) | Err(last) => micros.max(last + 1),
        }
    }

    pub(super) fn raise_counter(&self, floor: u64) {
        let floor = floor.min(crate::signing::INTEGER_LIMIT - 2);
        self.last_counter.fetch_max(floor, Ordering::Relaxed);
    }
}

fn system_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_only_rises_and_jumps_over_a_floor() {
        let clock = Clock::default();
        let mut last = 0;
        for _ in 0..1000 {
            let next = clock.next_counter();
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        clock.raise_counter(last + 1_000_000_000_000);
        assert_eq!(clock.next_counter(), last + 1_000_000_000_001);
        clock.raise_counter(5);
        assert_eq!(clock.next_counter(), last + 1_000_000_000_002);
    }

    #[test]
    fn a_clock_that_is_off_follows_the_coordinators() {
        let clock = Clock::default();
        let there = clock.now_ms() - 7_200_000;
        clock.learn_time(there);
        assert!(clock.now_ms().abs_diff(there) < 5_000);
    }
}
