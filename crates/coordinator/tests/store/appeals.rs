//! What moves a node is kept, appealed, answered and taken back, with its credit.

use opengpu_coordinator::store::{
    AppealError, ChangeRecord, EnrolError, NodeState, Review, ReviewError, TellError,
};
use opengpu_ledger::{AUDIT_REVERSED, Code, Entry, Sums, line};
use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::standing::AppealOutcome;
use opengpu_rounds::standing::{Cause, Level};
use opengpu_rounds::{AssignmentId, AuditOutcome, Event, EventKind, Hash, Revision, WorkerId};

use super::standing::{Fleet, now_ms};
use super::{
    Database, on_both_databases,
    samples::{machine, offer},
};

on_both_databases!(
    each_change_is_kept_with_its_evidence_and_a_suspect_recovers_by_audits,
    what_an_operator_says_is_kept_with_his_reason_and_nothing_illegal_is_done,
    a_change_is_appealed_once_and_the_answer_is_kept,
    a_reversal_gives_standing_and_credit_back_once,
    other_evidence_holds_a_node_until_it_is_reversed_too,
    who_was_left_out_by_a_rollback_is_suspected,
    a_banned_machine_enrols_no_more_and_waits_again_if_it_waited,
    what_was_proven_long_ago_no_longer_counts,
);

const FAILED: AuditOutcome = AuditOutcome::Failed;
const PASSED: AuditOutcome = AuditOutcome::Passed;

impl Fleet {
    /// Audits that pass, from this assignment on.
    async fn pass(&self, first: u64, count: u64) {
        for assignment in first..first + count {
            self.audit(assignment, PASSED, "same").await;
        }
    }

    /// Oldest first.
    async fn changes(&self) -> Vec<ChangeRecord> {
        let mut changes = self.store.changes_of(self.node, 100).await.unwrap();
        changes.reverse();
        changes
    }

    async fn steps(&self) -> Vec<(Cause, Level, Level)> {
        let changes = self.changes().await.into_iter();
        changes
            .map(|change| (change.cause, change.from, change.to))
            .collect()
    }

    fn review(&self, change: u64, reverse: bool) -> Review {
        Review {
            node: self.node,
            change,
            reverse,
            note: "looked at".into(),
        }
    }

    /// What the run's driver does when an audit is found to have been wrong.
    async fn give_back(&self, assignment: u64, change: u64) {
        let lines = self
            .store
            .ledger_of(self.run, AssignmentId(assignment))
            .await
            .unwrap();
        let credit = &lines[0];
        let accepted = line::read(credit.line.as_bytes()).unwrap();
        let code = Code::new(AUDIT_REVERSED).unwrap();
        let entry = Entry::correction(credit.number, &accepted, 1, 100, 600, code).unwrap();
        let event = Event {
            at_ms: assignment,
            kind: EventKind::CreditReturned {
                assignment: AssignmentId(assignment),
                worker: accepted.worker,
                tokens: 100,
            },
        };
        let epoch = self.store.claim(self.run).await.unwrap();
        let head = self.store.run(self.run).await.unwrap().unwrap().head;
        let review = self.review(change, true);
        self.store
            .append_with(self.run, epoch, head, (&[event], &[entry]), Some(&review))
            .await
            .unwrap();
    }

    /// Tokens of the node by the sums and by the ledger, which must be equal.
    async fn credit(&self) -> u64 {
        let credited = self.store.credited_by_node().await.unwrap();
        let credited = credited.iter().find(|(node, _)| *node == self.node);
        let credited = credited.map_or(0, |(_, tokens)| *tokens);
        let mut sums = Sums::new();
        for found in self.store.ledger_lines(self.run, 0, 1000).await.unwrap() {
            sums.add(&line::read(found.line.as_bytes()).unwrap());
        }
        assert_eq!(sums.run().tokens, i128::from(credited));
        credited
    }
}

