//! Where each step leads a node, and what is left without one of them.

use opengpu_rounds::standing::{Cause, Left, Level, Step};
use opengpu_rounds::{
    AuditOutcome, AuditRules, Event, EventKind, Finding, Input, Phase, RoundSettings, Run, WorkerId,
};
use proptest::prelude::*;

use crate::story::{Story, settings};
use Level::{Banned, Probation, Quarantined, Suspect, Trusted};

/// Where each cause leads from probation, trusted, suspect, quarantined and banned, for a node
/// that would not be trusted if nothing were held against it.
const TABLE: [(Cause, [Option<Level>; 5]); 10] = [
    (
        Cause::Proven,
        [Some(Trusted), None, Some(Trusted), None, None],
    ),
    (Cause::Decayed, [None, Some(Probation), None, None, None]),
    (
        Cause::Doubt,
        [
            Some(Suspect),
            Some(Suspect),
            Some(Suspect),
            Some(Quarantined),
            Some(Banned),
        ],
    ),
    (
        Cause::Proof,
        [
            Some(Quarantined),
            Some(Quarantined),
            Some(Quarantined),
            Some(Quarantined),
            Some(Banned),
        ],
    ),
    (
        Cause::Quarantine,
        [
            Some(Quarantined),
            Some(Quarantined),
            Some(Quarantined),
            None,
            None,
        ],
    ),
    (
        Cause::Ban,
        [Some(Banned), Some(Banned), Some(Banned), Some(Banned), None],
    ),
    (
        Cause::Restore,
        [
            None,
            None,
            Some(Probation),
            Some(Probation),
            Some(Probation),
        ],
    ),
    (
        Cause::Vouch,
        [Some(Trusted), None, Some(Trusted), None, None],
    ),
    (Cause::Distrust, [None, Some(Probation), None, None, None]),
    (Cause::Reversal, [None; 5]),
];

#[test]
fn each_step_leads_where_the_table_says_and_nowhere_else() {
    for (cause, to) in TABLE {
        let led: Vec<_> = Level::ALL.map(|from| cause.leads(from, false)).into();
        assert_eq!(led, to, "{}", cause.as_str());
    }
    assert_eq!(TABLE.map(|(cause, _)| cause), Cause::ALL);
}

#[test]
fn who_is_vouched_for_or_has_proven_itself_is_trusted_again_once_nothing_is_held_against_it() {
    assert_eq!(Cause::Restore.leads(Banned, true), Some(Trusted));
    assert_eq!(Cause::Distrust.leads(Trusted, true), Some(Trusted));
    for cause in Cause::ALL {
        for from in Level::ALL {
            let (stranger, known) = (cause.leads(from, false), cause.leads(from, true));
            let differs = matches!(cause, Cause::Restore | Cause::Distrust);
            assert!(differs || stranger == known, "{} {from}", cause.as_str());
        }
    }
}

#[test]
fn no_program_bans_and_none_ends_a_quarantine_or_a_ban() {
    let programs = Cause::ALL.into_iter().filter(|cause| !cause.is_operators());
    for cause in programs {
        for from in Level::ALL {
            let to = cause.leads(from, true);
            assert!(from == Banned || to != Some(Banned), "{}", cause.as_str());
            if from >= Quarantined {
                assert!(to.is_none_or(|to| to == from), "{}", cause.as_str());
            }
        }
    }
}

#[test]
fn a_word_reads_back_as_what_it_was_written_for() {
    for level in Level::ALL {
        assert_eq!(Level::read(level.as_str()), Some(level));
        let json = serde_json::to_string(&level).unwrap();
        assert_eq!(json, format!("{:?}", level.as_str()));
    }
    for cause in Cause::ALL {
        assert_eq!(Cause::read(cause.as_str()), Some(cause));
    }
    assert_eq!(Level::read("good"), None);
    assert_eq!(Cause::read("whim"), None);
}

#[test]
fn what_an_audit_finds_is_proof_doubt_or_nothing() {
    let cause = |finding: &Finding, failed| Cause::of_audit(finding, failed, 3);
    assert_eq!(cause(&Finding::passed(0.01, 0.1), 9), None);
    let differs = Finding::failed("progress_differs", "it differs".into(), Some((0.5, 0.1)));
    assert_eq!(cause(&differs, 1), Some(Cause::Proof));
    // A machine may be switched off at the wrong moment, but not each time.
    let unopened = Finding::failed("not_opened", "nothing came".into(), None);
    assert_eq!(cause(&unopened, 2), Some(Cause::Doubt));
    assert_eq!(cause(&unopened, 3), Some(Cause::Proof));
    let undecided = |measured| Finding {
        outcome: AuditOutcome::Undecided,
        measured,
        ..Finding::passed(0.0, 0.1)
    };
    assert_eq!(cause(&undecided(None), 9), None, "it could not be made");
    assert_eq!(cause(&undecided(Some(0.05)), 9), None);
    assert_eq!(cause(&undecided(Some(0.5)), 0), Some(Cause::Doubt));
}

