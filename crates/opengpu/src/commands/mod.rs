//! One file for each command.

pub mod account;
pub mod dataset;
pub mod generate;
mod invitation;
pub mod join;
pub mod key;
pub mod ledger;
pub mod node;
pub mod run;
pub mod serve;
pub mod simulate;
pub mod standing;
pub mod status;
mod sums;
pub mod token;
pub mod up;
