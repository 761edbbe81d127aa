//! Which updates are accepted, and what is said of those that are not.

use opengpu_rounds::{AssignmentId, FeedbackId, Input, Outcome, Phase, RoundSettings, WorkerId};

use crate::story::{Story, TOKENS_PER_BLOCK, hash, revision, settings};

/// Three workers train; worker 3 sends nothing, the rounds go on without it.
fn one_worker_is_late(rounds: u64) -> (Story, Input) {
    let mut story = Story::training(
        RoundSettings {
            min_workers: 2,
            ..settings()
        },
        3,
    );
    let late = story.update_of(3);
    for _ in 0..rounds {
        story.update(1);
        story.update(2);
        if story.run.phase() == Phase::Training {
            story.pass(14_000);
        }
        let made = story.merge();
        for worker in [1, 2] {
            story.see_with(worker, 1.0, Some(made));
        }
    }
    (story, late)
}

#[test]
fn late_update_within_the_bound_is_merged() {
    for rounds in [1, 2] {
        let (mut story, late) = one_worker_is_late(rounds);
        assert_eq!(story.run.round(), rounds);
        story.act(late).unwrap();
        assert!(
            story
                .reason
                .starts_with(&format!("accepted {rounds} round")),
            "{}",
            story.reason
        );
        story.update(1);
        story.update(2);
        let merged = story.run.pending_merge().unwrap();
        assert_eq!(merged.updates[0].base, revision(0, 0));
        story.merge();
        assert!(matches!(
            story.outcome(AssignmentId(2)),
            Some(Outcome::Merged { .. })
        ));
    }
}

#[test]
fn update_past_the_bound_is_refused_with_the_number_and_its_blocks_go_out_again() {
    let (mut story, late) = one_worker_is_late(3);
    assert_eq!(story.blocks(1), [(20, 30)], "the returned blocks go first");
    assert_eq!(story.run.assignment_of(WorkerId(1)).unwrap().1.attempt, 1);
    assert_eq!(story.act(late), Err("lease_returned"));
    let (_, verdict) = story.run.verdict(AssignmentId(2)).unwrap();
    let lateness = story.run.lateness(verdict).unwrap();
    assert_eq!((lateness.measured, lateness.allowed), (3, 2));
    assert_eq!(
        story.reason,
        "the blocks of assignment 2 were given back: no update by the opening of round 3; one of round 0 is accepted up to 2 rounds late"
    );
}

#[test]
fn a_finished_prefix_counts_and_the_rest_goes_back_at_once() {
    let mut story = Story::training(settings(), 3);
    let mut input = story.update_of(2);
    if let Input::Update {
        blocks_completed, ..
    } = &mut input
    {
        *blocks_completed = 4;
    }
    story.act(input).unwrap();
    let returned: Vec<_> = story
        .run
        .returned_blocks()
        .map(|r| (r.start, r.end))
        .collect();
    assert_eq!(returned, [(14, 20)]);
    let member = story.run.member(WorkerId(2)).unwrap();
    assert_eq!(member.credited_tokens, 4 * TOKENS_PER_BLOCK);
}

#[test]
fn an_update_without_a_finished_block_is_refused_and_its_lease_returned() {
    let mut story = Story::training(settings(), 3);
    let mut input = story.update_of(2);
    if let Input::Update {
        blocks_completed, ..
    } = &mut input
    {
        *blocks_completed = 0;
    }
    assert_eq!(story.act(input), Err("nothing_completed"));
    assert_eq!(story.run.returned_blocks().count(), 1);
    assert_eq!(story.run.member(WorkerId(2)).unwrap().returned, 1);
}

#[test]
fn the_same_update_twice_is_accepted_once() {
    let mut story = Story::training(settings(), 3);
    let input = story.update_of(1);
    story.act(input.clone()).unwrap();
    let events = story.log.len();
    story.act(input.clone()).unwrap();
    assert_eq!(story.log.len(), events);
    story.update(2);
    story.update(3);
    story.merge();
    story.act(input).unwrap();
    assert_eq!(story.run.totals().updates, 3);
}

#[test]
fn another_payload_for_the_same_assignment_is_refused() {
    let mut story = Story::training(settings(), 3);
    let mut input = story.update_of(1);
    story.act(input.clone()).unwrap();
    if let Input::Update { payload, .. } = &mut input {
        *payload = hash("another");
    }
    assert_eq!(story.act(input), Err("another_payload"));
}

#[test]
fn an_update_must_fit_its_assignment() {
    type Change = fn(&mut Input);
    let cases: [(&str, Change); 7] = [
        ("wrong_worker", |input| {
            change(input, |u| *u.worker = WorkerId(2))
        }),
        ("unknown_worker", |input| {
            change(input, |u| *u.worker = WorkerId(99))
        }),
        ("unknown_assignment", |input| {
            change(input, |u| *u.assignment = AssignmentId(99))
        }),
        ("wrong_base", |input| {
            change(input, |u| *u.base = revision(0, 7))
        }),
        ("wrong_lineage", |input| {
            change(input, |u| *u.base = revision(1, 0))
        }),
        ("too_many_blocks", |input| {
            change(input, |u| *u.blocks_completed = 11)
        }),
        ("wrong_feedback", |input| {
            change(input, |u| *u.feedback = FeedbackId(5))
        }),
    ];
    for (code, make) in cases {
        let mut story = Story::training(settings(), 3);
        let mut input = story.update_of(1);
        make(&mut input);
        let before = story.run.clone();
        assert_eq!(story.act(input), Err(code));
        assert_eq!(story.run, before, "a refusal is no event");
    }
}

