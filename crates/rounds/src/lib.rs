//! The state machine of a training run, pure: no I/O, no clock, no runtime.
mod event;
mod ids;
mod settings;

pub use event::{BlockRange, Event, EventKind};
pub use ids::{AssignmentId, FeedbackId, Hash, NodeId, NotAHash, Revision, RunId, WorkerId};
pub use settings::RoundSettings;