async fn each_change_is_kept_with_its_evidence_and_a_suspect_recovers_by_audits(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.pass(1, 3).await;
    assert!(fleet.standing().await.is_trusted(3, now_ms()));
    fleet.audit(4, FAILED, "not_opened").await;
    let standing = fleet.standing().await;
    assert_eq!(standing.level, Level::Suspect);
    assert!(!standing.is_trusted(0, now_ms()), "whatever a run asks for");
    assert_eq!(fleet.state().await, NodeState::Active, "it gets work");
    fleet.pass(5, 2).await;
    assert_eq!(fleet.standing().await.level, Level::Suspect);
    fleet.pass(7, 1).await;
    assert!(fleet.standing().await.is_trusted(3, now_ms()));

    use Level::{Probation, Suspect, Trusted};
    let steps = fleet.steps().await;
    assert_eq!(
        steps,
        [
            (Cause::Proven, Probation, Trusted),
            (Cause::Doubt, Trusted, Suspect),
            (Cause::Proven, Suspect, Trusted),
        ]
    );
    let doubt = fleet.changes().await.remove(1);
    assert_eq!(
        (doubt.code.as_str(), doubt.reason.as_str()),
        ("not_opened", "it was looked at")
    );
    let evidence = doubt.evidence.unwrap();
    assert_eq!(
        (evidence.run, evidence.assignment),
        (fleet.run, Some(AssignmentId(4)))
    );
    let lines = fleet.store.ledger_of(fleet.run, AssignmentId(4)).await;
    let lines = lines.unwrap();
    // Accepted, audited, corrected.
    assert_eq!(evidence.entry, Some(lines[1].number));
    assert_eq!(fleet.store.nodes_with_a_past().await.unwrap(), [fleet.node]);
}

async fn what_an_operator_says_is_kept_with_his_reason_and_nothing_illegal_is_done(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.tell(NodeAction::Drain).await.unwrap();
    fleet.tell(NodeAction::Restore).await.unwrap();
    assert_eq!(fleet.state().await, NodeState::Active);
    assert!(fleet.steps().await.is_empty(), "that is no standing");
    fleet.tell(NodeAction::Vouch).await.unwrap();
    fleet.tell(NodeAction::Vouch).await.unwrap();
    fleet.tell(NodeAction::Quarantine).await.unwrap();
    let drained = fleet.tell(NodeAction::Drain).await;
    assert!(
        matches!(drained, Err(TellError::Illegal { .. })),
        "{drained:?}"
    );
    fleet.tell(NodeAction::Ban).await.unwrap();
    let softened = fleet.tell(NodeAction::Quarantine).await;
    assert!(
        matches!(softened, Err(TellError::Illegal { .. })),
        "{softened:?}"
    );
    assert_eq!(fleet.state().await, NodeState::Banned);
    fleet.tell(NodeAction::Restore).await.unwrap();
    assert_eq!(fleet.state().await, NodeState::Active);
    fleet.tell(NodeAction::Distrust).await.unwrap();

    use Level::{Banned, Probation, Quarantined, Trusted};
    assert_eq!(
        fleet.steps().await,
        [
            (Cause::Vouch, Probation, Trusted),
            (Cause::Quarantine, Trusted, Quarantined),
            (Cause::Ban, Quarantined, Banned),
            (Cause::Restore, Banned, Trusted),
            (Cause::Distrust, Trusted, Probation),
        ]
    );
    assert!(
        fleet
            .changes()
            .await
            .iter()
            .all(|change| change.reason == "why")
    );
}

