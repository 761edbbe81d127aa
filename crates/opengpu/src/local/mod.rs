//! The pieces of `opengpu up`: the processes it starts, the run it submits, what it
//! remembers and what it tells.

pub mod children;
pub mod corpus;
pub mod fleet;
pub mod outcome;
pub mod spec;
pub mod state;
pub mod yardstick;
