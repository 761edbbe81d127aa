//! When a round ends, and with what.

use opengpu_rounds::{
    EventKind, Input, Outcome, PendingUpdate, Phase, Regard, RoundSettings, WorkerId, weight,
};

use crate::story::{Story, hash, revision, settings};

#[test]
fn a_round_closes_at_once_when_all_have_reported() {
    let mut story = Story::training(settings(), 3);
    story.pass(3_000);
    story.update(1);
    story.update(2);
    assert_eq!(story.run.phase(), Phase::Training);
    assert_eq!(
        story.explanation(),
        "round 0 trains for 7.0 s more; 1 update outstanding, 2 in, 2 needed for a merge"
    );
    story.update(3);
    assert_eq!(story.run.phase(), Phase::Merging);
    assert_eq!(
        story.round_reason(),
        "all assignments of the round are settled; 3 updates in, 2 needed"
    );
}

#[test]
fn after_the_deadline_updates_are_waited_for_until_the_grace_ends() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story.pass(10_000);
    assert_eq!(story.run.phase(), Phase::Collecting);
    assert_eq!(
        story.explanation(),
        "round 0 waits 4.0 s more for updates; 1 update outstanding, 2 in, 2 needed for a merge"
    );
    story.pass(4_000);
    assert_eq!(story.run.phase(), Phase::Merging);
    assert_eq!(
        story.round_reason(),
        "the grace ended with 1 update outstanding; 2 updates in, 2 needed"
    );
}

#[test]
fn an_update_in_the_grace_closes_the_round_if_it_is_the_last() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story.pass(11_000);
    story.update(3);
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 3);
}

#[test]
fn without_a_quorum_the_round_is_abandoned_and_its_updates_carry_over() {
    let mut story = Story::training(settings(), 3);
    let early = story.update(1);
    story.silence(14_000);
    assert_eq!(
        story.round_reason(),
        "the grace ended with 2 updates outstanding; 1 update in, 2 needed"
    );
    assert_eq!(story.outcome(early), Some(Outcome::Waiting));
    story.all_fetch();
    assert_eq!(story.run.round(), 1);
    story.update(1);
    story.update(2);
    story.update(3);
    let merged = story.run.pending_merge().unwrap();
    assert_eq!(merged.updates[0].assignment, early);
    assert_eq!(merged.updates.len(), 4);
    assert_eq!(story.merge(), revision(0, 1));
}

#[test]
fn a_round_with_nothing_outstanding_and_no_quorum_ends_at_the_deadline() {
    let mut story = Story::training(settings(), 3);
    for worker in 1..=3 {
        let mut input = story.update_of(worker);
        if let Input::Update {
            blocks_completed, ..
        } = &mut input
        {
            *blocks_completed = 0;
        }
        assert_eq!(story.act(input), Err("nothing_completed"));
    }
    assert_eq!(
        story.run.phase(),
        Phase::Training,
        "it must not open round after round"
    );
    story.silence(10_000);
    assert_eq!(
        story.round_reason(),
        "the deadline passed and nothing is outstanding; 0 updates in, 2 needed"
    );
}

#[test]
fn a_round_does_not_wait_for_workers_that_are_not_heard_of() {
    let mut story = Story::training(settings(), 3);
    story.pass(1_000);
    story.update(1);
    story.update(2);
    story.silence(5_000);
    assert_eq!(story.run.phase(), Phase::Training);
    story.silence(1);
    assert_eq!(story.run.phase(), Phase::Merging);
    assert_eq!(
        story.round_reason(),
        "only workers not heard of (1) are outstanding; 2 updates in, 2 needed"
    );
}

#[test]
fn a_restarted_coordinator_does_not_take_everyone_for_silent() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story.fleet = opengpu_rounds::fleet_after_restart(&story.run, story.now_ms);
    story.act(Input::Tick).unwrap();
    assert_eq!(story.run.phase(), Phase::Training);
}