async fn a_change_is_appealed_once_and_the_answer_is_kept(db: Database) {
    let fleet = Fleet::new(&db).await;
    let store = &fleet.store;
    let nothing = store.appeal(fleet.node, None, "why?").await;
    assert!(matches!(nothing, Err(AppealError::Nothing(_))));
    fleet.audit(1, FAILED, "progress_differs").await;
    let change = store.appeal(fleet.node, None, "bad memory").await.unwrap();
    assert_eq!(change, fleet.changes().await[0].id);
    for named in [None, Some(change)] {
        let again = store.appeal(fleet.node, named, "again").await;
        assert!(matches!(again, Err(AppealError::Again(_))), "{again:?}");
    }
    let unknown = store.appeal(fleet.node, Some(change + 9), "what").await;
    assert!(matches!(unknown, Err(AppealError::Unknown { .. })));

    store.review(&fleet.review(change, false)).await.unwrap();
    let kept = fleet.changes().await.remove(0);
    let appeal = kept.appeal.unwrap();
    assert_eq!(
        (appeal.text.as_str(), appeal.outcome, appeal.note.as_deref()),
        ("bad memory", AppealOutcome::Upheld, Some("looked at"))
    );
    assert_eq!(fleet.state().await, NodeState::Quarantined);
    // What nobody appealed needs no answer, and what is not there has none.
    fleet.audit(2, FAILED, "progress_differs").await;
    let further = fleet.changes().await.remove(1).id;
    let unasked = store.review(&fleet.review(further, false)).await;
    assert!(matches!(unasked, Err(ReviewError::NotAppealed(_))));
    let unknown = store.review(&fleet.review(further + 9, true)).await;
    assert!(matches!(unknown, Err(ReviewError::Unknown { .. })));
}

async fn a_reversal_gives_standing_and_credit_back_once(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.pass(1, 4).await;
    let before = fleet.standing().await;
    fleet.audit(5, FAILED, "progress_differs").await;
    assert_eq!(fleet.credit().await, 400);
    let change = fleet
        .store
        .appeal(fleet.node, None, "it was right")
        .await
        .unwrap();
    fleet.give_back(5, change).await;

    let after = fleet.standing().await;
    assert_eq!((after.level, after.failed), (Level::Trusted, 0));
    assert_eq!(after.passed, before.passed);
    let now_ms = now_ms();
    let lost = before.reputation.audits_at(now_ms) - after.reputation.audits_at(now_ms);
    assert!(lost.abs() < 1e-3, "{lost}");
    assert_eq!(fleet.state().await, NodeState::Active);
    assert_eq!(fleet.credit().await, 500);
    let kept = fleet.changes().await;
    let (fault, reversal) = (&kept[1], &kept[2]);
    assert_eq!(fault.reversed_by, Some(reversal.id));
    let appeal = fault.appeal.as_ref().unwrap();
    assert_eq!(appeal.outcome, AppealOutcome::Reversed);
    assert_eq!(
        (reversal.cause, reversal.from, reversal.to),
        (Cause::Reversal, Level::Quarantined, Level::Trusted)
    );

    // A second time changes nothing, and it can't be upheld any more.
    let again = fleet.review(change, true);
    fleet.store.review(&again).await.unwrap();
    assert_eq!(fleet.changes().await.len(), 3);
    assert_eq!(fleet.standing().await, after);
    let upheld = fleet.store.review(&fleet.review(change, false)).await;
    assert!(matches!(upheld, Err(ReviewError::Reversed(_))));
    // Nor is what was reversed appealed.
    let appealed = fleet.store.appeal(fleet.node, Some(change), "more").await;
    assert!(matches!(appealed, Err(AppealError::Nothing(_))));
}

async fn other_evidence_holds_a_node_until_it_is_reversed_too(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.pass(1, 3).await;
    fleet.audit(4, FAILED, "not_opened").await;
    fleet.audit(5, FAILED, "progress_differs").await;
    fleet.audit(6, FAILED, "progress_differs").await;
    let faults: Vec<_> = fleet.changes().await.iter().skip(1).map(|c| c.id).collect();
    assert_eq!(faults.len(), 3, "further evidence is a step, too");
    assert_eq!(fleet.credit().await, 300);
    fleet.give_back(5, faults[1]).await;
    assert_eq!(fleet.state().await, NodeState::Quarantined);
    fleet.give_back(6, faults[2]).await;
    assert_eq!(fleet.state().await, NodeState::Active);
    let standing = fleet.standing().await;
    assert_eq!((standing.level, standing.failed), (Level::Suspect, 1));
    fleet.give_back(4, faults[0]).await;
    let standing = fleet.standing().await;
    assert_eq!((standing.level, standing.failed), (Level::Trusted, 0));
    assert_eq!(fleet.credit().await, 600);
}

