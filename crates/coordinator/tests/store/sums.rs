//! Sums equal the ledger, whatever happened, and can be made again from it.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use opengpu_coordinator::store::{Store, SumKey};
use opengpu_ledger::{
    Code, Day, Entry, EntryKind, ExportCheck, Finite, Head, Origin, Sums, Totals, VerifierKey,
    verify_export,
};
use opengpu_rounds::{AuditOutcome, Hash, NodeId, RunId};
use proptest::prelude::*;
use sea_orm::ConnectionTrait;

use super::accounts::{enrol, in_an_hour};
use super::samples::{accepted, new_run};
use super::{Database, on_both_databases};

const DAY_MS: u64 = 86_400_000;
const RUNS: usize = 2;
const NODES: usize = 3;

/// Something that is written into a ledger.
#[derive(Clone, Debug)]
struct Step {
    run: usize,
    node: usize,
    day: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Accepted {
        tokens: u64,
        megaflops: u64,
    },
    Rejected {
        measured: f64,
    },
    Audited {
        outcome: AuditOutcome,
    },
    TrainedAgain {
        tokens: u64,
        megaflops: u64,
    },
    /// Of one of the updates that were accepted before, if there is one.
    Corrected {
        which: usize,
        tokens: i64,
        megaflops: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(AuditOutcome::Passed),
        Just(AuditOutcome::Failed),
        Just(AuditOutcome::Undecided)
    ];
    let what = prop_oneof![
        3 => (0..1u64 << 40, 0..1u64 << 50)
            .prop_map(|(tokens, megaflops)| What::Accepted { tokens, megaflops }),
        2 => (0.0..1e9).prop_map(|measured| What::Rejected { measured }),
        1 => outcome.prop_map(|outcome| What::Audited { outcome }),
        2 => (0..1u64 << 40, 0..1u64 << 50)
            .prop_map(|(tokens, megaflops)| What::TrainedAgain { tokens, megaflops }),
        2 => (0..100usize, -1_000_000..1_000_000i64, -1_000_000..1_000_000i64).prop_map(
            |(which, tokens, megaflops)| What::Corrected { which, tokens, megaflops }
        ),
    ];
    (0..RUNS, 0..NODES, 20_000..20_003u64, what).prop_map(|(run, node, day, what)| Step {
        run,
        node,
        day,
        what,
    })
}

/// A run's ledger as it grows.
struct Growing {
    run: RunId,
    head: u64,
    size: u64,
    /// Accepted entries with their numbers.
    accepted: Vec<(u64, Entry)>,
}

impl Growing {
    async fn of(store: &Store, name: &str) -> Self {
        let run = new_run(store, name).await;
        Self {
            run,
            head: store.run(run).await.unwrap().unwrap().head,
            size: 0,
            accepted: Vec::new(),
        }
    }

    async fn take(&mut self, store: &Store, step: &Step, nodes: &[NodeId]) {
        let number = self.size;
        let (mut event, mut entry) = accepted(number, number, 1, 0);
        entry.node = nodes[step.node];
        entry.at_unix_ms = step.day * DAY_MS + number;
        let mut events = Vec::new();
        match step.what {
            What::Accepted {
                tokens: given,
                megaflops: worked,
            } => {
                if let opengpu_rounds::EventKind::UpdateAccepted { tokens, .. } = &mut event.kind {
                    *tokens = given;
                }
                if let EntryKind::Accepted {
                    tokens, megaflops, ..
                } = &mut entry.kind
                {
                    (*tokens, *megaflops) = (given, worked);
                }
                events.push(event);
                self.accepted.push((number, entry.clone()));
            }
            What::Rejected { measured } => {
                entry.kind = EntryKind::Rejected {
                    code: Code::new("bad_payload").unwrap(),
                    measured: Some(Finite::new(measured).unwrap()),
                    allowed: None,
                };
            }
            What::Audited { outcome } => {
                entry.kind = EntryKind::Audited {
                    outcome,
                    by: None,
                    measured: None,
                    allowed: None,
                };
            }
            What::TrainedAgain { tokens, megaflops } => {
                entry.kind = EntryKind::TrainedAgain {
                    blocks: 3,
                    tokens,
                    megaflops,
                };
            }
            What::Corrected {
                which,
                tokens,
                megaflops,
            } => {
                let Some(index) = which.checked_rem(self.accepted.len()) else {
                    return;
                };
                let (of, mended) = &self.accepted[index];
                let reason = Code::new("audit_failed").unwrap();
                let at_ms = entry.at_unix_ms;
                entry = Entry::correction(*of, mended, at_ms, tokens, megaflops, reason).unwrap();
            }
        }
        let epoch = store.claim(self.run).await.unwrap();
        let entries = [entry];
        let appended = store.append(self.run, epoch, self.head, &events, &entries);
        self.head = appended.await.unwrap();
        self.size += 1;
    }

