//! What the ledgers come to, over HTTP.

use opengpu_protocol::ledger::{LedgerSum, SumsBy};

use super::support::{Server, code, spec};
use super::worker::Worker;

/// Names, and tokens under them.
fn tokens(sums: &[LedgerSum]) -> Vec<(Option<&str>, i64)> {
    sums.iter()
        .map(|sum| (sum.of.as_deref(), sum.tokens))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_are_by_node_run_and_day_for_all_and_by_owner_for_the_operator() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let operator = server.operator();
    let run = server.start_run(&spec("first", "noise", 1, 2)).await;
    let mut workers = [
        Worker::join(&server, 1).await,
        Worker::join(&server, 2).await,
    ];
    let [one, two] = &mut workers;
    let finished = |view: &opengpu_protocol::wire::RunView| view.phase == "finished";
    tokio::join!(one.work_until(run, finished), two.work_until(run, finished));
    let [one, two] = workers;
    let view = operator.run(run).await.unwrap();
    let credited = |worker: &Worker| {
        let mut seen = view.workers.iter();
        let seen = seen.find(|seen| seen.worker == worker.worker).unwrap();
        i64::try_from(seen.credited_tokens).unwrap()
    };
    let (first, second) = (credited(&one), credited(&two));
    let all = first + second;

    for client in [&operator, &one.client] {
        let by_node = client.ledger_sums(SumsBy::Node, None).await.unwrap();
        let names = [one.node.to_string(), two.node.to_string()];
        assert_eq!(
            tokens(&by_node),
            [(Some(&*names[0]), first), (Some(&*names[1]), second)]
        );
        assert!(by_node.iter().all(|sum| sum.accepted == 1));
        assert!(by_node.iter().all(|sum| sum.megaflops > 0));
        let by_run = client.ledger_sums(SumsBy::Run, None).await.unwrap();
        assert_eq!(tokens(&by_run), [(Some(&*run.to_string()), all)]);
        let by_day = client.ledger_sums(SumsBy::Day, Some(run)).await.unwrap();
        // The test may run over midnight.
        assert_eq!(by_day.iter().map(|sum| sum.tokens).sum::<i64>(), all);
        let day = by_day[0].of.as_deref().unwrap();
        assert_eq!((day.len(), &day[4..5]), (10, "-"), "{day}");
    }
    for by in [SumsBy::Account, SumsBy::Team] {
        assert_eq!(code(one.client.ledger_sums(by, None).await), "names_people");
    }
    let nobody: [(Option<&str>, i64); 1] = [(None, all)];
    let by_account = operator.ledger_sums(SumsBy::Account, None).await.unwrap();
    assert_eq!(tokens(&by_account), nobody);

    let alice = operator.create_account("alice", Some("physics")).await;
    let alice = alice.unwrap();
    let claim = one.client.claim_code().await.unwrap().code;
    operator.claim(&claim, "alice").await.unwrap();
    let by_account = operator.ledger_sums(SumsBy::Account, None).await.unwrap();
    assert_eq!(
        tokens(&by_account),
        [(None, second), (Some("alice"), first)]
    );
    let by_team = operator.ledger_sums(SumsBy::Team, None).await.unwrap();
    assert_eq!(tokens(&by_team), [(None, second), (Some("physics"), first)]);
    let moved = operator.set_team(alice.account, Some(" biology ")).await;
    assert_eq!(moved.unwrap().team.as_deref(), Some("biology"));
    let by_team = operator.ledger_sums(SumsBy::Team, None).await.unwrap();
    assert_eq!(tokens(&by_team), [(None, second), (Some("biology"), first)]);
    operator.set_team(alice.account, None).await.unwrap();
    let by_team = operator.ledger_sums(SumsBy::Team, None).await.unwrap();
    assert_eq!(tokens(&by_team), nobody);

    let rebuilt = operator.rebuild_sums().await.unwrap();
    assert_eq!((rebuilt.lines, rebuilt.differed), (2, 0));
    let bad = operator.set_team(alice.account, Some("a\nb")).await;
    assert_eq!(code(bad), "bad_account");
    assert_eq!(code(operator.set_team(77, None).await), "unknown_account");
    let unknown = opengpu_rounds::RunId(77);
    let unknown = operator.ledger_sums(SumsBy::Node, Some(unknown)).await;
    assert_eq!(code(unknown), "unknown_run");
}
