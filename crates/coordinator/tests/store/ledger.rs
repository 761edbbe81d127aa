//! The ledger grows with the events, and what it proves holds.

use opengpu_coordinator::store::{AppendError, LedgerLine, Store};
use opengpu_ledger::tree::{
    leaf_hash, plan_consistency, plan_inclusion, verify_consistency, verify_inclusion,
};
use opengpu_ledger::{Sums, line};
use opengpu_rounds::{AssignmentId, NodeId, RunId};

use super::{
    Database, on_both_databases,
    samples::{accepted, marked, new_run},
};

on_both_databases!(
    what_is_accepted_is_in_the_ledger_and_proven_to_be,
    what_is_not_appended_is_not_in_the_ledger,
    ledgers_of_two_runs_are_apart,
);

/// Appends `count` accepted updates of three nodes, from assignment `first` on.
async fn grow(store: &Store, run: RunId, first: u64, count: u64) {
    let epoch = store.claim(run).await.unwrap();
    let head = store.run(run).await.unwrap().unwrap().head;
    let (events, entries): (Vec<_>, Vec<_>) = (first..first + count)
        .map(|assignment| accepted(assignment, assignment, assignment % 3, 100 + assignment))
        .unzip();
    store
        .append(run, epoch, head, &events, &entries)
        .await
        .unwrap();
}

async fn all_lines(store: &Store, run: RunId) -> Vec<LedgerLine> {
    let mut lines = Vec::new();
    loop {
        let page = store
            .ledger_lines(run, lines.len() as u64, 7)
            .await
            .unwrap();
        if page.is_empty() {
            return lines;
        }
        lines.extend(page);
    }
}

async fn what_is_accepted_is_in_the_ledger_and_proven_to_be(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    assert_eq!(store.ledger_size(run).await.unwrap(), 0);
    let (mut sizes, mut roots) = (Vec::new(), Vec::new());
    for (first, count) in [(0, 1), (1, 4), (5, 8), (13, 1)] {
        grow(&store, run, first, count).await;
        let size = store.ledger_size(run).await.unwrap();
        sizes.push(size);
        roots.push(store.ledger_frontier(run, size).await.unwrap().root());
    }
    assert_eq!(sizes, [1, 5, 13, 14]);
    let lines = all_lines(&store, run).await;
    for (number, found) in (0..).zip(&lines) {
        assert_eq!(found.number, number);
        let entry = line::read(found.line.as_bytes()).unwrap();
        assert_eq!(entry.assignment, AssignmentId(number));
        assert_eq!(entry.node, found.node);
        let of = store.ledger_of(run, entry.assignment).await.unwrap();
        assert_eq!(of, std::slice::from_ref(found));
        let plan = plan_inclusion(number, 14).unwrap();
        let proof = store.ledger_proof(run, &plan).await.unwrap();
        let leaf = leaf_hash(found.line.as_bytes());
        verify_inclusion(leaf, number, 14, roots[3], &proof).unwrap();
    }
    for (older, root) in sizes.iter().zip(&roots) {
        let plan = plan_consistency(*older, 14).unwrap();
        let proof = store.ledger_proof(run, &plan).await.unwrap();
        verify_consistency((*older, *root), (14, roots[3]), &proof).unwrap();
    }
    // What is credited is what the ledger comes to.
    let mut sums = Sums::new();
    for found in &lines {
        sums.add(&line::read(found.line.as_bytes()).unwrap());
    }
    let by_node = sums.grouped(|node, _| node);
    let credited: Vec<(NodeId, i128)> = store
        .credited_by_node()
        .await
        .unwrap()
        .into_iter()
        .map(|(node, tokens)| (node, i128::from(tokens)))
        .collect();
    let derived: Vec<_> = by_node
        .iter()
        .map(|(n, totals)| (*n, totals.tokens))
        .collect();
    assert_eq!(credited, derived);
}

async fn what_is_not_appended_is_not_in_the_ledger(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let old = store.claim(run).await.unwrap();
    grow(&store, run, 0, 3).await;
    let (event, entry) = accepted(9, 9, 1, 100);
    let fenced = store
        .append(
            run,
            old,
            4,
            std::slice::from_ref(&event),
            std::slice::from_ref(&entry),
        )
        .await;
    assert!(matches!(fenced, Err(AppendError::Fenced { .. })));
    // Credited twice: the database refuses, and all of the append with it.
    let epoch = store.claim(run).await.unwrap();
    let (event, entry) = accepted(10, 2, 1, 100);
    let twice = store
        .append(run, epoch, 4, &[marked(10, 1), event], &[entry])
        .await;
    assert!(matches!(twice, Err(AppendError::Store(_))), "{twice:?}");
    assert_eq!(store.ledger_size(run).await.unwrap(), 3);
    grow(&store, run, 20, 2).await;
    assert_eq!(all_lines(&store, run).await.len(), 5);
}

async fn ledgers_of_two_runs_are_apart(db: Database) {
    let store = db.open().await;
    let one = new_run(&store, "one").await;
    let two = new_run(&store, "two").await;
    grow(&store, one, 0, 2).await;
    grow(&store, two, 0, 5).await;
    grow(&store, one, 2, 1).await;
    assert_eq!(store.ledger_size(one).await.unwrap(), 3);
    assert_eq!(store.ledger_size(two).await.unwrap(), 5);
    let root = |run, size| {
        let store = store.clone();
        async move { store.ledger_frontier(run, size).await.unwrap().root() }
    };
    assert_eq!(root(one, 2).await, root(two, 2).await, "the same entries");
}
