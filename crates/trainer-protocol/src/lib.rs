//! The messages between an agent (or the coordinator) and a trainer, the types both sides
//! read (the model's shape and the inner optimiser's settings), the files they share, and
//! the owner's side of the conversation: starting, asking and watching the child.
mod exit;
mod inner;
mod lines;
mod log_tail;
mod message;
mod model;
mod process;
mod shared_file;
mod spawn;
mod trainer_error;

pub use inner::{InnerSettings, InnerState, Optimizer, Precision, Schedule};
pub use lines::MAX_LINE_BYTES;
pub use message::{
    ErrorCode, Reply, ReplyBody, Request, RequestBody, TokenFiles, TrainRequest, VERSION,
};
pub use model::{ModelConfig, TensorShape, preset_names};
pub use process::{Greeting, Progress, Sign, TrainerCommand, TrainerProcess};
pub use shared_file::{SharedFile, SharedFolder};
pub use trainer_error::{LastLines, TrainerError};
