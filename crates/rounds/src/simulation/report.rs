//! What a simulation tells.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Revision;

/// How often each kind of fault struck.
pub type FaultCounts = BTreeMap<&'static str, u64>;

/// A round, as it was merged or abandoned.
#[derive(Clone, Debug, Serialize)]
pub struct RoundRow {
    /// Simulated time since the start.
    pub at_ms: u64,
    /// What the coordinator's system clock, which steps, said in milliseconds since 1970.
    pub system_ms: i64,
    /// Which round.
    pub round: u64,
    /// What it made; None if it was abandoned.
    pub revision: Option<Revision>,
    /// Why it closed or was abandoned.
    pub reason: String,
    /// Workers that are up.
    pub workers: u32,
    /// Assignments given in it.
    pub assigned: u32,
    /// Updates merged.
    pub merged: u32,
    /// Updates accepted since the row before that were for an earlier round.
    pub late: u32,
    /// Updates refused since the row before.
    pub refused: u32,
    /// Part of the time since the row before that the workers which were up spent training.
    pub utilisation: f64,
    /// Faults since the row before.
    pub faults: FaultCounts,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// Events in the log by then.
    pub at_event: u64,
    /// What does not hold.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} breaks an invariant at event {}: {}",
            self.seed, self.at_event, self.what
        )
    }
}

/// A whole simulation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// Events in the log.
    pub events: u64,
    /// Revision at the end, in the last lineage.
    pub revision: Option<Revision>,
    /// Rounds that were merged, rolled-back ones included.
    pub merged_rounds: u64,
    /// Rounds that were abandoned.
    pub abandoned_rounds: u64,
    /// Updates accepted.
    pub accepted: u64,
    /// Of those, for an earlier round.
    pub late: u64,
    /// Updates refused, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Tokens credited.
    pub credited_tokens: u64,
    /// Part of the time that workers which were up spent training, from the first merge on.
    pub utilisation: f64,
    /// The same for each worker.
    pub worker_utilisation: Vec<f64>,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Appends by deposed coordinators that the log refused.
    pub refused_appends: u64,
    /// The invariant that broke, if one did.
    pub violation: Option<Violation>,
}
