//! Joining, leaving, error feedback; and what people do to a run.

use opengpu_rounds::{FeedbackId, Input, Outcome, Phase, WorkerId};

use crate::story::{Story, hash, revision, settings};

fn leave(worker: u64) -> Input {
    Input::Leave {
        worker: WorkerId(worker),
        reason: "its owner plays a game".into(),
    }
}

fn reset(worker: u64, feedback: u64) -> Input {
    Input::FeedbackReset {
        worker: WorkerId(worker),
        feedback: FeedbackId(feedback),
    }
}

fn pause() -> Input {
    Input::Pause {
        reason: "for the night".into(),
    }
}

#[test]
fn joining_again_changes_nothing() {
    let mut story = Story::training(settings(), 3);
    let before = story.run.clone();
    story.join(1).unwrap();
    assert_eq!(story.run, before);
    assert_eq!(story.join_with(1, 77, 1000), Err("wrong_node"));
}

#[test]
fn a_leavers_blocks_go_back_at_once() {
    let mut story = Story::training(settings(), 3);
    let owed = story.update_of(3);
    story.act(leave(3)).unwrap();
    let returned: Vec<_> = story
        .run
        .returned_blocks()
        .map(|r| (r.start, r.end))
        .collect();
    assert_eq!(returned, [(20, 30)]);
    assert_eq!(story.act(owed), Err("lease_returned"));
    story.act(leave(3)).unwrap();
    story.act(leave(55)).unwrap();
}

#[test]
fn a_leaver_that_comes_back_keeps_its_credit_and_is_merged() {
    let mut story = Story::training(settings(), 4);
    story.update(4);
    story.act(leave(4)).unwrap();
    story.whole_round(3);
    story.join_with(4, 14, 4001).unwrap();
    story.see(4, 1.0);
    let update = story.update(4);
    assert_eq!(story.outcome(update), Some(Outcome::Waiting));
    assert_eq!(story.run.member(WorkerId(4)).unwrap().accepted, 2);
}

#[test]
fn lost_feedback_starts_again_under_a_new_id_and_the_old_one_is_refused() {
    let mut story = Story::training(settings(), 3);
    let sent_before = story.update_of(1);
    story.act(reset(1, 1001)).unwrap();
    assert_eq!(story.act(sent_before), Err("wrong_feedback"));
    assert_eq!(story.act(reset(1, 1000)), Err("feedback_retired"));
    story.feedback.insert(WorkerId(1), FeedbackId(1001));
    story.update(1);
}

#[test]
fn reports_alone_do_not_grow_the_log() {
    let mut story = Story::training(settings(), 3);
    story.act(reset(1, 1001)).unwrap();
    let before = story.log.len();
    for feedback in 2000..2100 {
        assert_eq!(story.act(reset(1, feedback)), Err("feedback_too_soon"));
    }
    assert_eq!(story.log.len(), before);
    assert_eq!(story.act(reset(1, 1001)), Ok(()), "the same one is no news");
    story.act(reset(2, 2001)).unwrap();
    story.pass(settings().duration_ms);
    story.act(reset(1, 2100)).unwrap();
}

#[test]
fn a_pause_returns_leases_and_keeps_what_was_accepted_for_the_next_merge() {
    let mut story = Story::training(settings(), 3);
    let accepted = story.update(1);
    story.act(pause()).unwrap();
    assert_eq!(story.run.phase(), Phase::Paused);
    assert_eq!(story.explanation(), "paused: for the night");
    assert_eq!(story.round_reason(), "the run was paused: for the night");
    assert_eq!(story.run.leases().count(), 0);
    story.act(pause()).unwrap();
    story.pass(100_000);
    story.act(Input::Resume).unwrap();
    assert_eq!(
        story.run.phase(),
        Phase::Training,
        "all are ready, nobody is waited for"
    );
    story.update(1);
    story.update(2);
    story.update(3);
    assert_eq!(
        story.run.pending_merge().unwrap().updates[0].assignment,
        accepted
    );
}

#[test]
fn a_merge_under_way_is_finished_in_a_pause() {
    let mut story = Story::training(settings(), 3);
    for worker in 1..=3 {
        story.update(worker);
    }
    story.act(pause()).unwrap();
    assert_eq!(story.merge(), revision(0, 1));
    assert_eq!(story.run.phase(), Phase::Paused);
    story.act(Input::Resume).unwrap();
    story.all_fetch();
    assert_eq!(story.run.round(), 1);
}

#[test]
fn a_run_resumed_before_its_merge_is_done_goes_on_merging() {
    let mut story = Story::training(settings(), 3);
    for worker in 1..=3 {
        story.update(worker);
    }
    story.act(pause()).unwrap();
    story.act(Input::Resume).unwrap();
    assert_eq!(story.run.phase(), Phase::Merging);
    story.merge();
}

#[test]
fn a_stopped_run_merges_what_has_a_quorum_and_finishes() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story
        .act(Input::Stop {
            reason: "good enough".into(),
        })
        .unwrap();
    assert_eq!(story.run.phase(), Phase::Merging);
    story.merge();
    assert_eq!(story.explanation(), "finished: it was stopped: good enough");
    assert_eq!(story.run.leases().count(), 0);
}

