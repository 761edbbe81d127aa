//! A whole fleet in simulated time: coordinators that crash, are deposed and restart; workers
//! that are slow, crash, lose their feedback or their disk, leave and come; a network that
//! loses, repeats, delays and reorders. The coordinator's decisions are the real ones of this
//! crate; everything around them is small and pretended (a weight is a hash chain).
//!
//! Everything follows from the seed. Invariants are checked on every event as it is appended;
//! the first one that does not hold ends the simulation and is in the [`Report`].

mod audits;
mod coordinator_side;
mod ending;
mod faults;
mod invariants;
mod log;
mod owner;
mod report;
mod settings;
mod worker;
mod worker_side;
mod world;

pub use report::{FaultCounts, Report, RoundRow, Violation};
pub use settings::{Faults, SimulationSettings};

/// What a block of the simulated dataset holds.
const TOKENS_PER_BLOCK: u64 = 512;

/// Runs a fleet until its training run is finished and all its workers hold the last weights,
/// or an invariant breaks. `on_round` is called as each round is merged or abandoned.
pub fn run(settings: &SimulationSettings, on_round: &mut dyn FnMut(&RoundRow)) -> Report {
    world::World::new(settings, on_round).run()
}