#[test]
fn what_a_merge_finds_goes_into_the_record_and_is_said_to_the_worker() {
    let mut story = Story::training(settings(), 3);
    let updates: Vec<_> = (1..=3).map(|worker| story.update(worker)).collect();
    let regard = |counted, agreement: f32| Regard {
        counted,
        agreement: Some(agreement),
        record: Some(agreement / 2.0),
        needed: Some(0.125),
        twin: None,
    };
    let regards = vec![regard(1.5, 0.5), regard(1.5, 0.5), regard(0.0, -0.5)];
    let done = |regards| Input::MergeDone {
        round: 0,
        merge: hash("merge"),
        merge_bytes: 7,
        digest: hash("digest"),
        factors: vec![1.0; 3],
        regards,
    };
    assert_eq!(story.act(done(regards[..2].to_vec())), Err("wrong_regards"));
    let pending = story.run.pending_merge().unwrap();
    assert!(pending.updates.iter().all(|update| update.record.is_none()));
    story.act(done(regards.clone())).unwrap();
    let merged = story.run.merges().next().unwrap();
    assert!(
        merged.updates.iter().all(|update| update.record.is_none()),
        "they were weighed with what was known before"
    );
    let record = |worker| story.run.member(WorkerId(worker)).unwrap().record;
    assert_eq!([1, 2, 3].map(record), [Some(0.25), Some(0.25), Some(-0.25)]);
    let said = |update: usize| match story.outcome(updates[update]) {
        Some(Outcome::Merged { regard, .. }) => regard.unwrap().explanation(),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(0), None);
    assert_eq!(
        said(2).unwrap(),
        "it counted 0 % of its weight: this update's agreement with most others is -0.500 and its worker's on the whole -0.250, from 0.125 on an update counts in full"
    );
}

#[test]
fn what_an_update_lacked_is_said_with_the_number_that_decided() {
    let said = |agreement, record| {
        let regard = Regard {
            counted: 0.4,
            agreement,
            record,
            needed: Some(0.1),
            twin: None,
        };
        (regard.code(), regard.explanation().unwrap())
    };
    // A good record does not excuse the update, nor a good update the record.
    assert_eq!(
        said(Some(0.04), Some(0.12)),
        (Some("disagrees"), "it counted 40 % of its weight: this update's agreement with most others is 0.040 and its worker's on the whole 0.120, from 0.100 on an update counts in full".into())
    );
    let by_record = "it counted 40 % of its weight: this worker's agreement with most others is 0.040, from 0.100 on an update counts in full";
    assert_eq!(
        said(Some(0.2), Some(0.04)),
        (Some("disagrees"), by_record.into())
    );
    // Two updates alone are weighed by the records of their workers.
    assert_eq!(
        said(None, Some(0.04)),
        (Some("disagrees"), by_record.into())
    );
    assert_eq!(said(Some(0.2), Some(0.2)).0, Some("far_from_others"));
}

#[test]
fn of_two_updates_in_one_merge_the_lower_record_is_kept_in_either_order() {
    for turned in [false, true] {
        // Worker 1 sends late, its update carries over, and it sends again.
        let mut story = Story::training(settings(), 3);
        story.update(1);
        story.silence(14_000);
        story.all_fetch();
        story.update(1);
        story.update(2);
        story.update(3);
        let pending = story.run.pending_merge().unwrap();
        let of_worker = |update: &&PendingUpdate| update.worker == WorkerId(1);
        assert_eq!(pending.updates.iter().filter(of_worker).count(), 2);
        let mut records = vec![-0.3, 0.4];
        if turned {
            records.reverse();
        }
        let mut records = records.into_iter();
        let regard = |update: &PendingUpdate| Regard {
            counted: 1.0,
            agreement: None,
            record: match update.worker {
                WorkerId(1) => records.next(),
                // Nothing was found: what was known before stays.
                _ => None,
            },
            needed: None,
            twin: None,
        };
        let regards = pending.updates.iter().map(regard).collect();
        let done = Input::MergeDone {
            round: pending.round,
            merge: hash("merge"),
            merge_bytes: 7,
            digest: hash("digest"),
            factors: vec![1.0; pending.updates.len()],
            regards,
        };
        story.act(done).unwrap();
        let record = |worker| story.run.member(WorkerId(worker)).unwrap().record;
        assert_eq!([1, 2].map(record), [Some(-0.3), None]);
    }
}