#[test]
fn a_stopped_run_without_a_quorum_finishes_at_once_and_says_so_to_those_that_wait() {
    let mut story = Story::training(settings(), 3);
    let update = story.update(1);
    story
        .act(Input::Stop {
            reason: "good enough".into(),
        })
        .unwrap();
    assert_eq!(story.run.phase(), Phase::Finished);
    let reason = "the run finished: it was stopped: good enough".into();
    assert_eq!(story.outcome(update), Some(Outcome::NotMerged { reason }));
    assert_eq!(story.act(Input::Resume), Err("run_finished"));
    assert_eq!(story.act(Input::Start), Err("run_finished"));
}

#[test]
fn a_failed_run_can_be_stopped_even_if_it_was_being_stopped() {
    let mut story = Story::training(settings(), 3);
    for worker in 1..=3 {
        story.update(worker);
    }
    let stop = || Input::Stop {
        reason: "enough".into(),
    };
    story.act(stop()).unwrap();
    story
        .act(Input::MergeFailed {
            reason: "no memory".into(),
        })
        .unwrap();
    story.act(stop()).unwrap();
    assert_eq!(story.run.phase(), Phase::Finished);
}

/// Five merged rounds, checkpoints at 2 and 4, and one update of round 5 in.
fn five_rounds() -> Story {
    let mut story = Story::training(settings(), 3);
    for round in 1..=5 {
        story.whole_round(3);
        if round % 2 == 0 {
            story.checkpoint();
        }
    }
    story.update(1);
    story
}

#[test]
fn a_rollback_opens_a_lineage_and_gives_the_abandoned_blocks_out_again() {
    let mut story = five_rounds();
    let waiting = story.run.waiting_updates().next().unwrap().assignment;
    let credited = story.run.totals().tokens;
    assert_eq!(story.run.checkpoints().len(), 2);
    story.roll_back(revision(0, 2)).unwrap();
    assert_eq!(story.run.revision(), revision(1, 2));
    assert_eq!(story.run.digest(), Some(hash("0.2")));
    let returned: Vec<_> = story
        .run
        .returned_blocks()
        .map(|r| (r.start, r.end))
        .collect();
    assert_eq!(
        returned,
        [(60, 180)],
        "rounds 2, 3, 4 and the one in flight"
    );
    assert!(matches!(
        story.outcome(waiting),
        Some(Outcome::NotMerged { .. })
    ));
    assert_eq!(story.run.totals().tokens, credited, "credit is kept");
    assert_eq!(
        story.run.lineages().last().unwrap().parent,
        Some(revision(0, 2))
    );
    assert_eq!(story.run.checkpoint().unwrap().revision, revision(1, 2));
    assert_eq!(story.run.pending_checkpoint(2), None);
}

#[test]
fn after_a_rollback_workers_must_hold_the_new_lineage_and_name_new_feedback() {
    let mut story = five_rounds();
    story.roll_back(revision(0, 4)).unwrap();
    story.pass(10_000);
    assert_eq!(
        story.run.phase(),
        Phase::Forming,
        "weights of the old lineage do not count"
    );
    story.all_fetch();
    assert_eq!(
        story.run.phase(),
        Phase::Forming,
        "neither does the right weights' old feedback"
    );
    assert_eq!(story.act(reset(1, 1000)), Err("feedback_retired"));
    assert_eq!(story.join(1), Err("feedback_retired"));
    for worker in 1..=3 {
        story.act(reset(worker, worker * 1000 + 1)).unwrap();
        story
            .feedback
            .insert(WorkerId(worker), FeedbackId(worker * 1000 + 1));
    }
    assert_eq!(story.run.phase(), Phase::Training);
    assert_eq!(story.blocks(1), [(120, 130)]);
    assert_eq!(story.whole_round(3), revision(1, 5));
}

#[test]
fn the_path_to_the_newest_weights_runs_through_the_rollback() {
    let mut story = five_rounds();
    story.roll_back(revision(0, 4)).unwrap();
    assert!(story.run.is_live(revision(0, 4)));
    assert!(!story.run.is_live(revision(0, 5)), "left behind");
    assert!(
        !story.run.is_live(revision(1, 3)),
        "the new lineage starts at 4"
    );
    assert_eq!(story.run.merges_after(revision(0, 3)).unwrap().len(), 1);
    assert_eq!(story.run.merges_after(revision(0, 5)), None);
}

#[test]
fn a_rollback_goes_to_a_kept_checkpoint_only_and_says_which_those_are() {
    let mut story = five_rounds();
    assert_eq!(story.roll_back(revision(0, 3)), Err("no_such_checkpoint"));
    assert_eq!(
        story.reason,
        "revision 0.3 is no kept checkpoint; kept are: 0.2, 0.4"
    );
    story.roll_back(revision(0, 4)).unwrap();
    story.roll_back(revision(0, 4)).unwrap();
    assert_eq!(
        story.run.revision(),
        revision(2, 4),
        "the old name still means these weights"
    );
    story.roll_back(revision(0, 2)).unwrap();
    assert_eq!(story.run.revision(), revision(3, 2));
    assert!(!story.run.is_live(revision(2, 4)));
}

