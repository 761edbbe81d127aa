//! One driver for each run: the only one who decides. Inputs queue in a bounded mailbox;
//! each is decided on, appended to the log, folded, and only then answered. What the state
//! asks for (a merge, a checkpoint, an evaluation) is done beside it and comes back as
//! another input, so that nothing here ever waits for arithmetic.

mod audits;
mod effects;
mod entries;
mod evaluator;
mod live;
mod open;
mod probe;
mod rejection;
mod sight;
mod spike;
mod task;
mod way;
mod weights_file;
mod workshop;

pub use audits::{Answer, Audits, Own, drawn};
pub use evaluator::{Evaluate, QUEUE, measure};
pub use live::{LiveRun, Losses, Mailbox, is_over};
pub use open::open;
pub use rejection::Rejection;
pub use sight::sight;
pub use task::drive;
pub use way::{merge_ref, way_to};
pub use weights_file::WeightsFile;
