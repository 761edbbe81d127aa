//! What people do to a run, and what comes back from merges and checkpoints.

use super::{Deciding, Granted, refuse};
use crate::explain::count;
use crate::{AssignmentId, EventKind, Hash, Input, Phase, Revision, WorkerId};

impl Deciding<'_> {
    pub(super) fn start(&mut self) -> Granted {
        match self.run().phase {
            Phase::Draft => {
                if let Some(problem) = self.run().settings.problem() {
                    return refuse("settings_invalid", problem);
                }
                self.emit(EventKind::Forming);
                Ok(())
            }
            Phase::Paused => refuse("run_paused", "the run is paused; resume it"),
            Phase::Finished => refuse("run_finished", "the run is finished; submit a new one"),
            Phase::Failed => refuse("run_failed", "the run failed; resume it or roll it back"),
            _ => Ok(()),
        }
    }

    pub(super) fn pause(&mut self, reason: &str) -> Granted {
        match self.run().phase {
            Phase::Draft => return refuse("not_started", "the run was not started; start it"),
            Phase::Finished => return refuse("run_finished", "the run is finished"),
            Phase::Failed => return refuse("run_failed", "the run failed and does nothing"),
            Phase::Paused => return Ok(()),
            Phase::Forming | Phase::Training | Phase::Collecting | Phase::Merging => {}
        }
        self.return_leases(&format!("the run was paused: {reason}"), |_, _| true);
        self.abandon_open(&format!("the run was paused: {reason}"));
        let reason = reason.to_owned();
        self.emit(EventKind::Paused { reason });
        Ok(())
    }

    pub(super) fn return_credit(
        &mut self,
        assignment: AssignmentId,
        worker: WorkerId,
        tokens: u64,
    ) -> Granted {
        if !self.run().members.contains_key(&worker) {
            return refuse(
                "unknown_worker",
                format!("worker {worker} has not joined the run"),
            );
        }
        self.emit(EventKind::CreditReturned {
            assignment,
            worker,
            tokens,
        });
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Granted {
        match self.run().phase {
            Phase::Draft => refuse("not_started", "the run was not started; start it"),
            Phase::Finished => refuse("run_finished", "the run is finished; submit a new one"),
            Phase::Paused | Phase::Failed => {
                self.emit(EventKind::Resumed);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn stop(&mut self, reason: &str) -> Granted {
        let phase = self.run().phase;
        if phase == Phase::Finished || (self.run().stopping.is_some() && phase != Phase::Failed) {
            return Ok(());
        }
        let why = format!("it was stopped: {reason}");
        if self.run().current.is_some() && self.run().mergeable() >= self.run().quorum() {
            // What was accepted is not thrown away: the run ends with one more merge.
            self.close_round(&why);
        }
        if self.run().pending_merge().is_some() {
            self.emit(EventKind::Stopping {
                reason: reason.to_owned(),
            });
        } else {
            self.finish(&why);
        }
        Ok(())
    }

    pub(super) fn merge_done(&mut self, input: &Input) -> Granted {
        let Input::MergeDone {
            round,
            merge,
            merge_bytes,
            digest,
            factors,
            regards,
        } = input
        else {
            return Ok(());
        };
        let run = self.run();
        let Some(pending) = run
            .pending_merge()
            .filter(|pending| pending.round == *round)
        else {
            let mut done = run.merges.iter();
            if done.any(|merged| merged.round == *round && merged.digest == *digest) {
                self.explain("merged before; nothing changes");
                return Ok(());
            }
            return refuse(
                "no_such_merge",
                format!("no merge of round {round} is waited for"),
            );
        };
        let updates = pending.updates.len();
        if factors.len() != updates {
            let given = factors.len();
            return refuse(
                "wrong_factors",
                format!("the merge has {updates} updates and {given} clip factors"),
            );
        }
        if factors.iter().any(|factor| !(0.0..=1.0).contains(factor)) {
            return refuse("wrong_factors", "a clip factor lies between 0 and 1");
        }
        if !regards.is_empty() && regards.len() != updates {
            let given = regards.len();
            return refuse(
                "wrong_regards",
                format!("the merge has {updates} updates and findings about {given}"),
            );
        }
        let counted_tokens = run.tokens_counted(&pending.updates, regards);
        let revision = Revision {
            number: run.revision.number + 1,
            ..run.revision
        };
        self.emit(EventKind::Merged {
            round: *round,
            revision,
            merge: *merge,
            merge_bytes: *merge_bytes,
            digest: *digest,
            factors: factors.clone(),
            regards: regards.clone(),
            counted_tokens,
        });
        if let Some(reason) = self.run().is_long_enough() {
            self.finish(&reason);
        } else if let Some(reason) = self.run().stopping.clone() {
            self.finish(&format!("it was stopped: {reason}"));
        }
        Ok(())
    }

    pub(super) fn merge_failed(&mut self, reason: &str) -> Granted {
        let Some(pending) = self.run().pending_merge() else {
            return refuse("no_such_merge", "no merge is waited for");
        };
        let updates = count(pending.updates.len(), "update");
        let why = format!(
            "the merge of {updates} of round {} failed: {reason}",
            pending.round
        );
        self.go_back(u64::MAX, &why, &[]);
        Ok(())
    }

    pub(super) fn checkpoint_done(
        &mut self,
        revision: Revision,
        weights: Hash,
        outer_state: Hash,
    ) -> Granted {
        let run = self.run();
        let newest = run.checkpoint();
        if newest.is_some_and(|c| c.revision == revision && c.weights == weights) {
            return Ok(());
        }
        if newest.is_some_and(|c| c.revision.number >= revision.number)
            || revision.lineage != run.revision.lineage
            || revision.number > run.revision.number
        {
            return refuse(
                "checkpoint_outdated",
                format!("revision {revision} leads to no revision after the newest checkpoint"),
            );
        }
        let mut merges = run.merges.iter();
        let merged = merges.find(|merge| merge.revision == revision);
        if let Some(merged) = merged
            && merged.digest != weights
        {
            let digest = merged.digest;
            return refuse(
                "wrong_digest",
                format!("revision {revision} has digest {digest}, the checkpoint {weights}"),
            );
        }
        self.emit(EventKind::Checkpointed {
            revision,
            weights,
            outer_state,
        });
        Ok(())
    }

    /// Ends the round in progress without a merge, and forgets one that waits for its merge
    /// only when the run is rolled back (its updates are dropped then anyway).
    pub(super) fn abandon_open(&mut self, reason: &str) {
        if let Some(open) = &self.run().current {
            let round = open.round;
            let reason = reason.to_owned();
            self.emit(EventKind::RoundAbandoned { round, reason });
        }
    }

    fn finish(&mut self, reason: &str) {
        self.return_leases(&format!("the run finished: {reason}"), |_, _| true);
        self.abandon_open(&format!("the run finished: {reason}"));
        let reason = reason.to_owned();
        self.emit(EventKind::Finished { reason });
    }
}