/// The steps of a node that began on probation, each where it led; those that led nowhere are
/// left out.
fn steps(causes: &[Cause]) -> Vec<Step> {
    let mut at = Probation;
    let mut steps = Vec::new();
    for cause in causes {
        if let Some(to) = cause.leads(at, false) {
            at = to;
            steps.push(Step {
                cause: *cause,
                to,
                reversed: false,
            });
        }
    }
    steps
}

#[test]
fn without_its_only_fault_a_node_is_what_it_was_before() {
    let steps = steps(&[Cause::Proven, Cause::Proof]);
    assert_eq!(Left::without(&steps, 1), Left::Clear(1));
}

#[test]
fn other_evidence_holds_a_node_in_whatever_order_it_is_reversed() {
    let mut held = steps(&[Cause::Proven, Cause::Doubt, Cause::Proof, Cause::Proof]);
    assert_eq!(Left::without(&held, 2), Left::Held(Quarantined));
    held[2].reversed = true;
    assert_eq!(Left::without(&held, 3), Left::Held(Suspect));
    held[3].reversed = true;
    assert_eq!(Left::without(&held, 1), Left::Clear(1));
}

#[test]
fn evidence_that_came_during_a_ban_does_not_hold_the_ban() {
    let banned = steps(&[Cause::Ban, Cause::Proof]);
    assert_eq!(banned[1].to, Banned);
    assert_eq!(Left::without(&banned, 0), Left::Held(Quarantined));
}

#[test]
fn what_a_node_was_cleared_of_since_moves_nothing() {
    for since in [Cause::Restore, Cause::Proven] {
        let steps = steps(&[Cause::Doubt, since, Cause::Doubt]);
        assert_eq!(steps.len(), 3);
        assert_eq!(Left::without(&steps, 0), Left::Past);
        assert_eq!(Left::without(&steps, 1), Left::Past, "it was no fault");
        assert_eq!(Left::without(&steps, 2), Left::Clear(2));
        assert_eq!(Left::without(&steps, 3), Left::Past);
    }
    // A reversal that cleared it, too.
    let cleared = [
        (Cause::Proof, Quarantined, true),
        (Cause::Reversal, Trusted, false),
        (Cause::Doubt, Suspect, false),
    ];
    let cleared = cleared.map(|(cause, to, reversed)| Step {
        cause,
        to,
        reversed,
    });
    assert_eq!(Left::without(&cleared, 2), Left::Clear(2));
}

proptest! {
    /// Whatever happened, once all that was held against a node is reversed nothing is left.
    #[test]
    fn a_node_of_which_every_fault_was_an_error_is_cleared(
        causes in proptest::collection::vec(0..9usize, 1..30),
        order in proptest::collection::vec(0..30usize, 30),
    ) {
        let causes: Vec<_> = causes.into_iter().map(|at| Cause::ALL[at]).collect();
        let mut steps = steps(&causes);
        let mut last = None;
        let mut faults: Vec<_> = (0..steps.len()).collect();
        faults.sort_by_key(|at| order[*at]);
        for place in faults {
            let left = Left::without(&steps, place);
            if left == Left::Past {
                continue;
            }
            prop_assert!(!matches!(last, Some(Left::Clear(_))), "cleared twice");
            steps[place].reversed = true;
            last = Some(left);
        }
        let held = steps.last().is_some_and(|step| step.to.is_held_against());
        prop_assert_eq!(held, last.is_some());
        if let Some(last) = last {
            prop_assert!(matches!(last, Left::Clear(_)), "{:?}", last);
        }
    }
}

#[test]
fn credit_that_a_failed_audit_took_comes_back_also_when_the_run_is_over() {
    let audit = AuditRules {
        enabled: true,
        rate: 1.0,
    };
    let rules = RoundSettings {
        audit,
        ..settings()
    };
    let mut story = Story::training(rules, 3);
    let all = [1, 2, 3].map(|worker| story.update(worker));
    let credited = |story: &Story, worker| {
        let member = story.run.member(WorkerId(worker)).unwrap();
        member.credited_tokens
    };
    let (earned, total) = (credited(&story, 1), story.run.totals().tokens);
    story.open(all[0], 1).unwrap();
    story.audited(all[0], AuditOutcome::Failed).unwrap();
    assert_eq!(story.run.totals().tokens, total - earned);
    let reason = "enough".to_owned();
    story.act(Input::Stop { reason }).unwrap();
    if story.run.pending_merge().is_some() {
        story.merge();
    }
    assert_eq!(story.run.phase(), Phase::Finished);

    let returned = |worker, tokens| Input::ReturnCredit {
        assignment: all[0],
        worker: WorkerId(worker),
        tokens,
    };
    assert_eq!(story.act(returned(99, earned)), Err("unknown_worker"));
    story.act(returned(1, earned)).unwrap();
    assert_eq!(credited(&story, 1), earned);
    assert_eq!(story.run.totals().tokens, total);
    assert_eq!(Run::from_events(&story.log), story.run);
    let last: &Event = story.log.last().unwrap();
    let json = serde_json::to_string(last).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), *last);
    assert!(matches!(last.kind, EventKind::CreditReturned { .. }));
}
