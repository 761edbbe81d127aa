//! Joining, leaving, and lives of error feedback.

use super::{Deciding, Granted, refuse};
use crate::{AssignmentId, EventKind, FeedbackId, NodeId, Phase, WorkerId};

impl Deciding<'_> {
    pub(super) fn join(&mut self, worker: WorkerId, node: NodeId, feedback: FeedbackId) -> Granted {
        let run = self.run();
        if run.phase == Phase::Finished {
            return refuse(
                "run_finished",
                "the run is finished; it takes no more workers",
            );
        }
        // A founder joins before any round; later, an update must be seen first.
        let founder = run.next_round == 0;
        if let Some(member) = run.members.get(&worker) {
            if member.node != node {
                let owner = member.node;
                return refuse(
                    "wrong_node",
                    format!("worker {worker} belongs to node {owner}, not to node {node}"),
                );
            }
            if let Some(why) = &member.left_out {
                return refuse(
                    "left_out",
                    format!(
                        "worker {worker} was left out of the run: {why}; an operator can take it back"
                    ),
                );
            }
            if member.retired_feedback.contains(&feedback) {
                return refuse_retired(feedback);
            }
            if member.present {
                return self.reset_feedback(worker, feedback);
            }
        }
        self.emit(EventKind::WorkerJoined {
            worker,
            node,
            feedback,
            founder,
        });
        Ok(())
    }

    pub(super) fn reset_feedback(&mut self, worker: WorkerId, feedback: FeedbackId) -> Granted {
        let run = self.run();
        if run.phase == Phase::Finished {
            return refuse(
                "run_finished",
                "the run is finished; error feedback is over",
            );
        }
        let Some(member) = run.members.get(&worker).filter(|member| member.present) else {
            return refuse(
                "unknown_worker",
                format!("worker {worker} has not joined the run"),
            );
        };
        if member.feedback == Some(feedback) {
            return Ok(());
        }
        if member.retired_feedback.contains(&feedback) {
            return refuse_retired(feedback);
        }
        // Each is an event, and a worker must not be able to grow the log with reports alone.
        let again_ms = match (member.feedback, member.feedback_reset_ms) {
            (Some(_), Some(at_ms)) => at_ms + run.settings.duration_ms,
            _ => 0,
        };
        if self.now_ms < again_ms {
            return refuse(
                "feedback_too_soon",
                format!(
                    "worker {worker} named new error feedback less than a round ago; the next \
                     is taken in {} ms",
                    again_ms - self.now_ms
                ),
            );
        }
        self.emit(EventKind::FeedbackReset { worker, feedback });
        Ok(())
    }

    pub(super) fn leave(&mut self, worker: WorkerId, reason: &str) -> Granted {
        let run = self.run();
        let member = run.members.get(&worker);
        // A finished run has nobody to give anything, so there is nothing to leave.
        if run.phase == Phase::Finished || !member.is_some_and(|member| member.present) {
            return Ok(());
        }
        self.return_leases(&format!("worker {worker} left: {reason}"), |_, holder| {
            holder == worker
        });
        self.emit(EventKind::WorkerLeft {
            worker,
            reason: reason.to_owned(),
        });
        Ok(())
    }

    pub(super) fn expel(&mut self, worker: WorkerId, reason: &str) -> Granted {
        self.drop_waiting_of(worker, reason);
        self.leave(worker, reason)
    }

    /// Keeps what waits of a worker out of the next merges. What a merge under way takes, it takes.
    pub(super) fn drop_waiting_of(&mut self, worker: WorkerId, reason: &str) {
        let dropped: Vec<_> = self.run().waiting_of(worker).collect();
        for assignment in dropped {
            self.emit(EventKind::UpdateDropped {
                assignment,
                reason: reason.to_owned(),
            });
        }
    }

    /// Returns the leases that `which` picks by assignment and worker.
    pub(super) fn return_leases(
        &mut self,
        reason: &str,
        which: impl Fn(AssignmentId, WorkerId) -> bool,
    ) {
        let leases = self.run().leases.iter();
        let picked = leases.filter(|(id, lease)| which(**id, lease.worker));
        let picked: Vec<_> = picked.map(|(id, _)| *id).collect();
        for assignment in picked {
            self.emit(EventKind::LeaseReturned {
                assignment,
                reason: reason.to_owned(),
            });
        }
    }
}

fn refuse_retired(feedback: FeedbackId) -> Granted {
    refuse(
        "feedback_retired",
        format!("error feedback {feedback} has ended; start at zero under a new id"),
    )
}