    /// What the exported ledger comes to, for somebody who has nothing else.
    async fn exported(&self, store: &Store) -> Sums {
        let key = SigningKey::from_bytes(&[7; 32]);
        let origin = Origin::of_run("test", self.run).unwrap();
        let frontier = store.ledger_frontier(self.run, self.size).await.unwrap();
        let head = Head {
            origin: origin.clone(),
            size: self.size,
            root: frontier.root(),
        };
        let signed = head.sign(&key);
        let verifier = VerifierKey::new(origin, key.verifying_key());
        let check = ExportCheck::new(&verifier, signed.as_bytes(), &[]).unwrap();
        let lines = store.ledger_lines(self.run, 0, 1_000).await.unwrap();
        let export: String = lines.into_iter().map(|found| found.line + "\n").collect();
        verify_export(check, export.as_bytes()).unwrap().sums
    }
}

/// The stored sums are those of the exports, by whatever they are asked for.
async fn check(store: &Store, ledgers: &[Growing], owners: &BTreeMap<NodeId, (&str, &str)>) {
    let mut by_run = BTreeMap::new();
    let mut by_node: BTreeMap<u64, Totals> = BTreeMap::new();
    let mut by_day: BTreeMap<u64, Totals> = BTreeMap::new();
    let mut by_account: BTreeMap<Option<String>, Totals> = BTreeMap::new();
    let mut by_team: BTreeMap<Option<String>, Totals> = BTreeMap::new();
    for ledger in ledgers {
        let exported = ledger.exported(store).await;
        let rows: Vec<(NodeId, Day, Totals)> = exported
            .rows()
            .map(|(node, day, totals)| (node, day, *totals))
            .collect();
        assert_eq!(store.sum_rows(ledger.run).await.unwrap(), rows);
        if ledger.size > 0 {
            by_run.insert(ledger.run.0, exported.run());
        }
        for (node, day, totals) in rows {
            let owner = owners.get(&node);
            by_node.entry(node.0).or_default().merge(&totals);
            by_day.entry(day.0).or_default().merge(&totals);
            let account = owner.map(|(account, _)| (*account).to_owned());
            by_account.entry(account).or_default().merge(&totals);
            let team = owner.map(|(_, team)| (*team).to_owned());
            by_team.entry(team).or_default().merge(&totals);
        }
        let of_run = store.sums(SumKey::Run, Some(ledger.run)).await.unwrap();
        assert_eq!(of_run.get(&ledger.run.0), by_run.get(&ledger.run.0));
    }
    assert_eq!(store.sums(SumKey::Run, None).await.unwrap(), by_run);
    assert_eq!(store.sums(SumKey::Node, None).await.unwrap(), by_node);
    assert_eq!(store.sums(SumKey::Day, None).await.unwrap(), by_day);
    assert_eq!(store.sums_by_owner(false, None).await.unwrap(), by_account);
    assert_eq!(store.sums_by_owner(true, None).await.unwrap(), by_team);
}

