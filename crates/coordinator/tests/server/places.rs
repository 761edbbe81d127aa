//! Who has the places of a run where they are short.

use std::time::Duration;

use opengpu_protocol::Client;
use opengpu_protocol::client::Directives;
use opengpu_protocol::operator::{NodeAction, TokenRequest};
use opengpu_protocol::signing::public_key;
use opengpu_protocol::wire::{Enrol, Machine};
use opengpu_rounds::NodeId;

use super::support::{Server, code, key, offer, spec};

/// A machine that came with a token of the operator's, on probation.
async fn newcomer(server: &Server, seed: u8) -> (NodeId, Client) {
    let request = TokenRequest {
        label: "friends".into(),
        uses: 1,
        expires_in_seconds: None,
    };
    let made = server.operator().make_token(&request).await.unwrap();
    let enrol = Enrol {
        token: Some(made.token),
        public_key: public_key(&key(seed)),
        name: "newcomer".into(),
        machine: Machine::default(),
    };
    let anonymous = Client::anonymous(&server.url).unwrap();
    let node = anonymous.enrol(&enrol).await.unwrap().node;
    (node, Client::node(&server.url, key(seed), node).unwrap())
}

/// Waits for a plan in which the node's worker has a run, or has none.
async fn until_it_has_a_run(plans: &mut Directives, wanted: bool) {
    let waiting = async {
        loop {
            let plan = plans.next().await.unwrap().unwrap();
            let has = |run: bool| run == wanted;
            if plan.workers.iter().any(|worker| has(worker.run.is_some())) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_known_worker_finds_a_place_where_those_on_probation_have_all() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut tight = spec("tight", "noise", 3, 1);
    tight.round.max_workers = 1;
    server.start_run(&tight).await;
    let silence = Duration::from_secs(20);

    let (_, stranger) = newcomer(&server, 1).await;
    let mut strangers = stranger.directives(silence).await.unwrap();
    stranger.offer(0, &offer()).await.unwrap();
    until_it_has_a_run(&mut strangers, true).await;

    let (_, known) = server.enrol(&key(2), "known").await;
    let mut plans = known.directives(silence).await.unwrap();
    known.offer(0, &offer()).await.unwrap();
    until_it_has_a_run(&mut plans, true).await;

    // Another stranger finds none.
    let (_, late) = newcomer(&server, 3).await;
    let mut lates = late.directives(silence).await.unwrap();
    late.offer(0, &offer()).await.unwrap();
    until_it_has_a_run(&mut lates, false).await;
}

#[tokio::test]
async fn a_node_on_probation_offers_sixteen_devices_and_more_once_it_is_trusted() {
    let server = Server::start().await;
    let (node, client) = newcomer(&server, 1).await;
    client.offer(15, &offer()).await.unwrap();
    let refused = client.offer(16, &offer()).await.unwrap_err();
    assert_eq!(refused.code(), Some("too_many_devices"));
    let mends = format!("opengpu node vouch {node}");
    assert!(refused.to_string().contains(&mends), "{refused}");
    let operator = server.operator();
    operator.act_on_node(node, NodeAction::Vouch).await.unwrap();
    let worker = client.offer(255, &offer()).await.unwrap().worker;
    assert_eq!(code(client.offer(256, &offer()).await), "bad_offer");
    // What it offered then stays its own.
    let distrust = NodeAction::Distrust;
    operator.act_on_node(node, distrust).await.unwrap();
    assert_eq!(client.offer(255, &offer()).await.unwrap().worker, worker);
    assert_eq!(code(client.offer(254, &offer()).await), "too_many_devices");
}
