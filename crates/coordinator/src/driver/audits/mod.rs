//! Audits: assignments that are trained again elsewhere. Rounds wait for none but the updates
//! that are held for theirs.
//!
//! The proof comes first, for it costs nothing. Then a node that an operator vouches for trains the
//! assignment again from the weights it started from, or, where there is none, the coordinator's
//! own trainer. Audits by nodes are made beside each other and wait for no trainer here. What differs
//! is trained again by somebody else before it counts as different.

mod asked;
mod candidates;
mod find;
mod own;
mod proof;

use std::sync::Arc;
use std::time::Duration;

use opengpu_rounds::{AssignmentId, Finding, Input};
use tokio::sync::{Mutex, Semaphore};

use crate::Coordinator;
use crate::blobs::Blobs;
use crate::driver::LiveRun;
use find::Case;

pub use asked::{Answer, Asked};
pub use candidates::spare;
pub use own::Own;
pub use proof::drawn;

/// Attempts at an audit, and the pause after the first that failed.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// Audits of one run that are made at once; the others wait in its state.
const AT_ONCE: usize = 16;
/// Proofs that are checked at once: each holds two payloads.
const PROOFS: usize = 2;

/// What audits need.
pub struct Audits {
    blobs: Blobs,
    own: Mutex<Own>,
    proofs: Semaphore,
}

impl Audits {
    /// With the coordinator's own trainer.
    pub fn new(own: Own) -> Self {
        Self {
            blobs: own.blobs.clone(),
            own: Mutex::new(own),
            proofs: Semaphore::new(PROOFS),
        }
    }
}

/// Starts the audits that a run's state asks for, as many as are made at once.
pub fn look_at_audits(coordinator: &Coordinator, run: &Arc<LiveRun>) {
    let pending = run.state().pending_audits();
    for (assignment, audit) in pending {
        let mut under_way = run.auditing();
        if under_way.len() >= AT_ONCE {
            return;
        }
        if under_way.insert(assignment) {
            drop(under_way);
            let case = Case {
                coordinator: coordinator.clone(),
                run: Arc::clone(run),
                assignment,
                audit,
            };
            coordinator.tasks().spawn(make(case));
        }
    }
}

/// Makes an audit and tells the run what it found.
async fn make(case: Case) {
    let _under_way = UnderWay(Arc::clone(&case.run), case.assignment);
    let shutdown = case.coordinator.shutdown_token();
    let finding = tokio::select! {
        () = shutdown.cancelled() => return,
        finding = finding(&case) => finding,
    };
    let Some(finding) = finding else {
        return;
    };
    let (run, assignment) = (&case.run, case.assignment);
    tracing::info!(
        run = %run.id, %assignment, worker = %case.audit.worker, outcome = ?finding.outcome,
        code = finding.code, measured = finding.measured, reason = finding.reason,
        reruns = ?finding.reruns, "audited"
    );
    let input = Input::Audited {
        assignment,
        finding,
    };
    if let Err(error) = run.ask(input, None).await {
        // The state still asks for it.
        tracing::warn!(run = %run.id, %assignment, %error, "an audit's finding could not be stored");
    }
}

/// What comes of an audit, tried again after a pause where something failed here. None: it is not
/// wanted any more.
async fn finding(case: &Case) -> Option<Finding> {
    let (run, assignment) = (&case.run, case.assignment);
    let mut attempt = 1;
    loop {
        let found = case.find().await;
        run.state().audit(assignment)?;
        match found {
            Ok(finding) => return Some(finding),
            Err(error) if attempt < ATTEMPTS => {
                tracing::warn!(
                    run = %run.id, %assignment, attempt, error = format!("{error:#}"),
                    "an audit could not be made; it is tried again"
                );
                tokio::time::sleep(PAUSE * attempt).await;
                attempt += 1;
            }
            Err(error) => {
                tracing::error!(run = %run.id, %assignment, error = format!("{error:#}"), "an audit is given up");
                return Some(Finding::undecided(
                    "not_audited",
                    "the coordinator could not train it again; this is not the worker's fault",
                ));
            }
        }
    }
}

/// An audit that is being made.
struct UnderWay(Arc<LiveRun>, AssignmentId);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.forget_audit(self.1);
    }
}