#[test]
fn a_merge_makes_the_next_revision_and_each_update_learns_its_factor() {
    let mut story = Story::training(settings(), 3);
    let updates: Vec<_> = (1..=3).map(|worker| story.update(worker)).collect();
    let done = |factors| Input::MergeDone {
        round: 0,
        merge: hash("merge"),
        merge_bytes: 7,
        digest: hash("digest"),
        factors,
        regards: Vec::new(),
    };
    assert_eq!(story.act(done(vec![1.0])), Err("wrong_factors"));
    assert_eq!(
        story.act(done(vec![1.0, f32::NAN, 1.0])),
        Err("wrong_factors")
    );
    story.act(done(vec![1.0, 0.25, 1.0])).unwrap();
    let expected = Outcome::Merged {
        revision: revision(0, 1),
        factor: 0.25,
        regard: None,
    };
    assert_eq!(story.outcome(updates[1]), Some(expected));
    assert_eq!(story.run.digest(), Some(hash("digest")));
    story.act(done(vec![1.0, 0.25, 1.0])).unwrap();
    assert_eq!(
        story.run.revision(),
        revision(0, 1),
        "the same merge again changes nothing"
    );
    let other = Input::MergeDone {
        round: 0,
        merge: hash("other"),
        merge_bytes: 7,
        digest: hash("other"),
        factors: vec![1.0; 3],
        regards: Vec::new(),
    };
    assert_eq!(story.act(other), Err("no_such_merge"));
}

#[test]
fn an_update_that_arrives_during_a_merge_is_in_the_next_one() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story.pass(14_000);
    assert_eq!(story.run.phase(), Phase::Merging);
    let late = story.update(3);
    assert_eq!(story.run.pending_merge().unwrap().updates.len(), 2);
    story.merge();
    story.all_fetch();
    story.update(1);
    story.update(2);
    story.update(3);
    let next = story.run.pending_merge().unwrap();
    assert_eq!(next.updates[0].assignment, late);
    assert_eq!(next.updates.len(), 4);
}

#[test]
fn a_run_is_finished_after_its_rounds_and_takes_nothing_more() {
    let mut story = Story::training(
        RoundSettings {
            rounds: 2,
            ..settings()
        },
        3,
    );
    story.whole_round(3);
    assert_eq!(story.run.progress(), 0.5);
    let (_, lease) = story.run.assignment_of(WorkerId(1)).unwrap();
    let span = story.run.span_of(lease);
    assert_eq!((span.from, span.to), (0.5, 1.0));
    story.update(1);
    story.update(2);
    story.pass(14_000);
    let owed = story.update_of(3);
    story.merge();
    assert_eq!(story.run.phase(), Phase::Finished);
    assert_eq!(story.explanation(), "finished: all 2 rounds are merged");
    assert_eq!(story.act(owed), Err("lease_returned"));
    assert_eq!(story.join(9), Err("run_finished"));
    assert_eq!(
        story.run.pending_checkpoint(0),
        Some(revision(0, 2)),
        "the last is kept"
    );
    story.checkpoint();
    assert_eq!(story.run.pending_checkpoint(0), None);
}

#[test]
fn a_merge_that_fails_stops_the_run_until_a_person_resumes_it() {
    let mut story = Story::training(settings(), 3);
    for worker in 1..=3 {
        story.update(worker);
    }
    story
        .act(Input::MergeFailed {
            reason: "the disk is full".into(),
        })
        .unwrap();
    assert_eq!(story.run.phase(), Phase::Failed);
    assert_eq!(
        story.explanation(),
        "failed: the merge of 3 updates of round 0 failed: the disk is full; resume it to try again, or roll it back"
    );
    assert_eq!(story.run.pending_merge(), None);
    story.act(Input::Resume).unwrap();
    assert_eq!(story.run.phase(), Phase::Merging);
    assert_eq!(story.merge(), revision(0, 1));
}

#[test]
fn an_update_weighs_its_tokens_squared_over_its_steps() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    let pending = story.run.waiting_updates().next().unwrap();
    assert_eq!((pending.tokens, pending.blocks), (1000, 10));
    assert_eq!(weight(&pending), 1000.0 * 1000.0 / 10.0);
}

#[test]
fn the_round_summary_counts_what_happened_in_it() {
    let mut story = Story::training(settings(), 3);
    story.update(1);
    story.update(2);
    story.pass(14_000);
    story.merge();
    let round = story.run.rounds().next().unwrap().clone();
    assert_eq!((round.assigned, round.merged, round.tokens), (3, 2, 2000));
    assert_eq!((round.upload_bytes, round.merge_bytes), (20, 7));
    assert_eq!(round.revision, Some(revision(0, 1)));
    assert_eq!(story.run.totals().download_bytes, 21);
    let closed = story.count(|kind| matches!(kind, EventKind::RoundClosed { .. }));
    assert_eq!(closed, 1);
    assert_eq!(story.run.member(WorkerId(1)).unwrap().credited_tokens, 1000);
}
