//! Going back to a checkpoint: because a person says so, or by itself when a held-out loss that
//! no worker chose says that the weights are spoilt.

use super::{Deciding, Granted, refuse};
use crate::{Checkpoint, EventKind, Look, Phase, Revision, WorkerId};

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
        let why = match (look.loss, look.good) {
            (None, _) => format!(
                "the held-out loss of revision {} is no number: the weights are spoilt",
                look.revision
            ),
            (Some(loss), Some((good, lowest))) if loss > lowest * (1.0 + above) => format!(
                "the held-out loss of revision {} is {loss:.3}, {:.0} % above that of revision {good}, {lowest:.3}; {:.0} % are allowed",
                look.revision,
                (loss / lowest - 1.0) * 100.0,
                above * 100.0
            ),
            _ => {
                self.explain("the held-out loss is as it should be");
                return Ok(());
            }
        };
        let newest_good = look.good.map_or(0, |(good, _)| good.number);
        self.go_back_to(newest_good, &why, &look.suspects);
        Ok(())
    }

    /// The newest weights can't be gone on with: goes back to the newest checkpoint, without the
    /// suspects, or says that a person must decide.
    pub(super) fn go_back(&mut self, why: &str, suspects: &[WorkerId]) {
        self.go_back_to(u64::MAX, why, suspects);
    }

    /// The same to the newest checkpoint that is not after this revision.
    fn go_back_to(&mut self, newest_good: u64, why: &str, suspects: &[WorkerId]) {
        let run = self.run();
        let target = checkpoint_up_to(&run.checkpoints, newest_good);
        let off = run.settings.rollback_above <= 0.0;
        let Some(target) = target.filter(|_| !off && may_go_back(run.phase)) else {
            let mends = match target {
                Some(_) => "",
                None => "; no checkpoint from before it is kept",
            };
            return self.fail(&format!("{why}{mends}"));
        };
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
        self.emit(EventKind::RolledBack {
            to: target,
            revision,
            reason: reason.to_owned(),
            by_itself: left_out.is_some(),
            left_out: left_out.unwrap_or_default(),
        });
    }

    /// Stops until a person decides.
    fn fail(&mut self, reason: &str) {
        self.return_leases(reason, |_, _| true);
        self.abandon_open(reason);
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

fn checkpoint_up_to(checkpoints: &[Checkpoint], number: u64) -> Option<Revision> {
    let kept = checkpoints.iter().rev().map(|kept| kept.revision);
    kept.into_iter().find(|kept| kept.number <= number)
}
