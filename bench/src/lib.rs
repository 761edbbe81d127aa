//! Experiments on the product's own code: `rounds` decides, `merge` compresses and merges,
//! the trainer's inner loop trains. Only the network and the clock are left out.

mod data;
mod federated;
mod synchronous;

pub use data::{Data, Scale};
pub use federated::{Federated, Figures};
pub use synchronous::synchronous;
