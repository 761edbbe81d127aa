//! The messages between an agent (or the coordinator) and a trainer, and the types both
//! sides read: the model's shape and the inner optimiser's settings.
mod inner;
mod message;
mod model;

pub use inner::{InnerSettings, InnerState, Schedule};
pub use message::{
    ErrorCode, Reply, ReplyBody, Request, RequestBody, TokenFiles, TrainRequest, VERSION,
};
pub use model::{ModelConfig, TensorShape, preset_names};
