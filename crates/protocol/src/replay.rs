//! Which counters of a node were seen: the coordinator's side of replay protection.
//!
//! Requests of one node overlap and overtake each other, so that "must be above the last"
//! would refuse honest ones. As in IPsec (RFC 4303, section 3.4.3) a window of the latest
//! counters says which of them were used; all below the window are refused. Counters are
//! near microseconds since 1970, so the window is kept as a set and bounded by number, not
//! by width.
//!
//! Pure: kept in memory by the coordinator, which persists [`ReplayWindow::floor_to_persist`]
//! ahead of use and starts from it with [`ReplayWindow::above`] after a restart.

use std::collections::BTreeSet;

use crate::signing::SignatureRefusal;

/// How many of a node's latest counters are remembered.
const REMEMBERED: usize = 256;

/// The counters of one node.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    /// All at or below were used or are too old to tell.
    floor: u64,
    /// Used, above the floor.
    used: BTreeSet<u64>,
}

impl ReplayWindow {
    /// A window in which all up to `floor` were used.
    pub fn above(floor: u64) -> Self {
        Self {
            floor,
            used: BTreeSet::new(),
        }
    }

    /// Admits a counter once. To be called only after the signature was verified, or anyone
    /// could use a node's counters up.
    pub fn admit(&mut self, counter: u64) -> Result<(), SignatureRefusal> {
        if counter <= self.floor || !self.used.insert(counter) {
            return Err(SignatureRefusal::Replayed {
                counter,
                floor: self.highest(),
            });
        }
        if self.used.len() > REMEMBERED
            && let Some(lowest) = self.used.pop_first()
        {
            self.floor = lowest;
        }
        Ok(())
    }

    /// The highest counter used so far; one above it is always admitted.
    pub fn highest(&self) -> u64 {
        self.used
            .last()
            .copied()
            .unwrap_or(self.floor)
            .max(self.floor)
    }

    /// What must be on disk before the answer to a request goes out, given what is on disk:
    /// `Some` when the highest counter has passed it. Steps of `step` keep writes rare; a
    /// restart then refuses up to `step` counters that were never used, which clients skip.
    pub fn floor_to_persist(&self, persisted: u64, step: u64) -> Option<u64> {
        let highest = self.highest();
        (highest > persisted).then(|| highest.saturating_add(step))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_counter_is_admitted_twice(counters in prop::collection::vec(0..600_u64, 0..2000)) {
            let mut window = ReplayWindow::default();
            let mut admitted = BTreeSet::new();
            for counter in counters {
                if window.admit(counter).is_ok() {
                    prop_assert!(admitted.insert(counter), "{counter} was admitted twice");
                }
                prop_assert!(window.used.len() <= REMEMBERED);
            }
        }
    }

    #[test]
    fn requests_that_overtake_each_other_are_all_admitted() {
        let mut window = ReplayWindow::above(1000);
        for counter in [1005, 1001, 1003, 1002, 1004] {
            window.admit(counter).unwrap();
        }
        assert_eq!(
            window.admit(1003).unwrap_err(),
            SignatureRefusal::Replayed {
                counter: 1003,
                floor: 1005
            }
        );
    }

    #[test]
    fn after_a_restart_nothing_used_before_is_admitted() {
        let mut window = ReplayWindow::above(0);
        let mut persisted = 0;
        for counter in 1..5000 {
            window.admit(counter).unwrap();
            if let Some(floor) = window.floor_to_persist(persisted, 1000) {
                persisted = floor;
            }
        }
        let mut restarted = ReplayWindow::above(persisted);
        for counter in 1..5000 {
            let floor = restarted
                .admit(counter)
                .unwrap_err()
                .mending_header()
                .unwrap()
                .1;
            assert!(window.clone().admit(floor + 1).is_ok());
        }
        restarted.admit(persisted + 1).unwrap();
    }
}
