//! What follows from updates that were tried alone.

use opengpu_rounds::probe::{Flag, Trial};
use opengpu_rounds::{AssignmentId, EventKind, Input, Revision, Run, WorkerId};

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

/// Whom each probe made suspect.
fn suspects(story: &Story) -> Vec<Vec<WorkerId>> {
    let events = story.log.iter().filter_map(|event| match &event.kind {
        EventKind::Probed { suspects, .. } => Some(suspects.clone()),
        _ => None,
    });
    events.collect()
}

/// In each of these rounds worker 3's update is tried: whether it hurts, None: it is not tried.
fn tell(rounds: &[Option<bool>]) -> Story {
    let mut story = Story::training(settings(), 3);
    for hurts in rounds {
        let (update, made) = round(&mut story);
        if let Some(hurts) = hurts {
            let measured = if *hurts { 4.0 } else { 3.1 };
            probed(&mut story, made, vec![trial(update, 3, measured)]);
        }
    }
    story
}

#[test]
fn one_bad_round_is_told_and_accuses_nobody() {
    let story = tell(&[None, Some(true), Some(false), None, Some(true)]);
    assert_eq!(suspects(&story), [vec![], vec![]]);
    let told = story
        .run
        .verdicts(WorkerId(3))
        .filter(|v| v.alone.is_some());
    assert_eq!(told.count(), 2);
    assert_eq!(story.run.revision(), revision(0, 5), "nothing is undone");
}

#[test]
fn who_hurts_twice_in_three_updates_is_suspected_and_works_on() {
    for again in [&[Some(true)][..], &[None, Some(true)]] {
        let rounds = [&[Some(true)][..], again].concat();
        let mut story = tell(&rounds);
        assert_eq!(suspects(&story), [vec![], vec![WorkerId(3)]]);
        round(&mut story);
    }
}

#[test]
fn two_updates_of_one_merge_are_one_bad_round() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story.pass(14_000);
    // It arrives during the merge, and is in the next one with the one after it.
    let late = story.update(3);
    story.merge();
    story.all_fetch();
    let next = story.assignment(3).unwrap();
    let made = story.whole_round(3);
    probed(
        &mut story,
        made,
        vec![trial(late, 3, 4.0), trial(next, 3, 4.0)],
    );
    assert_eq!(suspects(&story), [vec![]]);
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
