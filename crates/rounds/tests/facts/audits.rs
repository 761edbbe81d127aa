//! Facts about audits: who is audited, what waits for it, what a failed one costs.

use opengpu_rounds::{
    AuditOutcome, AuditRules, EventKind, Input, Outcome, RoundSettings, WorkerId,
    fleet_after_restart,
};

use crate::story::{Story, TOKENS_PER_BLOCK, hash, revision, settings};

/// Three workers in a run that audits a quarter of trusted workers' updates.
fn audited() -> Story {
    let audit = AuditRules {
        enabled: true,
        rate: 0.25,
    };
    let rules = RoundSettings {
        audit,
        ..settings()
    };
    Story::training(rules, 3)
}

fn distrust(story: &mut Story, worker: u64) {
    story.fleet.get_mut(&WorkerId(worker)).unwrap().trusted = false;
}

fn drawn(mut input: Input, number: u64) -> Input {
    if let Input::Update { draw, .. } = &mut input {
        *draw = number;
    }
    input
}

/// A worker's whole update, for which the number is drawn that is audited first.
fn audited_update(story: &mut Story, worker: u64) -> opengpu_rounds::AssignmentId {
    let assignment = story.assignment(worker).unwrap();
    let update = story.update_of(worker);
    story.act(drawn(update, 0)).unwrap();
    assignment
}

#[test]
fn of_a_trusted_workers_updates_the_drawn_part_is_audited() {
    let mut story = audited();
    let below = story.update_of(1);
    story.act(drawn(below, u64::MAX / 5)).unwrap();
    let above = story.update_of(2);
    story.act(drawn(above, u64::MAX / 3)).unwrap();
    assert_eq!(story.run.audits().count(), 1);
    // Nobody is asked to make it until its chunks are opened.
    assert!(story.run.pending_audits().is_empty());
    let (assignment, audit) = story.run.audits().next().unwrap();
    assert_eq!(audit.worker, WorkerId(1));
    assert_eq!(
        audit.blocks.iter().map(|b| b.end - b.start).sum::<u64>(),
        audit.blocks_completed
    );
    assert_eq!(story.open(assignment, 2), Err("no_such_audit"));
    story.open(assignment, 1).unwrap();
    assert_eq!(story.run.pending_audits()[0].0, assignment);
}

#[test]
fn an_update_without_a_commitment_or_with_another_past_is_refused() {
    let mut story = audited();
    let mut bare = story.update_of(1);
    if let Input::Update { commitment, .. } = &mut bare {
        *commitment = None;
    }
    assert_eq!(story.act(bare), Err("no_commitment"));
    let other = story.update(2);
    let mut grafted = story.update_of(1);
    if let Input::Update {
        commitment: Some(commitment),
        ..
    } = &mut grafted
    {
        commitment.previous = Some(other);
    }
    assert_eq!(story.act(grafted), Err("wrong_previous"));
    let mut greedy = story.update_of(1);
    if let Input::Update {
        commitment: Some(commitment),
        ..
    } = &mut greedy
    {
        commitment.taken_back = vec![other];
    }
    assert_eq!(story.act(greedy), Err("wrong_taken_back"));
    story.update(1);
}

#[test]
fn the_next_update_follows_from_the_last_and_takes_back_what_was_not_merged_once() {
    let mut story = audited();
    let first = story.update(1);
    story.update(2);
    story.update(3);
    story.merge_with(0.5);
    story.all_fetch();
    let take = |story: &Story, times: usize| {
        let mut input = story.update_of(1);
        if let Input::Update {
            commitment: Some(commitment),
            ..
        } = &mut input
        {
            assert_eq!(commitment.previous, Some(first));
            commitment.taken_back = vec![first; times];
        }
        input
    };
    let twice = take(&story, 2);
    assert_eq!(story.act(twice), Err("wrong_taken_back"));
    let once = take(&story, 1);
    story.act(drawn(once, 0)).unwrap();
    let second = story.run.audits().map(|(id, _)| id).max().unwrap();
    let before = story.run.audit(second).unwrap().before.clone().unwrap();
    assert_eq!(before.root, hash(format!("root {first}")));
    assert_eq!(before.payload, hash(format!("payload {first}")));
    assert_eq!(before.taken_back, [(before.payload, 0.5)]);
    // What an audit is about is kept as long as it may be made.
    assert!(story.run.payloads_needed().contains(&before.payload));
}

