//! Rolling back by itself: when, where to, without whom, and when it is for a person instead.

use opengpu_rounds::{EventKind, Input, Look, Phase, Revision, RoundSettings, WorkerId};

use crate::story::{Story, revision, settings};

/// Four rounds merged, revision 2 checkpointed, losses a tenth above the lowest allowed.
fn trained() -> Story {
    let settings = RoundSettings {
        rollback_above: 0.1,
        min_workers: 2,
        ..settings()
    };
    let mut story = Story::training(settings, 4);
    for round in 1..=4 {
        story.whole_round(4);
        if round == 2 {
            story.checkpoint();
        }
    }
    story
}

fn look(story: &mut Story, loss: Option<f64>, good: Option<(u64, f64)>, suspects: &[u64]) {
    let lineage = story.run.revision().lineage;
    let look = Look {
        revision: story.run.revision(),
        loss,
        good: good.map(|(number, loss)| (Revision { lineage, number }, loss)),
        suspects: suspects.iter().map(|id| WorkerId(*id)).collect(),
    };
    story.act(Input::HeldOut(look)).unwrap();
}

#[test]
fn a_loss_near_the_lowest_before_it_changes_nothing() {
    let mut story = trained();
    let events = story.log.len();
    look(&mut story, Some(3.2), Some((2, 3.0)), &[1]);
    look(&mut story, Some(9.0), None, &[1]);
    assert_eq!(story.log.len(), events);
    assert_eq!(story.run.revision(), revision(0, 4));
}

#[test]
fn a_spike_goes_back_to_the_newest_good_checkpoint_without_the_suspects_and_on_by_itself() {
    let mut story = trained();
    let credited = story.run.totals().tokens;
    look(&mut story, Some(4.0), Some((2, 3.0)), &[3]);
    assert_eq!(story.run.revision(), revision(1, 2));
    let lineage = story.run.lineages().last().unwrap();
    assert!(lineage.by_itself);
    assert!(
        lineage.reason.contains("33 % above") && lineage.reason.contains("without worker 3"),
        "{}",
        lineage.reason
    );
    assert_eq!(story.run.totals().tokens, credited, "credit is kept");
    assert_eq!(story.join(3), Err("left_out"));
    // The others go on, and nobody had to ask.
    for worker in [1, 2, 4] {
        story
            .join_with(worker, worker + 10, worker * 1000 + 1)
            .unwrap();
        story.see(worker, 1.0);
    }
    story.form();
    assert!(story.assignment(3).is_none());
    // Until a person takes it back.
    let worker = WorkerId(3);
    story.act(Input::Readmit { worker }).unwrap();
    story.join_with(3, 13, 3001).unwrap();
}

#[test]
fn weights_that_are_no_numbers_are_gone_back_from_even_if_nothing_was_measured_before() {
    let mut story = trained();
    // Only revision 2 is kept, and nobody knows whether it was good.
    look(&mut story, None, Some((3, 3.0)), &[]);
    assert_eq!(story.run.revision(), revision(1, 2));
    assert!(
        story.run.lineages()[1]
            .reason
            .contains("no worker stands out")
    );
}

#[test]
fn what_two_tries_did_not_mend_waits_for_a_person() {
    let mut story = trained();
    for lineage in 1..=2 {
        look(&mut story, Some(4.0), Some((2, 3.0)), &[]);
        assert_eq!(story.run.revision(), revision(lineage, 2));
        for worker in 1..=4 {
            let feedback = worker * 1000 + u64::from(lineage);
            story.join_with(worker, worker + 10, feedback).unwrap();
            story.see(worker, 1.0);
        }
        story.form();
        story.whole_round(4);
    }
    look(&mut story, Some(4.0), Some((2, 3.0)), &[]);
    assert_eq!(story.run.phase(), Phase::Failed);
    assert!(
        story.explanation().contains("2 times by itself"),
        "{}",
        story.explanation()
    );
    assert_eq!(story.run.leases().count(), 0);
    story.act(Input::Resume).unwrap();
    assert_eq!(story.run.phase(), Phase::Training);
}

#[test]
fn without_a_checkpoint_from_before_the_spike_it_says_so() {
    let mut story = trained();
    story.checkpoint();
    story.whole_round(4);
    story.checkpoint();
    look(&mut story, Some(4.0), Some((1, 3.0)), &[1]);
    assert_eq!(story.run.phase(), Phase::Failed);
    assert!(
        story.explanation().contains("no checkpoint from before it"),
        "{}",
        story.explanation()
    );
}

#[test]
fn a_run_that_was_told_never_to_roll_back_or_that_a_person_holds_stays_where_it_is() {
    let mut story = trained();
    story
        .act(Input::Pause {
            reason: "dinner".into(),
        })
        .unwrap();
    look(&mut story, Some(4.0), Some((2, 3.0)), &[1]);
    assert_eq!(story.run.phase(), Phase::Paused);
    let mut story = Story::training(settings(), 3);
    story.whole_round(3);
    look(&mut story, None, None, &[1]);
    assert_eq!(story.run.revision(), revision(0, 1));
}

#[test]
fn a_merge_that_cannot_be_computed_goes_back_too() {
    let mut story = trained();
    for worker in 1..=4 {
        story.update(worker);
    }
    let reason = "a weight is not finite".into();
    story.act(Input::MergeFailed { reason }).unwrap();
    assert_eq!(story.run.revision(), revision(1, 2));
    assert_eq!(
        story.count(|kind| matches!(kind, EventKind::Failed { .. })),
        0
    );
}

#[test]
fn what_is_late_may_still_come_after_a_merge_that_failed_for_good() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    // Its worker is waited for until the grace is over, and is late from then on.
    story.pass(20_000);
    assert_eq!(story.run.phase(), Phase::Merging);
    let reason = "a payload is gone".into();
    story.act(Input::MergeFailed { reason }).unwrap();
    assert_eq!(story.run.phase(), Phase::Failed);
    assert_eq!(story.run.leases().count(), 1);
    story.act(Input::Resume).unwrap();
    story.update(3);
}
