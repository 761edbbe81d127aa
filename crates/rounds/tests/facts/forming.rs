//! Who is waited for, and who gets work.

use opengpu_rounds::{EventKind, Input, Phase, RoundSettings, WorkerId};

use crate::story::{Story, settings};

#[test]
fn a_run_waits_for_its_minimum_of_workers_and_says_how_many_are_missing() {
    let mut story = Story::started(settings(), 1);
    story.pass(60_000);
    assert_eq!(story.run.phase(), Phase::Forming);
    assert_eq!(
        story.explanation(),
        "round 0 waits for 2 more workers (1 of 3 ready with revision 0.0, 1 joined)"
    );
}

#[test]
fn a_draft_does_nothing_until_it_is_started() {
    let mut story = Story::new(settings());
    for worker in 1..=3 {
        story.join(worker).unwrap();
        story.see(worker, 1.0);
    }
    story.pass(60_000);
    assert_eq!(story.run.phase(), Phase::Draft);
    assert_eq!(story.explanation(), "waits to be started");
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start_with_their_name() {
    let broken = RoundSettings {
        blocks_per_epoch: 0,
        ..settings()
    };
    let mut story = Story::new(broken);
    assert_eq!(story.act(Input::Start), Err("settings_invalid"));
    assert_eq!(story.reason, "blocks_per_epoch is 0; it must be at least 1");
}

#[test]
fn once_the_minimum_is_ready_others_have_the_forming_time_to_join() {
    let mut story = Story::started(settings(), 3);
    assert_eq!(story.run.phase(), Phase::Forming);
    assert_eq!(
        story.explanation(),
        "round 0 has 3 workers ready, 3 needed; it waits 2.0 s for others to join"
    );
    story.pass(1_000);
    story.join(4).unwrap();
    story.see(4, 1.0);
    story.pass(1_000);
    assert_eq!(story.run.phase(), Phase::Training);
    assert!(story.assignment(4).is_some());
}

#[test]
fn a_round_opens_at_once_when_all_places_are_taken() {
    let full = RoundSettings {
        max_workers: 3,
        ..settings()
    };
    let story = Story::started(full, 3);
    assert_eq!(story.run.phase(), Phase::Training);
}

#[test]
fn the_next_round_opens_when_those_of_the_last_one_hold_the_new_weights() {
    let mut story = Story::training(settings(), 4);
    for worker in 1..=4 {
        story.update(worker);
    }
    let made = story.merge();
    for worker in 1..=3 {
        assert_eq!(story.run.phase(), Phase::Forming);
        story.see_with(worker, 1.0, Some(made));
    }
    assert_eq!(
        story.explanation(),
        "round 1 has 3 workers ready, 3 needed; it waits 2.0 s for 1 worker to fetch revision 0.1"
    );
    story.see_with(4, 1.0, Some(made));
    assert_eq!(story.run.phase(), Phase::Training);
}

#[test]
fn the_next_round_does_not_wait_longer_than_the_forming_time_for_a_slow_fetch() {
    let mut story = Story::training(settings(), 4);
    for worker in 1..=4 {
        story.update(worker);
    }
    let made = story.merge();
    for worker in 1..=3 {
        story.see_with(worker, 1.0, Some(made));
    }
    story.pass(2_000);
    assert_eq!(story.run.phase(), Phase::Training);
    assert_eq!(story.assignment(4), None);
}

#[test]
fn a_worker_with_other_weights_or_draining_or_silent_is_not_ready() {
    let mut story = Story::training(
        RoundSettings {
            min_workers: 1,
            quorum: 1,
            ..settings()
        },
        4,
    );
    for worker in 1..=4 {
        story.update(worker);
    }
    let made = story.merge();
    story.see_with(1, 1.0, None);
    story.fleet.get_mut(&WorkerId(2)).unwrap().draining = true;
    story.fleet.get_mut(&WorkerId(2)).unwrap().revision = Some(made);
    story.pass(1_000);
    story.fleet.remove(&WorkerId(3));
    story.see_with(4, 1.0, Some(made));
    story.pass(5_000);
    let working: Vec<_> = (1..=4)
        .filter(|worker| story.assignment(*worker).is_some())
        .collect();
    assert_eq!(working, vec![4]);
}

#[test]
fn more_workers_than_places_take_turns() {
    let tight = RoundSettings {
        min_workers: 2,
        max_workers: 2,
        ..settings()
    };
    let mut story = Story::started(tight, 4);
    let mut turns = Vec::new();
    for _ in 0..4 {
        let working = |worker: &u64| story.assignment(*worker).is_some();
        let turn: Vec<u64> = (1..=4).filter(working).collect();
        for worker in &turn {
            story.update(*worker);
        }
        story.merge();
        story.all_fetch();
        turns.push(turn);
    }
    assert_eq!(turns, [[1, 2], [3, 4], [1, 2], [3, 4]]);
}

/// Two places, workers 1 to 4 on probation, 5 and 6 known.
fn flooded() -> Story {
    let tight = RoundSettings {
        min_workers: 2,
        max_workers: 2,
        ..settings()
    };
    let mut story = Story::new(tight);
    for worker in 1..=6 {
        story.join(worker).unwrap();
        story.see(worker, 1.0);
    }
    on_probation(&mut story);
    story.act(Input::Start).unwrap();
    story
}

fn on_probation(story: &mut Story) {
    for worker in 1..=4 {
        story.fleet.get_mut(&WorkerId(worker)).unwrap().trusted = false;
    }
}

fn at_work(story: &Story) -> Vec<u64> {
    let working = |worker: &u64| story.assignment(*worker).is_some();
    (1..=6).filter(working).collect()
}

#[test]
fn workers_on_probation_take_no_place_of_a_known_one_however_long_they_waited() {
    let mut story = flooded();
    for _ in 0..3 {
        assert_eq!(at_work(&story), [5, 6]);
        for worker in [5, 6] {
            story.update(worker);
        }
        story.merge();
        story.all_fetch();
    }
}

#[test]
fn workers_on_probation_do_not_fill_a_round_while_a_known_one_still_fetches() {
    let mut story = flooded();
    for worker in [5, 6] {
        story.update(worker);
    }
    let made = story.merge();
    for worker in 1..=5 {
        story.see_with(worker, 1.0, Some(made));
        on_probation(&mut story);
    }
    story.see_with(6, 1.0, Some(made));
    assert_eq!(at_work(&story), [5, 6]);
}

#[test]
fn places_that_no_known_worker_takes_go_to_those_on_probation_in_turn() {
    let mut story = flooded();
    let leave = Input::Leave {
        worker: WorkerId(6),
        reason: "its owner plays a game".into(),
    };
    let mut turns = Vec::new();
    for _ in 0..3 {
        let turn = at_work(&story);
        for worker in &turn {
            story.update(*worker);
        }
        story.act(leave.clone()).unwrap();
        story.merge();
        story.all_fetch();
        turns.push(turn);
    }
    assert_eq!(turns, [vec![5, 6], vec![1, 5], vec![2, 5]]);
}

#[test]
fn each_worker_gets_the_blocks_its_speed_fits_before_the_deadline() {
    let mut story = Story::started(settings(), 0);
    for (worker, speed) in [(1, 0.44), (2, 2.0), (3, 100.0), (4, f64::NAN), (5, -1.0)] {
        story.join(worker).unwrap();
        story.see(worker, speed);
    }
    story.pass(2_000);
    assert_eq!(
        story.blocks(1),
        [(0, 5)],
        "0.44 blocks a second for ten seconds, rounded up"
    );
    assert_eq!(story.blocks(2), [(5, 25)]);
    assert_eq!(story.blocks(3), [(25, 75)], "never more than max_blocks");
    assert_eq!(story.blocks(4), [(75, 76)], "an unmeasured worker gets one");
    assert_eq!(story.blocks(5), [(76, 77)]);
}

#[test]
fn a_stretch_gives_more_blocks_than_the_speed_predicts() {
    let story = Story::training(
        RoundSettings {
            stretch: 1.5,
            ..settings()
        },
        3,
    );
    assert_eq!(story.blocks(1), [(0, 15)]);
}

#[test]
fn a_worker_that_becomes_ready_during_a_round_gets_work_for_the_time_left() {
    let mut story = Story::training(settings(), 3);
    story.pass(4_000);
    story.join(4).unwrap();
    story.see(4, 1.0);
    assert_eq!(story.blocks(4), [(30, 36)]);
}

#[test]
fn a_worker_that_becomes_ready_late_in_a_round_waits_for_the_next() {
    let mut story = Story::training(settings(), 3);
    story.pass(8_000);
    story.join(4).unwrap();
    story.see(4, 1.0);
    assert_eq!(story.assignment(4), None);
}

#[test]
fn a_worker_gets_one_assignment_in_a_round() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.see(1, 1.0);
    assert_eq!(story.assignment(1), None);
    assert_eq!(
        story.count(|kind| matches!(kind, EventKind::Assigned { .. })),
        3
    );
}

#[test]
fn epochs_follow_one_another_and_an_assignment_crosses_one_boundary_at_most() {
    let small = RoundSettings {
        blocks_per_epoch: 12,
        ..settings()
    };
    let mut story = Story::started(small, 0);
    for worker in 1..=3 {
        story.join(worker).unwrap();
        story.see(worker, 4.0);
    }
    story.pass(2_000);
    assert_eq!(story.blocks(1), [(0, 24)]);
    assert_eq!(story.blocks(2), [(24, 48)]);
}