#[test]
fn a_rollback_during_a_merge_forgets_the_merge() {
    let mut story = five_rounds();
    story.update(2);
    story.update(3);
    let pending = story.run.pending_merge().unwrap();
    story.roll_back(revision(0, 4)).unwrap();
    assert_eq!(story.run.pending_merge(), None);
    let late = Input::MergeDone {
        round: pending.round,
        merge: hash("merge"),
        merge_bytes: 1,
        digest: hash("digest"),
        factors: vec![1.0; 3],
        regards: Vec::new(),
    };
    assert_eq!(story.act(late), Err("no_such_merge"));
}

#[test]
fn a_paused_run_that_is_rolled_back_stays_paused() {
    let mut story = five_rounds();
    story.act(pause()).unwrap();
    story.roll_back(revision(0, 4)).unwrap();
    assert_eq!(story.run.phase(), Phase::Paused);
    assert_eq!(story.run.revision(), revision(1, 4));
}

#[test]
fn a_checkpoint_must_be_of_the_live_line_and_have_its_digest() {
    let mut story = five_rounds();
    assert_eq!(
        story.checkpoint_as(revision(0, 5), hash("else")),
        Err("wrong_digest")
    );
    assert_eq!(
        story.checkpoint_as(revision(0, 1), hash("0.1")),
        Err("checkpoint_outdated")
    );
    assert_eq!(
        story.checkpoint_as(revision(0, 9), hash("0.9")),
        Err("checkpoint_outdated")
    );
    assert_eq!(
        story.checkpoint_as(revision(1, 5), hash("0.5")),
        Err("checkpoint_outdated")
    );
    story.checkpoint_as(revision(0, 4), hash("0.4")).unwrap();
    story.checkpoint_as(revision(0, 5), hash("0.5")).unwrap();
}

#[test]
fn payloads_are_needed_until_their_merge_is_checkpointed() {
    let mut story = Story::training(settings(), 3);
    story.whole_round(3);
    assert_eq!(story.run.payloads_needed().len(), 3);
    story.update(1);
    assert_eq!(story.run.payloads_needed().len(), 4);
    story.checkpoint();
    assert_eq!(story.run.payloads_needed().len(), 1, "the one that waits");
    assert_eq!(story.run.merges_since_checkpoint().count(), 0);
    assert_eq!(
        story.run.merges().count(),
        1,
        "kept for those that come from 0.0"
    );
}

#[test]
fn a_checkpoint_is_due_every_so_many_merges() {
    let mut story = Story::training(settings(), 3);
    story.whole_round(3);
    assert_eq!(story.run.pending_checkpoint(2), None);
    story.whole_round(3);
    assert_eq!(story.run.pending_checkpoint(2), Some(revision(0, 2)));
    story.whole_round(3);
    assert_eq!(
        story.run.pending_checkpoint(2),
        Some(revision(0, 3)),
        "a missed one is made up"
    );
    assert_eq!(story.run.pending_checkpoint(0), None);
}

fn expel(worker: u64) -> Input {
    Input::Expel {
        worker: WorkerId(worker),
        reason: "its node is in quarantine".into(),
    }
}

#[test]
fn of_who_is_expelled_nothing_that_waits_is_merged() {
    let mut story = Story::training(settings(), 4);
    let blocks = story.blocks(4);
    let (own, others) = (story.update(4), story.update(1));
    story.act(expel(4)).unwrap();
    assert!(matches!(
        story.outcome(own),
        Some(Outcome::NotMerged { reason }) if reason.contains("quarantine")
    ));
    let returned: Vec<_> = story.run.returned_blocks().collect();
    let returned: Vec<_> = returned.iter().map(|r| (r.start, r.end)).collect();
    assert_eq!(returned, blocks);
    let member = story.run.member(WorkerId(4)).unwrap();
    assert!(!member.present && member.credited_tokens > 0);
    story.update(2);
    story.update(3);
    let merged = story.run.pending_merge().unwrap().updates;
    assert!(merged.iter().any(|update| update.assignment == others));
    assert!(merged.iter().all(|update| update.assignment != own));
}

#[test]
fn who_left_before_can_be_expelled_and_a_merge_under_way_keeps_what_it_has() {
    let mut story = Story::training(settings(), 4);
    let late = story.update(4);
    story.act(leave(4)).unwrap();
    let first = story.update(1);
    story.act(expel(4)).unwrap();
    assert!(matches!(
        story.outcome(late),
        Some(Outcome::NotMerged { .. })
    ));
    story.update(2);
    story.update(3);
    let events = story.log.len();
    story.act(expel(4)).unwrap();
    assert_eq!(story.log.len(), events, "repeating it changes nothing");
    story.act(expel(1)).unwrap();
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 3);
    story.merge();
    assert!(matches!(story.outcome(first), Some(Outcome::Merged { .. })));
}