struct Parts<'a> {
    assignment: &'a mut AssignmentId,
    worker: &'a mut WorkerId,
    base: &'a mut opengpu_rounds::Revision,
    blocks_completed: &'a mut u64,
    feedback: &'a mut FeedbackId,
}

fn change(input: &mut Input, make: impl FnOnce(Parts<'_>)) {
    if let Input::Update {
        assignment,
        worker,
        base,
        blocks_completed,
        feedback,
        ..
    } = input
    {
        make(Parts {
            assignment,
            worker,
            base,
            blocks_completed,
            feedback,
        });
    }
}

#[test]
fn founders_are_merged_at_once() {
    let mut story = Story::training(settings(), 3);
    let first = story.update(1);
    assert_eq!(story.outcome(first), Some(Outcome::Waiting));
}

#[test]
fn a_joiners_first_update_is_credited_and_not_merged_and_its_blocks_go_out_again() {
    let mut story = Story::training(settings(), 3);
    story.join(4).unwrap();
    story.see(4, 1.0);
    assert_eq!(story.blocks(4), [(30, 40)]);
    let first = story.update(4);
    assert!(matches!(
        story.outcome(first),
        Some(Outcome::NotMerged { .. })
    ));
    let joiner = story.run.member(WorkerId(4)).unwrap();
    assert_eq!(joiner.credited_tokens, 10 * TOKENS_PER_BLOCK);
    let returned: Vec<_> = story
        .run
        .returned_blocks()
        .map(|r| (r.start, r.end))
        .collect();
    assert_eq!(returned, [(30, 40)]);
    story.whole_round(3);
    let second = story.update(4);
    assert_eq!(
        story.outcome(second),
        Some(Outcome::Waiting),
        "from then on it is merged"
    );
}

#[test]
fn a_joiners_first_update_does_not_make_a_quorum() {
    let mut story = Story::training(settings(), 3);
    story.join(4).unwrap();
    story.see(4, 1.0);
    story.update(1);
    story.update(4);
    story.silence(14_000);
    assert_eq!(story.run.totals().abandoned_rounds, 1);
}

#[test]
fn a_worker_that_owes_a_late_update_may_work_in_the_next_round() {
    let (mut story, late) = one_worker_is_late(1);
    story.see(3, 1.0);
    let Input::Update {
        assignment: old, ..
    } = late
    else {
        panic!("it is an update")
    };
    assert_ne!(
        story.assignment(3),
        Some(old),
        "the newest assignment is the one to train"
    );
    story.act(late).unwrap();
    story.update(1);
    story.update(2);
    story.update(3);
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 4);
}

#[test]
fn verdicts_are_kept_for_the_last_64_assignments_of_a_worker() {
    let mut story = Story::training(
        RoundSettings {
            rounds: 1000,
            ..settings()
        },
        3,
    );
    for _ in 0..100 {
        story.whole_round(3);
    }
    assert_eq!(story.run.verdicts(WorkerId(1)).count(), 64);
    assert_eq!(story.outcome(AssignmentId(0)), None);
}

#[test]
fn the_state_does_not_grow_with_the_rounds() {
    let mut story = Story::training(
        RoundSettings {
            rounds: 10_000,
            ..settings()
        },
        3,
    );
    let mut sizes = Vec::new();
    for round in 1..=1500 {
        story.whole_round(3);
        if round % 10 == 0 {
            story.checkpoint();
        }
        if round % 500 == 0 {
            sizes.push(serde_json::to_string(&story.run).unwrap().len());
        }
    }
    assert!(sizes[2] < sizes[0] + sizes[0] / 20, "{sizes:?}");
    assert!(sizes[2] < 200_000, "{sizes:?}");
}

#[test]
fn the_payload_of_another_assignment_is_refused_whoever_names_it() {
    let mut story = Story::training(settings(), 3);
    let first = story.update(1);
    let taken = hash(format!("payload {first}"));
    let mut stolen = story.update_of(2);
    if let Input::Update { payload, .. } = &mut stolen {
        *payload = taken;
    }
    assert_eq!(story.act(stolen.clone()), Err("payload_taken"));
    assert_eq!(
        story.reason,
        format!(
            "payload {taken} is the update of assignment {first}; each assignment is trained and sent by itself"
        )
    );
    // Its own is taken, and after the merge the stolen one still is not.
    story.update(2);
    story.update(3);
    story.merge();
    story.all_fetch();
    let mut again = story.update_of(2);
    if let Input::Update { payload, .. } = &mut again {
        *payload = taken;
    }
    assert_eq!(story.act(again), Err("payload_taken"));
}
