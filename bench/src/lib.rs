//! Experiments on the product's own code.
//!
//! Learning: `rounds` decides, `merge` compresses and merges, the trainer's inner loop
//! trains; only the network and the clock are left out. Fleet: the real processes.

mod attack;
mod data;
mod decide;
mod federated;
pub mod hostile;
pub mod installation;
mod known;
pub mod memory;
pub mod random;
pub mod relay;
mod synchronous;
mod table;
pub mod turns;
pub mod untrained;
mod word;

pub use attack::{ATTACKS, Attack, Hostile};
pub use data::{Data, Scale};
pub use federated::{Audited, Auditing, Counted, Federated, Figures, Kind, Tally, run_file};
pub use known::{Doing, Known};
pub use synchronous::synchronous;
pub use table::{Experiment, Limit, Method, Row, Table};
pub use word::word;
