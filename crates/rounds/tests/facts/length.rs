//! Runs that are as long as so many tokens, however many rounds they take.

use opengpu_rounds::{AuditOutcome, AuditRules, Phase, RoundSettings, WEIGHING, WorkerId};

use crate::story::{Story, revision, settings};

/// Three workers train a thousand tokens each in a round.
fn of_tokens(total_tokens: u64) -> Story {
    let settings = RoundSettings {
        total_tokens,
        rounds: 4,
        ..settings()
    };
    Story::training(settings, 3)
}

fn span(story: &Story, worker: u64) -> (f64, f64) {
    let (_, lease) = story.run.assignment_of(WorkerId(worker)).unwrap();
    let span = story.run.span_of(lease);
    (span.from, span.to)
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
fn shares_that_float32_leaves_a_little_short_of_the_whole_count_whole() {
    let mut story = of_tokens(100_000);
    round_counting(&mut story, &[0.999_999_94, 0.999_999_94, 1.0]);
    assert_eq!(story.run.counted_tokens(), 3_000);
}

/// A machine whose own word is that it trains a thousand times what others do.
#[test]
fn a_node_counts_no_more_tokens_than_its_limited_weight_has() {
    let settings = RoundSettings {
        total_tokens: 10_000_000,
        weighing: WEIGHING,
        max_workers: 20,
        max_blocks: 10_000,
        blocks_per_epoch: 1_000_000,
        ..settings()
    };
    let mut story = Story::started(settings, 8);
    story.see(8, 1_000.0);
    story.form();
    for worker in 1..=8 {
        story.update(worker);
    }
    let others = 7 * 1_000;
    let pending = story.run.pending_merge().unwrap();
    let claimed: u64 = pending.updates.iter().map(|update| update.tokens).sum();
    assert!(claimed > 100 * others, "{claimed}");
    story.merge();
    // A quarter of the round at most, and so a third of what the others have together.
    let counted = story.run.counted_tokens();
    assert!(
        counted >= others && counted <= others * 4 / 3 + 100,
        "{counted}"
    );
}

#[test]
fn reputation_changes_what_updates_weigh_and_not_what_they_count() {
    let settings = RoundSettings {
        total_tokens: 1_000_000,
        weighing: WEIGHING,
        audit: AuditRules {
            enabled: true,
            rate: 0.0,
        },
        ..settings()
    };
    let mut story = Story::started(settings, 4);
    for sight in story.fleet.values_mut() {
        sight.reputation = 0.0;
    }
    story.form();
    for worker in 1..=4 {
        story.update(worker);
    }
    let pending = story.run.pending_merge().unwrap();
    assert!(pending.updates.iter().all(|update| update.trust < 1.0));
    story.merge();
    assert_eq!(story.run.counted_tokens(), 4_000);
}

#[test]
fn an_audit_trains_with_the_span_that_the_worker_had() {
    let settings = RoundSettings {
        total_tokens: 50_000,
        audit: AuditRules {
            enabled: true,
            rate: 1.0,
        },
        ..settings()
    };
    let mut story = Story::training(settings, 3);
    round_counting(&mut story, &[]);
    let audits: Vec<_> = story
        .run
        .audits()
        .map(|(id, audit)| (id, audit.worker))
        .collect();
    for (id, worker) in audits {
        story.open(id, worker.0).unwrap();
        story.audited(id, AuditOutcome::Passed).unwrap();
    }
    story.all_fetch();
    let given = span(&story, 1);
    assert_eq!(given, (0.06, 0.12));
    let assignment = story.assignment(1).unwrap();
    for worker in 1..=3 {
        story.update(worker);
    }
    story.merge();
    let (_, audit) = story
        .run
        .audits()
        .find(|(id, _)| *id == assignment)
        .unwrap();
    let again = story.run.span_of_audited(audit);
    assert_eq!((again.from, again.to), given);
    // And not with what is counted by now.
    assert!(story.run.progress() > given.0);
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
    assert!(span(&story, 1).0 > first.from);
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