async fn equal_the_ledger(db: Database, steps: Vec<Step>) {
    let store = db.open().await;
    let mut nodes = Vec::new();
    for number in 0..NODES as u64 {
        nodes.push(enrol(&store, number).await);
    }
    // Two of three nodes belong to somebody.
    let mut owners = BTreeMap::new();
    for (node, (name, team)) in nodes.iter().zip([("alice", "red"), ("bob", "blue")]) {
        store.create_account(name, Some(team)).await.unwrap();
        let code = Hash::of(name.as_bytes());
        store
            .put_claim_code(*node, code, in_an_hour())
            .await
            .unwrap();
        store.claim_node(code, name).await.unwrap();
        owners.insert(*node, (name, team));
    }
    let mut ledgers = [
        Growing::of(&store, "one").await,
        Growing::of(&store, "two").await,
    ];
    for step in &steps {
        ledgers[step.run].take(&store, step, &nodes).await;
    }
    check(&store, &ledgers, &owners).await;
    assert_eq!(store.rebuild_sums().await.unwrap().differed, 0);

    // Lost, they are made again from the lines alone: on request, and when it is opened.
    let lost = lose_sums(&db).await;
    let rebuilt = store.rebuild_sums().await.unwrap();
    assert_eq!(rebuilt.differed, lost);
    assert_eq!(rebuilt.lines, ledgers.iter().map(|l| l.size).sum::<u64>());
    check(&store, &ledgers, &owners).await;
    lose_sums(&db).await;
    store.close().await.unwrap();
    let store = db.open().await;
    check(&store, &ledgers, &owners).await;

    // An account that goes takes nothing of its nodes' with it.
    let accounts = store.accounts().await.unwrap();
    let bob = accounts.iter().find(|account| account.name == "bob");
    assert!(store.erase_account(bob.unwrap().id).await.unwrap());
    owners.remove(&nodes[1]);
    check(&store, &ledgers, &owners).await;
    store.close().await.unwrap();
}

/// Takes all sums away, behind the store's back; how many there were.
async fn lose_sums(db: &Database) -> u64 {
    let url = match db.url.starts_with("postgres") {
        true => db.url.clone(),
        false => format!("sqlite://{}", db.url),
    };
    let connection = sea_orm::Database::connect(url).await.unwrap();
    let deleted = connection.execute_unprepared("DELETE FROM ledger_sum");
    let deleted = deleted.await.unwrap().rows_affected();
    connection.close().await.unwrap();
    deleted
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn sums_equal_the_ledger_on_sqlite(steps in proptest::collection::vec(step(), 0..25)) {
        wait(equal_the_ledger(Database::sqlite(), steps));
    }

    #[test]
    fn sums_equal_the_ledger_on_postgres(steps in proptest::collection::vec(step(), 0..25)) {
        wait(async { equal_the_ledger(Database::postgres().await, steps).await });
    }
}

on_both_databases!(wrong_sums_are_found_by_making_them_again);

async fn wrong_sums_are_found_by_making_them_again(db: Database) {
    let store = db.open().await;
    let nodes = [enrol(&store, 1).await, enrol(&store, 2).await];
    let mut ledger = Growing::of(&store, "one").await;
    for (number, node) in [(0, 0), (1, 1), (2, 1)] {
        let what = What::Accepted {
            tokens: 100 + number,
            megaflops: 7,
        };
        let step = Step {
            run: 0,
            node,
            day: 20_000,
            what,
        };
        ledger.take(&store, &step, &nodes).await;
    }
    let node = nodes[1].0;
    let url = match db.url.starts_with("postgres") {
        true => db.url.clone(),
        false => format!("sqlite://{}", db.url),
    };
    let connection = sea_orm::Database::connect(url).await.unwrap();
    let wrong = format!("UPDATE ledger_sum SET tokens = tokens + 1 WHERE node = {node}");
    connection.execute_unprepared(&wrong).await.unwrap();
    connection.close().await.unwrap();
    assert_eq!(store.rebuild_sums().await.unwrap().differed, 1);
    check(&store, &[ledger], &BTreeMap::new()).await;
}
