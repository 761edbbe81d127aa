//! One driver for each run: the only one who decides. Inputs queue in a bounded mailbox;
//! each is decided on, appended to the log, folded, and only then answered. What the state
//! asks for (a merge, a checkpoint, an evaluation) is done beside it and comes back as
//! another input, so that nothing here ever waits for arithmetic.

mod auditor;
mod effects;
mod entries;
mod evaluator;
mod live;
mod open;
mod rejection;
mod sight;
mod spike;
mod task;
mod weights_file;
mod workshop;

pub use auditor::{AuditJob, Auditor, QUEUE as AUDITS, drawn};
pub use evaluator::{Evaluate, QUEUE, measure};
pub use live::{LiveRun, Mailbox, is_over};
pub use open::open;
pub use rejection::Rejection;
pub use sight::sight;
pub use task::drive;
pub use weights_file::WeightsFile;
