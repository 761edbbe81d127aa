//! Experiments on the product's own code.
//!
//! Learning: `rounds` decides, `merge` compresses and merges, the trainer's inner loop
//! trains; only the network and the clock are left out. Fleet: the real processes.

mod data;
mod federated;
pub mod installation;
pub mod memory;
pub mod relay;
mod synchronous;
mod table;
pub mod turns;

pub use data::{Data, Scale};
pub use federated::{Federated, Figures};
pub use synchronous::synchronous;
pub use table::{Experiment, Limit, Method, Row, Table};
