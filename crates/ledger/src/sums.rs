//! Totals by node and day, from which those by account, team, run or month follow.
//!
//! A correction counts on the day on which it was made, as in any book of accounts: days that
//! are over don't change. So the tokens of a single day can be below zero.
//!
//! Not here: which account a node belongs to. The caller of [`Sums::grouped`] knows.

use std::collections::BTreeMap;

use opengpu_rounds::NodeId;

use crate::{Entry, Totals};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A day in UTC: days since 1 January 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u64);

impl Day {
    /// The day of a time in milliseconds since 1970.
    pub fn of(unix_ms: u64) -> Self {
        Self(unix_ms / DAY_MS)
    }
}

/// As `2026-11-22`, in the Gregorian calendar.
impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years
        // begin in March, so that the leap day is the last of its year. 146097 days are 400 years.
        let days = u128::from(self.0) + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let (month, later) = match from_march {
            0..10 => (from_march + 3, 0),
            _ => (from_march - 9, 1),
        };
        write!(f, "{:04}-{month:02}-{day:02}", era * 400 + year + later)
    }
}

/// What a ledger comes to, by node and day. Adding entries one by one, in any order, or
/// merging the sums of its parts gives the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    rows: BTreeMap<(NodeId, Day), Totals>,
}

impl Sums {
    /// Of no entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one entry.
    pub fn add(&mut self, entry: &Entry) {
        let key = (entry.node, Day::of(entry.at_unix_ms));
        self.rows.entry(key).or_default().add(entry);
    }

    /// Adds the sums of other entries.
    pub fn merge(&mut self, other: &Sums) {
        for (key, totals) in &other.rows {
            self.rows.entry(*key).or_default().merge(totals);
        }
    }

    /// A row for each node and day with at least one entry, in their order.
    pub fn rows(&self) -> impl Iterator<Item = (NodeId, Day, &Totals)> {
        self.rows
            .iter()
            .map(|(&(node, day), totals)| (node, day, totals))
    }

    /// Of all entries together.
    pub fn run(&self) -> Totals {
        let mut all = Totals::default();
        for totals in self.rows.values() {
            all.merge(totals);
        }
        all
    }

    /// By any other key, such as the account or team that a node belonged to on that day.
    pub fn grouped<K: Ord>(&self, key: impl Fn(NodeId, Day) -> K) -> BTreeMap<K, Totals> {
        let mut groups: BTreeMap<K, Totals> = BTreeMap::new();
        for (node, day, totals) in self.rows() {
            groups.entry(key(node, day)).or_default().merge(totals);
        }
        groups
    }
}
