//! A node that is let in, and names what another node has.

use opengpu_protocol::audits::AuditDeclined;
use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::signing::public_key;
use opengpu_protocol::standing::AppealRequest;
use opengpu_protocol::wire::{Activity, Report};
use opengpu_protocol::{SigningKey, audits::AuditPlan};
use opengpu_rounds::{AssignmentId, EventKind, Hash, NodeId};
use serde::Serialize;

use super::super::auditing::Story;
use super::super::support::{hash_of_bytes, key};
use super::super::worker::Worker;
use super::table::{Others, TABLE};
use super::{Answer, signed, unsigned};

/// Whose it is.
enum Owner {
    Node(Box<SigningKey>, NodeId),
    /// No node may have it, not even the one that made it.
    Operator,
}

impl From<&Worker> for Owner {
    fn from(worker: &Worker) -> Self {
        Self::Node(Box::new(worker.key.clone()), worker.node)
    }
}

/// A request about something that a node has, whose owner may make it.
struct Request {
    owner: Owner,
    method: &'static str,
    /// The endpoint's path in the table.
    template: &'static str,
    path: String,
    body: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_has_is_refused_where_its_owner_is_answered() {
    let mut story = Story::begin(1).await;
    story.stranger_sends().await;
    let (place, audit) = story.asked(&[]).await;
    let (intruder, _) = story.server.enrol(&key(90), "intruder").await;
    let (banned, _) = story.server.enrol(&key(91), "banned").await;
    let requests = requests(&mut story, place, &audit, banned).await;
    let server = &story.server;
    for (method, template, _, others) in TABLE {
        let Others::Refused(code) = others else {
            continue;
        };
        let request = requests
            .iter()
            .find(|request| (request.method, request.template) == (*method, *template))
            .unwrap_or_else(|| panic!("nothing of another node's is asked of {method} {template}"));
        let (path, body) = (&request.path, || request.body.clone());
        let by_intruder = signed(server, &key(90), intruder, method, path, body());
        let answer = Answer::to(by_intruder).await;
        assert_eq!(answer.code, *code, "{method} {path} answered {answer:?}");
        let by_owner = match &request.owner {
            Owner::Node(key, node) => signed(server, key, *node, method, path, body()),
            Owner::Operator => {
                unsigned(server, method, path, body()).bearer_auth(server.operator_token())
            }
        };
        // It may be wrong for another reason, but not for that one.
        let answer = Answer::to(by_owner).await;
        assert!(
            answer.code != *code && !answer.is_at_the_gate(),
            "{method} {path} answered {answer:?} to whose it is"
        );
    }
}

/// One for each endpoint that refuses what is another node's.
async fn requests(
    story: &mut Story,
    place: usize,
    audit: &AuditPlan,
    banned: NodeId,
) -> Vec<Request> {
    let run = story.run;
    let operator = story.server.operator();
    operator.act_on_node(banned, NodeAction::Ban).await.unwrap();
    let ban = operator.standing_of(banned).await.unwrap().changes[0].change;
    let (update, payload) = update_of_the_stranger(story).await;
    let held = story.known.wait_for(|plan| plan.assignment.clone()).await;
    let known = &story.known.worker;
    let notice = known.update(run, held.assignment, held.base, 1).await;
    let (stranger, asked) = (&story.stranger.worker, &story.vouched[place].worker);
    let (held, number) = (held.assignment, audit.number);
    let (keys, runs) = ("/v1/keys", format!("/v1/runs/{run}"));
    let junk = b"junk".to_vec();
    let hash = Hash::of(&junk);

    let mut all = Vec::new();
    let mut about = |owner: Owner, method, template, path: String, body: Vec<u8>| {
        all.push(Request {
            owner,
            method,
            template,
            path,
            body,
        });
    };
    about(
        stranger.into(),
        "DELETE",
        "/v1/keys/{key}",
        format!("{keys}/{}", public_key(&stranger.key)),
        Vec::new(),
    );
    about(
        Owner::Node(Box::new(key(91)), banned),
        "POST",
        "/v1/appeals",
        "/v1/appeals".to_owned(),
        json(&AppealRequest {
            change: Some(ban),
            text: "it was my cousin".into(),
        }),
    );
    about(
        stranger.into(),
        "POST",
        "/v1/workers/{worker}/report",
        format!("/v1/workers/{}/report", stranger.worker),
        json(&report(stranger)),
    );
    about(
        known.into(),
        "PUT",
        "/v1/runs/{run}/payloads/{hash}",
        format!("{runs}/payloads/{hash}?assignment={held}"),
        junk.clone(),
    );
    about(
        stranger.into(),
        "PUT",
        "/v1/runs/{run}/openings/{assignment}/{hash}",
        format!("{runs}/openings/{update}/{hash}"),
        junk.clone(),
    );
    about(
        asked.into(),
        "PUT",
        "/v1/runs/{run}/audits/{number}/{hash}",
        format!("{runs}/audits/{number}/{hash}"),
        junk,
    );
    let declined = AuditDeclined {
        reason: "there is too little memory".into(),
    };
    about(
        asked.into(),
        "POST",
        "/v1/runs/{run}/audits/{number}",
        format!("{runs}/audits/{number}"),
        json(&declined),
    );
    about(
        known.into(),
        "POST",
        "/v1/runs/{run}/updates",
        format!("{runs}/updates"),
        json(&notice),
    );
    about(
        stranger.into(),
        "GET",
        "/v1/runs/{run}/updates/{assignment}",
        format!("{runs}/updates/{update}"),
        Vec::new(),
    );
    about(
        Owner::Operator,
        "GET",
        "/v1/blobs/{hash}",
        format!("/v1/blobs/{payload}"),
        Vec::new(),
    );
    about(
        Owner::Operator,
        "GET",
        "/v1/blobs/{hash}/manifest",
        format!("/v1/blobs/{payload}/manifest"),
        Vec::new(),
    );
    about(
        Owner::Operator,
        "GET",
        "/v1/ledger/sums",
        "/v1/ledger/sums?by=account".to_owned(),
        Vec::new(),
    );
    all
}

/// The update that is audited, and its payload.
async fn update_of_the_stranger(story: &Story) -> (AssignmentId, Hash) {
    let log = story.server.operator().whole_log(story.run).await.unwrap();
    let accepted = log.into_iter().find_map(|entry| match entry.event.kind {
        EventKind::UpdateAccepted {
            assignment,
            payload,
            ..
        } => Some((assignment, payload)),
        _ => None,
    });
    accepted.unwrap()
}

/// What a worker says of itself.
fn report(worker: &Worker) -> Report {
    let held = worker.held.as_ref().unwrap();
    Report {
        run: held.run,
        revision: held.revision,
        digest: hash_of_bytes(&held.values),
        feedback: worker.feedback,
        blocks_per_second: 1.0,
        activity: Activity::Idle,
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap()
}
