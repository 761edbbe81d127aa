//! The coordinator: the server that enrols nodes, gives out work, merges updates, keeps
//! every decision and every byte that matters, and answers for it all over HTTP.
//!
//! [`serve`](serve::serve) starts one on a home folder; [`Coordinator`] is the running
//! server as the portal sees it. Inside: `store` and `blobs` keep, `driver` decides (through
//! `opengpu-rounds`) and computes (through `opengpu-merge`), `fleet` remembers the machines,
//! `api` speaks. Deliberately absent: pages (`opengpu-portal`), training
//! (`opengpu-trainer`, a child process), and any rule about rounds.

pub mod api;
mod auth;
pub mod blobs;
mod caretaker;
pub mod clock;
mod connections;
mod coordinator;
mod driver;
mod eligible;
mod enrolment;
mod export;
pub mod fleet;
mod home;
mod ledger;
mod limits;
mod metrics;
mod plan;
pub mod retention;
pub mod serve;
mod standing;
pub mod store;
mod submit;
mod tasks;
mod trainer;
mod view;

pub use coordinator::Coordinator;
pub use driver::LiveRun;
pub use enrolment::{EnrolmentPolicy, UnknownPolicy};
pub use home::{JOIN_TOKEN, OPERATOR_TOKEN};
pub use limits::{ConnectionSettings, LimitSettings, Rate};
pub use serve::{Bound, ServeSettings, serve};