#[test]
fn a_newcomers_update_waits_for_its_audit_and_the_round_does_not() {
    let mut story = audited();
    distrust(&mut story, 3);
    let held = story.update(3);
    story.update(1);
    story.update(2);
    // Three updates are in, two of them go into the merge.
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 2);
    story.merge();
    story.all_fetch();
    distrust(&mut story, 3);
    assert_eq!(story.assignment(3), None, "nothing new while one is held");
    story.open(held, 3).unwrap();
    story.audited(held, AuditOutcome::Passed).unwrap();
    story.update(1);
    story.update(2);
    story.pass(14_000);
    let merged = story.run.pending_merge().unwrap().updates;
    assert!(merged.iter().any(|update| update.assignment == held));
}

#[test]
fn a_round_waits_for_nobody_on_probation_where_others_train() {
    let mut story = audited();
    distrust(&mut story, 3);
    story.update(1);
    story.update(2);
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 2);
    // Its update is late then, and held for its audit as before.
    let late = story.update(3);
    assert!(story.run.audit(late).unwrap().held);
}

#[test]
fn where_all_are_on_probation_a_round_waits_for_each() {
    let mut story = audited();
    (1..=3).for_each(|worker| distrust(&mut story, worker));
    let held: Vec<_> = [1, 2].map(|worker| story.update(worker)).into();
    for (update, worker) in held.into_iter().zip([1, 2]) {
        story.open(update, worker).unwrap();
        story.audited(update, AuditOutcome::Passed).unwrap();
    }
    assert!(story.run.pending_merge().is_none());
    let last = story.update(3);
    assert!(story.run.pending_merge().is_some());
    assert!(story.run.audit(last).unwrap().held);
}

#[test]
fn a_failed_audit_takes_the_credit_and_keeps_the_update_out_of_the_merge() {
    let mut story = audited();
    distrust(&mut story, 3);
    let blocks = story.blocks(3);
    let tokens: u64 = blocks
        .iter()
        .map(|(start, end)| (end - start) * TOKENS_PER_BLOCK)
        .sum();
    let held = story.update(3);
    assert_eq!(
        story.run.member(WorkerId(3)).unwrap().credited_tokens,
        tokens
    );
    story.open(held, 3).unwrap();
    story.audited(held, AuditOutcome::Failed).unwrap();
    let member = story.run.member(WorkerId(3)).unwrap();
    assert_eq!(member.credited_tokens, 0);
    assert_eq!(
        member.verdict(held).unwrap().outcome,
        Outcome::NotMerged {
            reason: "its progress is not what training gives".into()
        }
    );
    assert_eq!(
        story.audited(held, AuditOutcome::Failed),
        Err("no_such_audit")
    );
    // Others train its blocks.
    let returned: Vec<_> = story
        .run
        .returned_blocks()
        .map(|b| (b.start, b.end))
        .collect();
    assert_eq!(returned, blocks);
}

#[test]
fn an_audit_that_fails_during_the_merge_takes_the_credit_and_lets_the_merge_be() {
    let mut story = audited();
    let first = audited_update(&mut story, 1);
    story.update(2);
    story.update(3);
    story.open(first, 1).unwrap();
    story.audited(first, AuditOutcome::Failed).unwrap();
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 3);
    story.merge();
    assert_eq!(story.run.member(WorkerId(1)).unwrap().credited_tokens, 0);
}

#[test]
fn who_does_not_open_in_time_has_not_proven_its_update() {
    let mut story = audited();
    let first = audited_update(&mut story, 1);
    for worker in [2, 3] {
        let update = story.update_of(worker);
        story.act(drawn(update, u64::MAX)).unwrap();
    }
    story.merge();
    story.all_fetch();
    // A round of 10 s, 4 s of grace, 5 s of silence.
    story.pass(18_000);
    assert!(story.run.audit(first).is_some());
    story.pass(1_000);
    assert!(story.run.audit(first).is_none());
    let credited = story.run.member(WorkerId(1)).unwrap().credited_tokens;
    let other = story.run.member(WorkerId(2)).unwrap().credited_tokens;
    assert_eq!((credited, other > 0), (0, true));
}

#[test]
fn after_a_restart_nobody_is_trusted_until_it_is_known() {
    let story = audited();
    let fleet = fleet_after_restart(&story.run, story.now_ms);
    assert!(fleet.values().all(|sight| !sight.trusted));
}

#[test]
fn what_was_merged_whole_is_not_taken_back() {
    let mut story = audited();
    let first = story.update(1);
    story.update(2);
    story.update(3);
    story.merge();
    story.all_fetch();
    let mut greedy = story.update_of(1);
    if let Input::Update {
        commitment: Some(commitment),
        ..
    } = &mut greedy
    {
        commitment.taken_back = vec![first];
    }
    assert_eq!(story.act(greedy), Err("wrong_taken_back"));
    assert!(story.run.payloads_needed().len() <= 6);
}

