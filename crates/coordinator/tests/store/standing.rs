//! What audits do to a node, in the transaction of the events that they follow from.

use opengpu_coordinator::store::{NodeState, Standing, Store, TellError};
use opengpu_ledger::{Code, Entry, EntryKind};
use opengpu_protocol::operator::NodeAction;
use opengpu_rounds::{AssignmentId, AuditOutcome, Event, EventKind, Finding, Hash, NodeId, RunId};

use super::{
    Database, on_both_databases,
    samples::{accepted, machine, new_run},
};

on_both_databases!(
    trust_rises_audit_by_audit_and_falls_at_once,
    chunks_that_were_not_opened_count_the_third_time,
    a_failed_audit_takes_the_credit_back,
    an_operator_vouches_and_takes_it_back,
);

pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_millis() as u64
}

pub struct Fleet {
    pub store: Store,
    pub run: RunId,
    pub node: NodeId,
}

impl Fleet {
    pub async fn new(db: &Database) -> Self {
        let store = db.open().await;
        let run = new_run(&store, "audited").await;
        let token = Hash::of(b"token");
        store.create_token(token, "lab", None, None).await.unwrap();
        let node = store.enrol(token, Hash::of(b"key"), "a", &machine()).await;
        let node = node.unwrap();
        Self { store, run, node }
    }

    /// An update of the node and, in the next append, its audit.
    pub async fn audit(&self, assignment: u64, outcome: AuditOutcome, code: &str) {
        let (event, entry) = accepted(assignment, assignment, self.node.0, 100);
        self.append(event, vec![entry.clone()]).await;
        let finding = Finding {
            outcome,
            code: code.into(),
            reason: "it was looked at".into(),
            measured: None,
            allowed: None,
            reruns: Vec::new(),
        };
        let event = Event {
            at_ms: assignment,
            kind: EventKind::Audited {
                assignment: AssignmentId(assignment),
                finding,
                merge: false,
            },
        };
        let audited = Entry {
            kind: EntryKind::Audited {
                outcome,
                by: None,
                measured: None,
                allowed: None,
            },
            ..entry.clone()
        };
        let mut entries = vec![audited];
        if outcome == AuditOutcome::Failed {
            let index = self.store.ledger_size(self.run).await.unwrap() - 1;
            let code = Code::new(code).unwrap();
            let correction = Entry::correction(index, &entry, 1, -100, -600, code);
            entries.push(correction.unwrap());
        }
        self.append(event, entries).await;
    }

    pub async fn append(&self, event: Event, entries: Vec<Entry>) {
        let epoch = self.store.claim(self.run).await.unwrap();
        let head = self.store.run(self.run).await.unwrap().unwrap().head;
        self.store
            .append(self.run, epoch, head, &[event], &entries)
            .await
            .unwrap();
    }

    pub async fn tell(&self, action: NodeAction) -> Result<(), TellError> {
        self.store.tell_node(self.node, action, Some("why")).await
    }

    pub async fn standing(&self) -> Standing {
        self.store.standing(self.node).await.unwrap()
    }

    pub async fn state(&self) -> NodeState {
        self.store.node(self.node).await.unwrap().unwrap().state
    }
}

async fn trust_rises_audit_by_audit_and_falls_at_once(db: Database) {
    let fleet = Fleet::new(&db).await;
    assert!(!fleet.standing().await.is_trusted(1, now_ms()));
    assert!(fleet.standing().await.is_trusted(0, now_ms()));
    fleet.audit(1, AuditOutcome::Passed, "same").await;
    fleet.audit(2, AuditOutcome::Undecided, "not_audited").await;
    fleet.audit(3, AuditOutcome::Passed, "same").await;
    assert!(fleet.standing().await.is_trusted(2, now_ms()));
    assert!(!fleet.standing().await.is_trusted(3, now_ms()));
    // Unless it goes on proving, half of it is gone after a month.
    let month = 30 * 24 * 3600 * 1000;
    assert!(!fleet.standing().await.is_trusted(2, now_ms() + month));
    assert_eq!(fleet.state().await, NodeState::Active);

    fleet
        .audit(4, AuditOutcome::Failed, "progress_differs")
        .await;
    let standing = fleet.standing().await;
    assert_eq!((standing.passed, standing.failed), (0, 1));
    assert_eq!(fleet.state().await, NodeState::Quarantined);
    // Restored by an operator it begins anew, and what was is not forgotten.
    let store = &fleet.store;
    store
        .tell_node(fleet.node, NodeAction::Restore, None)
        .await
        .unwrap();
    fleet.audit(5, AuditOutcome::Passed, "same").await;
    let standing = fleet.standing().await;
    assert_eq!((standing.passed, standing.failed), (1, 1));
    assert_eq!(fleet.state().await, NodeState::Active);
    assert_eq!(store.standings().await.unwrap(), [(fleet.node, standing)]);
}

async fn chunks_that_were_not_opened_count_the_third_time(db: Database) {
    let fleet = Fleet::new(&db).await;
    for assignment in 1..=2 {
        fleet
            .audit(assignment, AuditOutcome::Failed, "not_opened")
            .await;
        assert_eq!(fleet.state().await, NodeState::Active);
    }
    fleet.audit(3, AuditOutcome::Failed, "not_opened").await;
    assert_eq!(fleet.state().await, NodeState::Quarantined);
}

async fn a_failed_audit_takes_the_credit_back(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.audit(1, AuditOutcome::Passed, "same").await;
    fleet.audit(2, AuditOutcome::Failed, "not_proven").await;
    let credited = fleet.store.credited_by_node().await.unwrap();
    assert_eq!(credited, [(fleet.node, 100)]);
}

async fn an_operator_vouches_and_takes_it_back(db: Database) {
    let fleet = Fleet::new(&db).await;
    fleet.tell(NodeAction::Vouch).await.unwrap();
    assert!(fleet.standing().await.is_trusted(99, now_ms()));
    // Vouched for or not, what was proven wrong puts it in quarantine.
    fleet
        .audit(1, AuditOutcome::Failed, "progress_differs")
        .await;
    assert_eq!(fleet.state().await, NodeState::Quarantined);
    fleet.tell(NodeAction::Distrust).await.unwrap();
    assert!(!fleet.standing().await.is_trusted(1, now_ms()));
}