async fn who_was_left_out_by_a_rollback_is_suspected(db: Database) {
    let fleet = Fleet::new(&db).await;
    let worker = fleet
        .store
        .worker_for(fleet.node, 0, &offer("CPU"))
        .await
        .unwrap();
    let revision = |lineage| Revision { lineage, number: 0 };
    let event = Event {
        at_ms: 1,
        kind: EventKind::RolledBack {
            to: revision(0),
            revision: revision(1),
            reason: "the loss rose".into(),
            by_itself: true,
            // One of them is not known here.
            left_out: vec![worker, WorkerId(99)],
        },
    };
    fleet.append(event, Vec::new()).await;
    let doubt = fleet.changes().await.remove(0);
    assert_eq!(
        (doubt.cause, doubt.code.as_str(), doubt.to),
        (Cause::Doubt, "left_out", Level::Suspect)
    );
    assert!(doubt.reason.contains("the loss rose"), "{}", doubt.reason);
    let evidence = doubt.evidence.clone().unwrap();
    assert_eq!((evidence.run, evidence.assignment), (fleet.run, None));
    let review = fleet.review(doubt.id, true);
    fleet.store.review(&review).await.unwrap();
    assert_eq!(fleet.standing().await.level, Level::Probation);
}

async fn a_banned_machine_enrols_no_more_and_waits_again_if_it_waited(db: Database) {
    use opengpu_coordinator::store::Admission;
    let fleet = Fleet::new(&db).await;
    let store = &fleet.store;
    fleet.tell(NodeAction::Ban).await.unwrap();
    let token = Hash::of(b"token");
    let again = store.enrol(token, Hash::of(b"key"), "a", &machine()).await;
    assert!(matches!(again, Err(EnrolError::Banned(_))), "{again:?}");
    let waits = Admission::Without(NodeState::Pending);
    let again = store.enrol(waits, Hash::of(b"key"), "a", &machine()).await;
    assert!(matches!(again, Err(EnrolError::Banned(_))), "{again:?}");

    let other = Hash::of(b"other");
    let waiting = store.enrol(waits, other, "b", &machine()).await.unwrap();
    store
        .tell_node(waiting, NodeAction::Ban, None)
        .await
        .unwrap();
    let change = store.changes_of(waiting, 1).await.unwrap().remove(0);
    assert_eq!(change.reason, "an operator banned it");
    let review = Review {
        node: waiting,
        ..fleet.review(change.id, true)
    };
    store.review(&review).await.unwrap();
    let state = store.node(waiting).await.unwrap().unwrap().state;
    assert_eq!(state, NodeState::Pending, "nobody has approved it");
}

async fn what_was_proven_long_ago_no_longer_counts(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.pass(1, 3).await;
    let standing = fleet.standing().await;
    assert_eq!(standing.level_at(now_ms()), Level::Trusted);
    let two_weeks_ms = 14 * 24 * 3600 * 1000;
    assert_eq!(standing.level_at(now_ms() + two_weeks_ms), Level::Probation);
    assert!(
        fleet.store.note_decay().await.unwrap().is_empty(),
        "not yet"
    );
    // Who is vouched for needs no reputation.
    fleet.tell(NodeAction::Vouch).await.unwrap();
    let standing = fleet.standing().await;
    assert_eq!(standing.level_at(now_ms() + two_weeks_ms), Level::Trusted);
}
