//! Going back to a checkpoint: because a person says so, or by itself when a held-out loss that
//! no worker chose says that the weights are spoilt.

use super::{Deciding, Granted, refuse};
use crate::{EventKind, Look, Phase, Revision, WorkerId};

/// How often in a row a run goes back to the same revision by itself: what two tries without
/// the suspects don't mend is not for a program.
const MOST_IN_A_ROW: usize = 2;

impl Deciding<'_> {
    pub(super) fn roll_back(&mut self, to: Revision, reason: &str) -> Granted {
        match self.run().phase {
            Phase::Draft => return refuse("not_started", "the run was not started"),
            Phase::Finished => return refuse("run_finished", "the run is finished"),
            _ => {}
        }
        let run = self.run();
        let kept = run.checkpoints.iter();
        let kept = kept.filter(|_| run.is_live(to));
        let target = kept
            .map(|kept| kept.revision)
            .find(|kept| kept.number == to.number);
        let Some(target) = target else {
            let kept: Vec<_> = run
                .checkpoints
                .iter()
                .map(|c| c.revision.to_string())
                .collect();
            return refuse(
                "no_such_checkpoint",
                format!(
                    "revision {to} is no kept checkpoint; kept are: {}",
                    kept.join(", ")
                ),
            );
        };
        self.go_to(target, reason, None);
        Ok(())
    }

    /// What follows from a held-out loss: nothing, as long as it is near the lowest before it.
    pub(super) fn held_out(&mut self, look: &Look) -> Granted {
        let run = self.run();
        let above = run.settings.rollback_above;
        if above <= 0.0 || !run.is_live(look.revision) || !may_go_back(run.phase) {
            return Ok(());
        }
        if !look.is_spike(above) {
            self.explain("the held-out loss is as it should be");
            return Ok(());
        }
        let of = look.revision;
        let why = match (look.loss, look.good) {
            (Some(loss), Some((good, lowest))) => format!(
                "the held-out loss of revision {of} is {loss:.3}, {:.0} % above that of revision {good}, {lowest:.3}; {:.0} % are allowed",
                (loss / lowest - 1.0) * 100.0,
                above * 100.0
            ),
            _ => format!("the held-out loss of revision {of} is no number: the weights are spoilt"),
        };
        let newest_good = look.good.map_or(0, |(good, _)| good.number);
        self.go_back(newest_good, &why, &look.suspects);
        Ok(())
    }

    /// The newest weights can't be gone on with: goes back to the newest checkpoint that is not
    /// after revision `newest_good`, without the suspects, or says that a person must decide.
    pub(super) fn go_back(&mut self, newest_good: u64, why: &str, suspects: &[WorkerId]) {
        let run = self.run();
        let Some(target) = run.checkpoint_up_to(newest_good) else {
            return self.fail(&format!("{why}; no checkpoint from before it is kept"));
        };
        let target = target.revision;
        if run.settings.rollback_above <= 0.0 || !may_go_back(run.phase) {
            return self.fail(why);
        }
        let lineages = run.lineages.iter().rev();
        let again = lineages
            .take_while(|lineage| lineage.by_itself && lineage.start.number == target.number)
            .count();
        if again >= MOST_IN_A_ROW {
            return self.fail(&format!(
                "{why}; it went back to revision {target} {again} times by itself, and that mended nothing: look at the data, the learning rate and the workers, then resume it or roll it back"
            ));
        }
        let present = |worker: &WorkerId| run.members.contains_key(worker);
        let left_out: Vec<_> = suspects.iter().copied().filter(present).collect();
        let without = match left_out.len() {
            0 => "; no worker stands out".to_owned(),
            1 => format!("; it goes on without worker {}", left_out[0]),
            many => format!("; it goes on without {many} workers"),
        };
        self.go_to(target, &format!("{why}{without}"), Some(left_out));
    }

    /// Goes to a kept checkpoint; by itself if it says whom it leaves out.
    fn go_to(&mut self, target: Revision, reason: &str, left_out: Option<Vec<WorkerId>>) {
        let revision = Revision {
            lineage: self.run().revision.lineage + 1,
            number: target.number,
        };
        let why = format!("the run is rolled back to {target}: {reason}");
        self.return_leases(&why, |_, _| true);
        self.abandon_open(&why);
        self.end_audits(&why);
        self.emit(EventKind::RolledBack {
            to: target,
            revision,
            reason: reason.to_owned(),
            by_itself: left_out.is_some(),
            left_out: left_out.unwrap_or_default(),
        });
    }

    /// Stops until a person decides. A round in progress ends with it; without one, what is late
    /// may still come.
    fn fail(&mut self, reason: &str) {
        if self.run().current.is_some() {
            self.return_leases(reason, |_, _| true);
            self.abandon_open(reason);
        }
        self.emit(EventKind::Failed {
            reason: reason.to_owned(),
        });
    }

    pub(super) fn readmit(&mut self, worker: WorkerId) -> Granted {
        let member = self.run().members.get(&worker);
        if member.is_some_and(|member| member.left_out.is_some()) {
            self.emit(EventKind::Readmitted { worker });
        }
        Ok(())
    }
}

/// Whether a run in this phase goes back by itself: not one that a person holds, and not one
/// that already waits for a person.
fn may_go_back(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Forming | Phase::Training | Phase::Collecting | Phase::Merging
    )
}
