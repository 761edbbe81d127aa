//! Runs that are as long as so many tokens, however many rounds they take.

use opengpu_rounds::{Phase, RoundSettings, WorkerId};

use crate::story::{Story, revision, settings};

/// Three workers train a thousand tokens each in a round.
fn of_tokens(tokens: u64) -> Story {
    let settings = RoundSettings {
        tokens,
        rounds: 4,
        ..settings()
    };
    Story::training(settings, 3)
}

fn span(story: &Story, worker: u64) -> (f64, f64) {
    let (_, lease) = story.run.assignment_of(WorkerId(worker)).unwrap();
    story.run.span_of(lease)
}

/// All send; the first updates count so much of their weight.
fn round_counting(story: &mut Story, counted: &[f32]) {
    for worker in 1..=3 {
        story.update(worker);
    }
    story.merge_counting(1.0, counted);
    story.all_fetch();
}

#[test]
fn it_ends_once_its_merges_counted_the_tokens_and_not_after_its_rounds() {
    let mut story = of_tokens(13_000);
    for round in 1..=4 {
        round_counting(&mut story, &[]);
        assert_eq!(story.run.counted_tokens(), round * 3_000);
    }
    assert_eq!(story.run.phase(), Phase::Training);
    round_counting(&mut story, &[]);
    assert_eq!(story.run.phase(), Phase::Finished);
    assert_eq!(
        story.explanation(),
        "finished: 15000 tokens are merged, of 13000, in 5 rounds"
    );
}

#[test]
fn an_update_counts_as_many_tokens_as_its_part_of_its_weight() {
    let mut story = of_tokens(100_000);
    // Nothing, a quarter, and no more than it trained.
    round_counting(&mut story, &[0.0, 0.25, 2.0]);
    assert_eq!(story.run.counted_tokens(), 1_250);
}

#[test]
fn an_assignment_goes_from_what_is_counted_as_far_on_as_the_round_before_came() {
    let mut story = of_tokens(8_000);
    // Nothing is known yet but how many rounds it is expected to take.
    assert_eq!(span(&story, 1), (0.0, 0.25));
    round_counting(&mut story, &[]);
    assert_eq!(span(&story, 1), (0.375, 0.75));
    round_counting(&mut story, &[0.0]);
    assert_eq!(span(&story, 1), (0.625, 0.875));
    // A round that counts nothing says nothing about the next.
    round_counting(&mut story, &[0.0, 0.0, 0.0]);
    assert_eq!(span(&story, 1), (0.625, 0.875));
    round_counting(&mut story, &[0.0]);
    // Never beyond the end.
    assert_eq!(span(&story, 1), (0.875, 1.0));
}

#[test]
fn before_anything_counted_training_starts_all_the_same() {
    let mut story = of_tokens(8_000);
    round_counting(&mut story, &[0.0, 0.0, 0.0]);
    assert_eq!(story.run.counted_tokens(), 0);
    assert_eq!(span(&story, 1), (0.0, 0.25));
}

#[test]
fn a_late_assignment_keeps_the_progress_that_it_was_given_with() {
    let mut story = of_tokens(50_000);
    let late = story.assignment(3).unwrap();
    let given_with = |story: &Story| story.run.span_of(story.run.lease(late).unwrap());
    let first = given_with(&story);
    story.update(1);
    story.update(2);
    story.pass(14_000);
    story.merge();
    story.all_fetch();
    assert_eq!(given_with(&story), first);
    assert!(span(&story, 1).0 > first.0);
}

#[test]
fn a_rollback_takes_back_what_was_counted_since() {
    let mut story = of_tokens(50_000);
    round_counting(&mut story, &[]);
    story.checkpoint();
    round_counting(&mut story, &[]);
    round_counting(&mut story, &[0.0]);
    assert_eq!(story.run.counted_tokens(), 8_000);
    story.roll_back(revision(0, 1)).unwrap();
    assert_eq!(story.run.counted_tokens(), 3_000);
    // To the first weights: as if nothing had been.
    let mut story = of_tokens(50_000);
    round_counting(&mut story, &[]);
    story.roll_back(revision(0, 0)).unwrap();
    assert_eq!(story.run.counted_tokens(), 0);
}

#[test]
fn what_was_counted_long_ago_is_kept_as_a_sum() {
    let mut story = of_tokens(500_000);
    for round in 1..=40 {
        round_counting(&mut story, &[]);
        story.checkpoint();
        assert_eq!(story.run.counted_tokens(), round * 3_000);
    }
    story.roll_back(revision(0, 39)).unwrap();
    assert_eq!(story.run.counted_tokens(), 39 * 3_000);
    let state = serde_json::to_value(&story.run).unwrap();
    assert!(state["counted"].as_array().unwrap().len() <= 3, "{state}");
}
