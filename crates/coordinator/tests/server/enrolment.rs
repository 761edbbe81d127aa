//! Whom an installation takes in, by its policy.

use std::time::Duration;

use opengpu_coordinator::EnrolmentPolicy;
use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::signing::public_key;
use opengpu_protocol::wire::{Enrol, Enrolled, Machine};
use opengpu_protocol::{Client, ClientError};
use opengpu_rounds::{Hash, NodeId, RunId};

use super::support::{Server, code, key, offer};

async fn server(policy: EnrolmentPolicy) -> Server {
    let home = tempfile::tempdir().unwrap();
    Server::start_with(home, |settings| settings.enrolment = policy).await
}

async fn enrol(server: &Server, seed: u8, token: Option<&str>) -> Result<Enrolled, ClientError> {
    let enrol = Enrol {
        token: token.map(str::to_owned),
        public_key: public_key(&key(seed)),
        name: "stranger".into(),
        machine: Machine::default(),
    };
    Client::anonymous(&server.url).unwrap().enrol(&enrol).await
}

fn client(server: &Server, seed: u8, node: NodeId) -> Client {
    Client::node(&server.url, key(seed), node).unwrap()
}

#[tokio::test]
async fn by_invitation_nobody_comes_in_without_a_token() {
    let server = server(EnrolmentPolicy::Invite).await;
    let error = enrol(&server, 1, None).await.unwrap_err();
    assert_eq!(error.code(), Some("token_needed"));
    assert!(error.to_string().contains("opengpu node token"), "{error}");
}

#[tokio::test]
async fn an_open_coordinator_takes_anyone_but_no_wrong_token() {
    let server = server(EnrolmentPolicy::Open).await;
    let enrolled = enrol(&server, 1, None).await.unwrap();
    assert!(!enrolled.pending);
    let node = client(&server, 1, enrolled.node);
    node.offer(0, &offer()).await.unwrap();
    assert_eq!(enrol(&server, 1, None).await.unwrap().node, enrolled.node);
    assert_eq!(
        code(enrol(&server, 2, Some("guess")).await),
        "unknown_token"
    );
}

#[tokio::test]
async fn who_waits_for_approval_hears_so_gets_nothing_and_goes_on_once_approved() {
    let server = server(EnrolmentPolicy::Approval).await;
    let enrolled = enrol(&server, 1, None).await.unwrap();
    assert!(enrolled.pending);
    let id = enrolled.node;
    let node = client(&server, 1, id);
    let mut directives = node.directives(Duration::from_secs(10)).await.unwrap();
    let plan = directives.next().await.unwrap().unwrap();
    assert!(plan.pending && plan.workers.is_empty());
    for refused in [
        code(node.offer(0, &offer()).await),
        code(node.run(RunId(1)).await),
        code(node.blob_manifest(Hash([1; 32]), 1000).await),
        code(
            node.put_payload(RunId(1), Hash::of(b"x"), b"x"[..].into())
                .await,
        ),
    ] {
        assert_eq!(refused, "not_approved");
    }
    // Only approval lets it in.
    let operator = server.operator();
    assert_eq!(
        code(operator.act_on_node(id, NodeAction::Restore).await),
        "pending"
    );
    assert_eq!(operator.node_view(id).await.unwrap().state, "pending");
    operator.act_on_node(id, NodeAction::Approve).await.unwrap();
    while directives.next().await.unwrap().unwrap().pending {}
    node.offer(0, &offer()).await.unwrap();
    while directives.next().await.unwrap().unwrap().workers.is_empty() {}
    assert_eq!(
        code(operator.act_on_node(id, NodeAction::Approve).await),
        "not_pending"
    );
}

#[tokio::test]
async fn who_is_refused_approval_is_cut_off_and_a_restart_forgets_neither() {
    let server = server(EnrolmentPolicy::Approval).await;
    let refused = enrol(&server, 1, None).await.unwrap().node;
    let waiting = enrol(&server, 2, None).await.unwrap().node;
    let mut directives = client(&server, 1, refused)
        .directives(Duration::from_secs(10))
        .await
        .unwrap();
    let operator = server.operator();
    operator
        .act_on_node(refused, NodeAction::Ban)
        .await
        .unwrap();
    while directives.next().await.unwrap().is_some() {}
    let server = server.restart().await;
    assert_eq!(
        code(client(&server, 1, refused).offer(0, &offer()).await),
        "banned"
    );
    assert_eq!(
        code(client(&server, 2, waiting).offer(0, &offer()).await),
        "not_approved"
    );
}

#[tokio::test]
async fn a_token_is_the_operators_approval() {
    let server = server(EnrolmentPolicy::Approval).await;
    let (_, node) = server.enrol(&key(1), "invited").await;
    node.offer(0, &offer()).await.unwrap();
}