#[test]
fn nothing_follows_from_an_update_that_was_not_proven() {
    let mut story = audited();
    distrust(&mut story, 3);
    let held = story.update(3);
    story.update(1);
    story.update(2);
    story.merge();
    story.all_fetch();
    distrust(&mut story, 3);
    // It gets nothing new as long as nobody knows.
    assert_eq!(story.assignment(3), None);
    story.open(held, 3).unwrap();
    story.audited(held, AuditOutcome::Undecided).unwrap();
    story.pass(1_000);
    let next = story.update_of(3);
    assert_eq!(story.act(next.clone()), Err("wrong_previous"));
    let mut anew = next;
    if let Input::Update {
        commitment: Some(commitment),
        ..
    } = &mut anew
    {
        commitment.previous = None;
    }
    story.act(anew).unwrap();
    let (_, audit) = story.run.audits().next().unwrap();
    assert_eq!(audit.before, None);
}

#[test]
fn a_joiners_first_update_is_audited_before_it_gets_another() {
    let mut story = audited();
    story.join(4).unwrap();
    story.see(4, 2.0);
    distrust(&mut story, 4);
    let first = story.update(4);
    for worker in [1, 2, 3] {
        story.update(worker);
    }
    story.merge();
    story.all_fetch();
    distrust(&mut story, 4);
    story.pass(1_000);
    assert_eq!(story.assignment(4), None);
    story.open(first, 4).unwrap();
    story.audited(first, AuditOutcome::Passed).unwrap();
    story.pass(1_000);
    assert!(story.assignment(4).is_some());
}

#[test]
fn what_waits_of_a_worker_is_not_merged_once_an_audit_of_it_failed() {
    let mut story = audited();
    let first = audited_update(&mut story, 1);
    story.update(2);
    story.update(3);
    story.merge();
    story.open(first, 1).unwrap();
    story.all_fetch();
    let second = story.update(1);
    assert_eq!(story.outcome(second), Some(Outcome::Waiting));
    let credited = story.run.member(WorkerId(1)).unwrap().credited_tokens;
    story.audited(first, AuditOutcome::Failed).unwrap();
    assert!(matches!(
        story.outcome(second),
        Some(Outcome::NotMerged { reason }) if reason.contains("another update")
    ));
    // Nobody has shown that this one is wrong.
    let kept = story.run.member(WorkerId(1)).unwrap().credited_tokens;
    assert!(0 < kept && kept < credited);
    story.update(2);
    story.update(3);
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 2);
}

#[test]
fn a_rollback_ends_open_audits_and_holds_nothing_against_anybody() {
    let mut story = audited();
    story.checkpoint();
    story.whole_round(3);
    let open = audited_update(&mut story, 1);
    let credited = story.run.member(WorkerId(1)).unwrap().credited_tokens;
    story.roll_back(revision(0, 0)).unwrap();
    assert_eq!(story.run.audits().count(), 0);
    let ended = story.log.iter().find_map(|event| match &event.kind {
        EventKind::Audited {
            assignment,
            finding,
            ..
        } => Some((*assignment, finding.clone())),
        _ => None,
    });
    let (of, finding) = ended.unwrap();
    assert_eq!(of, open);
    assert_eq!(
        (finding.outcome, &*finding.code),
        (AuditOutcome::Undecided, "rolled_back")
    );
    assert!(finding.reason.contains("the loss went up"));
    let kept = story.run.member(WorkerId(1)).unwrap().credited_tokens;
    assert_eq!(kept, credited);
}

#[test]
fn however_many_newcomers_wait_the_known_are_audited_by_turns_with_them() {
    let mut story = audited();
    for worker in 4..=8 {
        story.join(worker).unwrap();
        story.see(worker, 2.0);
        distrust(&mut story, worker);
    }
    let held: Vec<_> = (4..=8).map(|worker| story.update(worker)).collect();
    let known: Vec<_> = [1, 2]
        .map(|worker| audited_update(&mut story, worker))
        .into();
    for (update, worker) in held.iter().zip(4..=8) {
        story.open(*update, worker).unwrap();
    }
    for (update, worker) in known.iter().zip(1..=2) {
        story.open(*update, worker).unwrap();
    }
    let order = story.run.pending_audits();
    let order: Vec<_> = order.into_iter().map(|(id, _)| id).collect();
    let by_turns = [held[0], known[0], held[1], known[1], held[2]];
    assert_eq!(order[..5], by_turns);
}
