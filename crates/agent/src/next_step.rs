//! What a device does next: a pure function of what it holds and what the coordinator plans.
//!
//! Level-triggered: nothing is remembered of earlier plans, so that a lost, repeated or
//! reordered line changes nothing, and an agent that starts anew picks up where it is.

use opengpu_protocol::audits::AuditPlan;
use opengpu_protocol::wire::{AssignmentPlan, RunPlan, WorkerPlan};
use opengpu_rounds::{Revision, RunId};

/// What a device has and has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// The trainer runs and has said what it is.
    pub(crate) trainer: bool,
    /// The device was offered since the connection opened.
    pub(crate) offered: bool,
    /// The run whose description and data are here.
    pub(crate) run: Option<RunId>,
    /// The lineage that error feedback and optimiser state belong to.
    pub(crate) lineage: u32,
    /// The weights, their digest verified.
    pub(crate) revision: Option<Revision>,
    /// The coordinator says that the weights are wrong.
    pub(crate) resync: bool,
    /// The trainer has been told of model and data.
    pub(crate) loaded: bool,
    /// The speed is known.
    pub(crate) calibrated: bool,
    /// Whether the assignment of the plan is over here: its update is in the journal or settled,
    /// or it was given up.
    pub(crate) done: bool,
    /// Whether the audit of the plan is over here: answered, or declined.
    pub(crate) audited: bool,
    /// Whether the weights are those that the audit of the plan starts from.
    pub(crate) audit_at_hand: bool,
    /// Whether the assignment of the plan still has time left.
    pub(crate) time_left: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing, until something changes. Says why, for a person.
    Wait(&'static str),
    /// Start the trainer.
    StartTrainer,
    /// Offer the device to the coordinator.
    Offer,
    /// Fetch a run's description and data.
    TakeUp(RunId),
    /// The run went back: error feedback and optimiser state start anew.
    StartLineage(u32),
    /// Get the weights of a revision; `anew`: trusting nothing that is here.
    Sync { to: Revision, anew: bool },
    /// Tell the trainer of model and data.
    Load,
    /// Measure the speed.
    Calibrate,
    /// Train.
    Train(AssignmentPlan),
    /// Train another worker's assignment again.
    Audit(AuditPlan),
}

/// The next step.
pub(crate) fn next_step(held: &Held, plan: Option<&WorkerPlan>) -> Step {
    if !held.trainer {
        return Step::StartTrainer;
    }
    if !held.offered {
        return Step::Offer;
    }
    let Some(plan) = plan else {
        return Step::Wait("waiting for the coordinator's plan");
    };
    let Some(run) = &plan.run else {
        return Step::Wait("no run needs this worker now");
    };
    if held.run != Some(run.run) {
        return Step::TakeUp(run.run);
    }
    if held.lineage != run.revision.lineage {
        return Step::StartLineage(run.revision.lineage);
    }
    if held.resync {
        return Step::Sync {
            to: run.revision,
            anew: true,
        };
    }
    let assignment = open_assignment(held, run);
    let Some(revision) = held
        .revision
        .filter(|held| held.lineage == run.revision.lineage)
    else {
        return Step::Sync {
            to: run.revision,
            anew: false,
        };
    };
    if let Some(assignment) = assignment {
        if assignment.base > revision {
            return Step::Sync {
                to: assignment.base,
                anew: false,
            };
        }
        // Never under weights that have moved on: progress counts from the base.
        if assignment.base == revision {
            return match (held.loaded, held.calibrated) {
                (false, _) => Step::Load,
                // The assignment itself measures the speed.
                (true, _) => Step::Train(assignment.clone()),
            };
        }
    }
    let audit = run.audit.as_ref().filter(|_| !held.audited);
    // Here the weights are at hand that it starts from; later they would have to be made.
    if let Some(audit) = audit
        && held.audit_at_hand
        && held.loaded
    {
        return Step::Audit(audit.clone());
    }
    // Behind, or ahead of a coordinator that was restored from a backup.
    if run.revision != revision {
        return Step::Sync {
            to: run.revision,
            anew: false,
        };
    }
    match (held.loaded, held.calibrated) {
        (false, _) => Step::Load,
        (true, false) => Step::Calibrate,
        (true, true) => match audit {
            Some(audit) => Step::Audit(audit.clone()),
            None => Step::Wait("waiting for an assignment"),
        },
    }
}

