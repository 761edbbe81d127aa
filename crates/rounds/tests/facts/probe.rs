//! What follows from updates that were tried alone.

use opengpu_rounds::probe::{Flag, Trial};
use opengpu_rounds::{
    AssignmentId, AuditOutcome, AuditRules, Input, Revision, RoundSettings, Run, WorkerId,
};

use crate::story::{Story, revision, settings};

fn trial(assignment: AssignmentId, worker: u64, measured: f64) -> Trial {
    Trial {
        assignment,
        worker: WorkerId(worker),
        flag: Flag::Disagrees,
        before: 3.0,
        measured: Some(measured),
        allowed: 3.15,
    }
}

fn probed(story: &mut Story, revision: Revision, trials: Vec<Trial>) {
    story.act(Input::Probed { revision, trials }).unwrap();
}

/// Everybody's update of the next round is merged; answers with worker 3's.
fn round(story: &mut Story) -> (AssignmentId, Revision) {
    if story.assignment(1).is_none() {
        story.form();
    }
    let update = story.assignment(3).unwrap();
    (update, story.whole_round(3))
}

/// In each of these rounds worker 3's update is tried: whether it hurts, None: it is not tried.
fn tell(mut story: Story, rounds: &[Option<bool>]) -> Story {
    for hurts in rounds {
        let (update, made) = round(&mut story);
        if let Some(hurts) = hurts {
            let measured = if *hurts { 4.0 } else { 3.1 };
            probed(&mut story, made, vec![trial(update, 3, measured)]);
        }
    }
    story
}

/// Whose updates are audited now, for which the number is drawn that is audited last.
fn audited(story: &Story) -> Vec<WorkerId> {
    let audits = story.run.audits();
    audits.map(|(_, audit)| audit.worker).collect()
}

#[test]
fn what_hurts_is_told_and_undoes_nothing() {
    let rounds = [None, Some(true), Some(false), None, Some(true), Some(true)];
    let mut story = tell(Story::training(settings(), 3), &rounds);
    let verdicts = story.run.verdicts(WorkerId(3));
    assert_eq!(verdicts.filter(|v| v.alone.is_some()).count(), 3);
    assert_eq!(story.run.revision(), revision(0, 6));
    round(&mut story);
    assert_eq!(audited(&story), [], "of a run that audits nothing");
}

#[test]
fn of_who_hurt_alone_the_next_updates_are_audited() {
    let audit = AuditRules {
        enabled: true,
        rate: 0.1,
    };
    let rules = RoundSettings {
        audit,
        ..settings()
    };
    let mut story = tell(Story::training(rules, 3), &[Some(false)]);
    round(&mut story);
    assert_eq!(audited(&story), [], "it passed");
    story = tell(story, &[Some(true)]);
    for _ in 0..3 {
        let (update, _) = round(&mut story);
        assert_eq!(audited(&story), [WorkerId(3)]);
        story.open(update, 3).unwrap();
        story.audited(update, AuditOutcome::Passed).unwrap();
    }
    round(&mut story);
    assert_eq!(audited(&story), [], "three passed since");
}

#[test]
fn told_again_or_of_weights_that_were_given_up_it_changes_nothing() {
    let mut story = Story::training(settings(), 3);
    let (first, made) = round(&mut story);
    story.checkpoint();
    probed(&mut story, made, vec![trial(first, 3, 4.0)]);
    let events = story.log.len();
    probed(&mut story, made, vec![trial(first, 3, 4.0)]);
    probed(&mut story, made, vec![trial(first, 2, 4.0)]);
    assert_eq!(
        story.log.len(),
        events,
        "not twice, and not of another worker"
    );
    let (second, spoilt) = round(&mut story);
    story.roll_back(made).unwrap();
    let events = story.log.len();
    probed(&mut story, spoilt, vec![trial(second, 3, 4.0)]);
    assert_eq!(story.log.len(), events);
    let read = serde_json::to_string(&story.log).unwrap();
    let log: Vec<opengpu_rounds::Event> = serde_json::from_str(&read).unwrap();
    assert_eq!(Run::from_events(&log), story.run);
}