/// The plan's assignment, if it is to be trained.
fn open_assignment<'a>(held: &Held, run: &'a RunPlan) -> Option<&'a AssignmentPlan> {
    run.assignment.as_ref().filter(|assignment| {
        held.time_left && !held.done && assignment.base.lineage == run.revision.lineage
    })
}

#[cfg(test)]
mod tests {
    use opengpu_rounds::{AssignmentId, BlockRange, Hash, WorkerId};

    use super::*;

    fn revision(number: u64) -> Revision {
        Revision { lineage: 0, number }
    }

    fn assignment(id: u64, base: u64) -> AssignmentPlan {
        AssignmentPlan {
            assignment: AssignmentId(id),
            round: base,
            base: revision(base),
            blocks: vec![BlockRange { start: 0, end: 4 }],
            remaining_ms: 1000,
            progress_from: 0.0,
            progress_to: 0.1,
        }
    }

    fn plan(number: u64, assignment: Option<AssignmentPlan>) -> WorkerPlan {
        let digest = Hash([0; 32]);
        let run = RunPlan {
            run: RunId(1),
            revision: revision(number),
            digest,
            assignment,
            verdicts: Vec::new(),
            open: Vec::new(),
            audit: None,
        };
        WorkerPlan {
            worker: WorkerId(1),
            device: 0,
            run: Some(run),
        }
    }

    fn ready(number: u64) -> Held {
        Held {
            trainer: true,
            offered: true,
            run: Some(RunId(1)),
            revision: Some(revision(number)),
            loaded: true,
            calibrated: true,
            time_left: true,
            ..Held::default()
        }
    }

    #[test]
    fn a_newcomer_starts_offers_fetches_loads_calibrates_and_waits() {
        let mut held = Held {
            time_left: true,
            ..Held::default()
        };
        assert_eq!(next_step(&held, None), Step::StartTrainer);
        held.trainer = true;
        assert_eq!(next_step(&held, None), Step::Offer);
        held.offered = true;
        assert!(matches!(next_step(&held, None), Step::Wait(_)));
        let plan = plan(7, None);
        assert_eq!(next_step(&held, Some(&plan)), Step::TakeUp(RunId(1)));
        held.run = Some(RunId(1));
        assert_eq!(
            next_step(&held, Some(&plan)),
            Step::Sync {
                to: revision(7),
                anew: false
            }
        );
        held.revision = Some(revision(7));
        assert_eq!(next_step(&held, Some(&plan)), Step::Load);
        held.loaded = true;
        assert_eq!(next_step(&held, Some(&plan)), Step::Calibrate);
        held.calibrated = true;
        assert!(matches!(next_step(&held, Some(&plan)), Step::Wait(_)));
    }

    #[test]
    fn an_assignment_is_trained_once_from_its_own_base() {
        let mut held = ready(3);
        let planned = plan(5, Some(assignment(9, 5)));
        assert_eq!(
            next_step(&held, Some(&planned)),
            Step::Sync {
                to: revision(5),
                anew: false
            }
        );
        held.revision = Some(revision(5));
        assert_eq!(
            next_step(&held, Some(&planned)),
            Step::Train(assignment(9, 5))
        );
        held.done = true;
        assert!(matches!(next_step(&held, Some(&planned)), Step::Wait(_)));
    }

    #[test]
    fn a_merge_that_came_before_training_began_waits_until_it_is_over() {
        let held = ready(5);
        let planned = plan(6, Some(assignment(9, 5)));
        assert_eq!(
            next_step(&held, Some(&planned)),
            Step::Train(assignment(9, 5))
        );
        let done = Held { done: true, ..held };
        assert_eq!(
            next_step(&done, Some(&planned)),
            Step::Sync {
                to: revision(6),
                anew: false
            }
        );
    }

    #[test]
    fn an_assignment_whose_base_is_behind_the_weights_is_not_trained() {
        let planned = plan(6, Some(assignment(9, 5)));
        assert!(matches!(
            next_step(&ready(6), Some(&planned)),
            Step::Wait(_)
        ));
    }

    #[test]
    fn weights_ahead_of_a_coordinator_that_was_restored_go_back() {
        assert_eq!(
            next_step(&ready(9), Some(&plan(6, None))),
            Step::Sync {
                to: revision(6),
                anew: false
            }
        );
    }

    #[test]
    fn without_time_left_nothing_is_trained() {
        let held = Held {
            time_left: false,
            ..ready(5)
        };
        let planned = plan(5, Some(assignment(9, 5)));
        assert!(matches!(next_step(&held, Some(&planned)), Step::Wait(_)));
    }

    #[test]
    fn after_a_crash_of_the_trainer_it_is_started_and_loaded_and_trains_again() {
        let mut held = Held {
            trainer: false,
            loaded: false,
            ..ready(5)
        };
        let planned = plan(5, Some(assignment(9, 5)));
        assert_eq!(next_step(&held, Some(&planned)), Step::StartTrainer);
        held.trainer = true;
        assert_eq!(next_step(&held, Some(&planned)), Step::Load);
        held.loaded = true;
        assert_eq!(
            next_step(&held, Some(&planned)),
            Step::Train(assignment(9, 5))
        );
    }

    #[test]
    fn a_rollback_starts_a_lineage_before_anything_else_and_fetches_its_weights() {
        let mut held = ready(9);
        let mut planned = plan(4, None);
        if let Some(run) = &mut planned.run {
            run.revision.lineage = 1;
        }
        assert_eq!(next_step(&held, Some(&planned)), Step::StartLineage(1));
        held.lineage = 1;
        let to = Revision {
            lineage: 1,
            number: 4,
        };
        assert_eq!(
            next_step(&held, Some(&planned)),
            Step::Sync { to, anew: false }
        );
        held.revision = Some(to);
        assert!(matches!(next_step(&held, Some(&planned)), Step::Wait(_)));
    }

    #[test]
    fn an_assignment_of_an_abandoned_lineage_is_not_trained() {
        let mut planned = plan(5, Some(assignment(9, 5)));
        if let Some(run) = &mut planned.run {
            run.revision.lineage = 1;
        }
        let revision = Some(Revision {
            lineage: 1,
            number: 5,
        });
        let held = Held {
            lineage: 1,
            revision,
            ..ready(5)
        };
        assert!(matches!(next_step(&held, Some(&planned)), Step::Wait(_)));
    }

    #[test]
    fn weights_that_the_coordinator_calls_wrong_are_fetched_anew_before_training() {
        let held = Held {
            resync: true,
            ..ready(5)
        };
        let planned = plan(5, Some(assignment(9, 5)));
        assert_eq!(
            next_step(&held, Some(&planned)),
            Step::Sync {
                to: revision(5),
                anew: true
            }
        );
    }

    #[test]
    fn an_audit_is_made_between_assignments_and_once() {
        let audit = AuditPlan {
            number: 77,
            base: revision(4),
            digest: Hash([4; 32]),
            blocks: vec![BlockRange { start: 0, end: 4 }],
            blocks_completed: 4,
            progress_from: 0.0,
            progress_to: 0.1,
            chunks: vec![0],
        };
        let asked = |number, assignment| {
            let mut planned = plan(number, assignment);
            if let Some(run) = &mut planned.run {
                run.audit = Some(audit.clone());
            }
            planned
        };
        let step = |held: &Held, planned: WorkerPlan| next_step(held, Some(&planned));
        // The own assignment has a deadline; an audit waits.
        let open = assignment(9, 5);
        assert_eq!(
            step(&ready(5), asked(5, Some(open.clone()))),
            Step::Train(open.clone())
        );
        let done = Held {
            done: true,
            ..ready(5)
        };
        assert_eq!(
            step(&done, asked(5, Some(open))),
            Step::Audit(audit.clone())
        );
        // Newer weights come first, unless those that are held are what the audit starts from.
        let to = revision(6);
        assert_eq!(
            step(&ready(5), asked(6, None)),
            Step::Sync { to, anew: false }
        );
        let at_hand = Held {
            audit_at_hand: true,
            ..ready(5)
        };
        assert_eq!(step(&at_hand, asked(6, None)), Step::Audit(audit.clone()));
        let audited = Held {
            audited: true,
            ..at_hand
        };
        assert_eq!(
            step(&audited, asked(6, None)),
            Step::Sync { to, anew: false }
        );
        assert!(matches!(
            step(
                &Held {
                    audited: true,
                    ..ready(5)
                },
                asked(5, None)
            ),
            Step::Wait(_)
        ));
    }

    #[test]
    fn another_run_is_taken_up_and_no_run_is_waited_for() {
        let mut planned = plan(5, None);
        if let Some(run) = &mut planned.run {
            run.run = RunId(2);
        }
        assert_eq!(next_step(&ready(5), Some(&planned)), Step::TakeUp(RunId(2)));
        planned.run = None;
        assert!(matches!(
            next_step(&ready(5), Some(&planned)),
            Step::Wait(_)
        ));
    }
}
