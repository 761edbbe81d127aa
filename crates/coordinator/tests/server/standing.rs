//! How nodes stand, over HTTP: evidence, appeals, reversals with their credit, bans, and which
//! runs take whom. Nobody trains: what is opened of an update proves nothing, or nothing is.

use std::time::Duration;

use opengpu_coordinator::EnrolmentPolicy;
use opengpu_ledger::{AUDIT_REVERSED, Sums, line};
use opengpu_merge::audit::openings_bytes;
use opengpu_protocol::client::Directives;
use opengpu_protocol::operator::{NodeAction, RunAction};
use opengpu_protocol::signing::public_key;
use opengpu_protocol::standing::{AppealOutcome, AppealRequest, ReviewRequest, StandingPlan};
use opengpu_protocol::wire::{
    Activity, AssignmentPlan, Drawn, Enrol, Machine, NodeView, Plan, RunPlan,
};
use opengpu_protocol::{Client, Nodes, RunSpec};
use opengpu_rounds::standing::{Cause, Level};
use opengpu_rounds::{AssignmentId, Commitment, EventKind, FeedbackId, Hash, NodeId, RunId};
use opengpu_trainer_protocol::InnerState;

use super::support::{Server, code, key, offer, spec};
use super::worker::Worker;

/// A run that audits each update.
pub(super) fn audited(name: &str) -> RunSpec {
    let mut spec = spec(name, "noise", 4, 1);
    spec.inner.state = InnerState::Reset;
    spec.trust.audit_rate = 1.0;
    spec.evaluate_every = 0;
    spec
}

pub(super) async fn stream(client: &Client) -> Directives {
    client.directives(Duration::from_secs(20)).await.unwrap()
}

/// The next plan that shows what is waited for.
pub(super) async fn plan_with<T>(stream: &mut Directives, what: impl Fn(&Plan) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let plan = stream.next().await.unwrap().expect("the stream goes on");
            if let Some(found) = what(&plan) {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(120), waiting).await;
    found.expect("nothing came for 120 s")
}

fn run_of(plan: &Plan) -> Option<RunPlan> {
    plan.workers.first()?.run.clone()
}

/// Gets ready and sends made-up progress for the first assignment.
pub(super) async fn first_update(
    worker: &mut Worker,
    stream: &mut Directives,
) -> (RunId, AssignmentId) {
    let assigned = loop {
        let plan = plan_with(stream, run_of).await;
        worker.sync(plan.run, plan.revision, plan.digest).await;
        worker.report(plan.run, Activity::Idle).await;
        if plan.assignment.is_some() {
            break plan;
        }
    };
    let (run, assignment) = (assigned.run, assigned.assignment.unwrap());
    let ranges = assignment.blocks.iter();
    let blocks = ranges.map(|range| range.end - range.start).sum();
    let mut notice = worker
        .update(run, assignment.assignment, assignment.base, blocks)
        .await;
    notice.commitment = Some(Commitment {
        root: Hash([9; 32]),
        previous: None,
        taken_back: Vec::new(),
    });
    worker.client.post_update(run, &notice).await.unwrap();
    (run, assignment.assignment)
}

/// Opens what is asked for with zeros, which prove nothing.
pub(super) async fn open_nonsense(worker: &Worker, run: RunId, stream: &mut Directives) {
    let asked = |plan: &Plan| run_of(plan)?.open.first().cloned();
    let Drawn { assignment, chunks } = plan_with(stream, asked).await;
    let chunks: Vec<usize> = chunks.into_iter().map(|chunk| chunk as usize).collect();
    let layout = &worker.held.as_ref().unwrap().layout;
    let zeros = vec![0; openings_bytes(layout, &chunks, false)];
    let hash = Hash::of(&zeros);
    let sent = worker
        .client
        .put_openings(run, assignment, hash, zeros.into());
    sent.await.unwrap();
}

async fn node_that(server: &Server, node: NodeId, is: impl Fn(&NodeView) -> bool) -> NodeView {
    let operator = server.operator();
    let started = std::time::Instant::now();
    loop {
        let view = operator.node_view(node).await.unwrap();
        if is(&view) {
            return view;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "{view:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tokens that the run credits, which its ledger must come to.
async fn credited(server: &Server, run: RunId) -> u64 {
    let operator = server.operator();
    let lines = operator.ledger_lines(run, 0).await.unwrap();
    let mut sums = Sums::new();
    for text in lines.split(|byte| *byte == b'\n') {
        if !text.is_empty() {
            sums.add(&line::read(text).unwrap());
        }
    }
    let tokens = operator.run(run).await.unwrap().tokens;
    assert_eq!(sums.run().tokens, i128::from(tokens));
    tokens
}

fn reverse(change: Option<u64>) -> ReviewRequest {
    ReviewRequest {
        change,
        reverse: true,
        note: "our own mistake".into(),
    }
}

fn appeal(text: &str) -> AppealRequest {
    AppealRequest {
        change: None,
        text: text.into(),
    }
}

pub(super) fn standing(plan: &Plan) -> Option<StandingPlan> {
    plan.standing.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_in_quarantine_appeals_and_a_reversal_gives_standing_and_credit_back_once() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let operator = server.operator();
    let run = server.start_run(&audited("first")).await;
    let mut worker = Worker::join(&server, 1).await;
    let node = worker.node;
    let mut plans = stream(&worker.client).await;
    let (_, assignment) = first_update(&mut worker, &mut plans).await;
    let earned = credited(&server, run).await;
    assert!(earned > 0);
    open_nonsense(&worker, run, &mut plans).await;

    let shut_out = |plan: &Plan| standing(plan).filter(|s| s.standing == Level::Quarantined);
    let told = plan_with(&mut plans, shut_out).await;
    assert!(told.advice().unwrap().contains("opengpu appeal"));
    let against = told.against.unwrap();
    assert_eq!(
        (against.code.as_str(), against.appeal),
        ("not_proven", None)
    );
    let view = operator.node_view(node).await.unwrap();
    assert_eq!(
        (view.state.as_str(), view.credited_tokens, view.appeals),
        ("quarantined", 0, false)
    );
    assert_eq!(view.reason.as_ref(), Some(&against.reason));
    assert_eq!(credited(&server, run).await, 0);

    // Its owner says what he knows, once.
    let client = &worker.client;
    let said = client.appeal(&appeal("bad memory\u{1b}[2J")).await.unwrap();
    let appealed = said.changes[0].appeal.as_ref().unwrap();
    assert_eq!(appealed.text, "bad memory [2J", "no commands to a terminal");
    assert_eq!(appealed.outcome, AppealOutcome::Open);
    assert_eq!(
        code(client.appeal(&appeal("again")).await),
        "already_appealed"
    );
    for bad in ["  ", &"x".repeat(2001)] {
        assert_eq!(code(client.appeal(&appeal(bad)).await), "bad_appeal");
    }
    assert!(operator.node_view(node).await.unwrap().appeals);

    // The operator looks at the evidence, also when the run is over.
    operator.act_on_run(run, RunAction::Stop).await.unwrap();
    let over = server.wait_for(run, "the end", |view| view.phase == "finished");
    over.await;
    let seen = operator.standing_of(node).await.unwrap();
    let fault = &seen.changes[0];
    assert_eq!(
        (fault.cause, fault.by.as_str()),
        (Cause::Proof, "coordinator")
    );
    let evidence = fault.evidence.as_ref().unwrap();
    assert_eq!((evidence.run, evidence.assignment), (run, Some(assignment)));
    let view = operator.review(node, &reverse(None)).await.unwrap();
    assert_eq!(
        (view.state.as_str(), view.standing, view.credited_tokens),
        ("active", Level::Trusted, earned)
    );
    assert_eq!((view.audits_failed, view.appeals), (0, false));
    assert_eq!(credited(&server, run).await, earned);
    // Twice gives it once.
    let again = reverse(Some(fault.change));
    let view = operator.review(node, &again).await.unwrap();
    assert_eq!(view.credited_tokens, earned);
    assert_eq!(credited(&server, run).await, earned);

    // The node hears it, and can have the proof.
    let answered = |plan: &Plan| standing(plan).filter(|s| s.standing == Level::Trusted);
    let told = plan_with(&mut plans, answered).await.against.unwrap();
    assert_eq!((told.change, told.reversed), (fault.change, true));
    assert_eq!(told.appeal, Some(AppealOutcome::Reversed));
    assert_eq!(told.note.as_deref(), Some("our own mistake"));
    let receipt = client
        .rejection_receipt(run, assignment, AUDIT_REVERSED)
        .await
        .unwrap();
    assert!(receipt.starts_with(b"c2sp.org/tlog-proof@v1"));

    // A restart folds all of it to the same.
    let server = server.restart().await;
    let view = server.operator().node_view(node).await.unwrap();
    assert_eq!(
        (view.standing, view.credited_tokens),
        (Level::Trusted, earned)
    );
    assert_eq!(credited(&server, run).await, earned);
    worker.at(&server);
    let mut plans = stream(&worker.client).await;
    let told = plan_with(&mut plans, standing).await.against.unwrap();
    assert!(told.reversed);
    // Each new step was counted, by its code.
    let metrics = server.metrics().await;
    assert!(!metrics.contains("standing_changes_total{"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_nothing_is_suspected_gets_work_all_the_same_and_is_cleared_by_the_operator() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut rules = audited("first");
    rules.round.duration_ms = 2_000;
    rules.round.grace_ms = 1_000;
    rules.round.silence_ms = 5_000;
    let run = server.start_run(&rules).await;
    let mut worker = Worker::join(&server, 1).await;
    let mut plans = stream(&worker.client).await;
    first_update(&mut worker, &mut plans).await;
    let earned = credited(&server, run).await;
    let suspected = |view: &NodeView| view.standing == Level::Suspect;
    let view = node_that(&server, worker.node, suspected).await;
    assert_eq!((view.state.as_str(), view.credited_tokens), ("active", 0));
    let doubted = |plan: &Plan| standing(plan).filter(|s| s.standing == Level::Suspect);
    let told = plan_with(&mut plans, doubted).await;
    assert!(told.advice().is_some());
    let metrics = server.metrics().await;
    for counted in ["local", "not_opened"] {
        let counted = format!("opengpu_standing_changes_total{{code=\"{counted}\"}} 1");
        assert!(metrics.contains(&counted), "{metrics}");
    }
    let operator = server.operator();
    // Nobody appealed: what stays needs no answer.
    let upheld = ReviewRequest {
        reverse: false,
        ..reverse(None)
    };
    assert_eq!(
        code(operator.review(worker.node, &upheld).await),
        "not_appealed"
    );
    let view = operator.review(worker.node, &reverse(None)).await.unwrap();
    assert_eq!(
        (view.standing, view.credited_tokens),
        (Level::Trusted, earned)
    );
    assert_eq!(credited(&server, run).await, earned);
    assert_eq!(
        code(operator.review(worker.node, &reverse(None)).await),
        "unknown_change"
    );
    assert_eq!(
        code(worker.client.appeal(&appeal("and now?")).await),
        "nothing_to_appeal"
    );
}

#[tokio::test]
async fn a_banned_node_is_cut_off_enrols_no_more_and_can_still_say_something() {
    let server = Server::start().await;
    let (node, client) = server.enrol(&key(1), "attic").await;
    let mut plans = stream(&client).await;
    plan_with(&mut plans, standing).await;
    let operator = server.operator();
    let reason = "it sends made-up updates".to_owned();
    operator
        .act_on_node_because(node, NodeAction::Ban, Some(reason.clone()))
        .await
        .unwrap();
    while plans.next().await.unwrap().is_some() {}
    assert_eq!(code(client.offer(0, &offer()).await), "banned");
    assert_eq!(code(client.keys().await), "banned");
    let enrol = Enrol {
        token: Some(server.join_token()),
        public_key: public_key(&key(1)),
        name: "attic again".into(),
        machine: Machine::default(),
    };
    let anonymous = Client::anonymous(&server.url).unwrap();
    assert_eq!(code(anonymous.enrol(&enrol).await), "banned");
    // Who holds another key hears nothing of it.
    let stranger = Client::node(&server.url, key(2), node).unwrap();
    assert_eq!(code(stranger.own_standing().await), "bad_signature");

    let own = client.own_standing().await.unwrap();
    assert_eq!(own.standing, Level::Banned);
    assert_eq!(own.changes[0].reason, reason);
    client.appeal(&appeal("it was my cousin")).await.unwrap();
    let server = server.restart().await;
    let client = Client::node(&server.url, key(1), node).unwrap();
    assert_eq!(code(client.keys().await), "banned");
    let operator = server.operator();
    assert!(operator.node_view(node).await.unwrap().appeals);
    operator.review(node, &reverse(None)).await.unwrap();
    client.offer(0, &offer()).await.unwrap();
    let own = client.own_standing().await.unwrap();
    assert_eq!(own.standing, Level::Trusted, "as it was before");
}

/// A machine that comes without a token.
async fn stranger(server: &Server, seed: u8) -> Worker {
    let enrol = Enrol {
        token: None,
        public_key: public_key(&key(seed)),
        name: "stranger".into(),
        machine: Machine::default(),
    };
    let anonymous = Client::anonymous(&server.url).unwrap();
    let node = anonymous.enrol(&enrol).await.unwrap().node;
    let client = Client::node(&server.url, key(seed), node).unwrap();
    let worker = client.offer(0, &offer()).await.unwrap().worker;
    Worker {
        node,
        client,
        worker,
        key: key(seed),
        feedback: FeedbackId(u64::from(seed)),
        held: None,
        sent: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_carries_state_takes_a_stranger_only_once_the_operator_says_so() {
    let home = tempfile::tempdir().unwrap();
    let open = |settings: &mut opengpu_coordinator::ServeSettings| {
        settings.enrolment = EnrolmentPolicy::Open;
    };
    let server = Server::start_with(home, open).await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 4, 1)).await;
    let worker = stranger(&server, 1).await;
    let mut plans = stream(&worker.client).await;
    let refused = plan_with(&mut plans, |plan| plan.no_work.clone()).await;
    assert_eq!(refused.code, "carry_needs_approval");
    assert!(
        refused.message.contains("opengpu node approve"),
        "{}",
        refused.message
    );
    let bytes = b"an update"[..].into();
    let sent = worker
        .client
        .put_payload(run, Hash::of(b"an update"), bytes);
    assert_eq!(code(sent.await), "carry_needs_approval");
    let operator = server.operator();
    assert!(!operator.node_view(worker.node).await.unwrap().approved);

    // Vouched for, it may; and no longer when that is taken back.
    let given = |plan: &Plan| run_of(plan).map(|given| given.run);
    let act = async |action| operator.act_on_node(worker.node, action).await.unwrap();
    act(NodeAction::Vouch).await;
    assert_eq!(plan_with(&mut plans, given).await, run);
    act(NodeAction::Distrust).await;
    let refused = plan_with(&mut plans, |plan| plan.no_work.clone()).await;
    assert_eq!(refused.code, "carry_needs_approval");
    act(NodeAction::Approve).await;
    assert_eq!(plan_with(&mut plans, given).await, run);
    assert!(operator.node_view(worker.node).await.unwrap().approved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_takes_only_the_nodes_that_its_file_names() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut only = audited("vouched");
    only.trust.nodes = Nodes::Vouched;
    let run = server.start_run(&only).await;
    let token = opengpu_protocol::operator::TokenRequest {
        label: "lab".into(),
        uses: 1,
        expires_in_seconds: None,
    };
    let operator = server.operator();
    let made = operator.make_token(&token).await.unwrap();
    let enrol = Enrol {
        token: Some(made.token),
        public_key: public_key(&key(1)),
        name: "invited".into(),
        machine: Machine::default(),
    };
    let anonymous = Client::anonymous(&server.url).unwrap();
    let node = anonymous.enrol(&enrol).await.unwrap().node;
    let client = Client::node(&server.url, key(1), node).unwrap();
    client.offer(0, &offer()).await.unwrap();
    let mut plans = stream(&client).await;
    let refused = plan_with(&mut plans, |plan| plan.no_work.clone()).await;
    assert_eq!(refused.code, "vouched_only");
    operator.act_on_node(node, NodeAction::Vouch).await.unwrap();
    let given = plan_with(&mut plans, |plan| run_of(plan).map(|given| given.run));
    assert_eq!(given.await, run);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_of_a_node_that_is_shut_out_is_not_merged() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut rules = spec("first", "noise", 1, 2);
    rules.round.quorum = 1;
    let run = server.start_run(&rules).await;
    let (mut one, mut other) = (
        Worker::join(&server, 1).await,
        Worker::join(&server, 2).await,
    );
    let (first, second) = tokio::join!(one.wait_for_assignment(), other.wait_for_assignment());
    send(&one, run, &first).await;
    let operator = server.operator();
    let quarantine = NodeAction::Quarantine;
    operator.act_on_node(one.node, quarantine).await.unwrap();
    let started = std::time::Instant::now();
    let dropped = loop {
        let log = operator.whole_log(run).await.unwrap();
        let dropped = log.into_iter().find_map(|entry| match entry.event.kind {
            EventKind::UpdateDropped { assignment, reason } => Some((assignment, reason)),
            _ => None,
        });
        if let Some(dropped) = dropped {
            break dropped;
        }
        assert!(started.elapsed() < Duration::from_secs(120));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(dropped.0, first.assignment);
    assert!(dropped.1.contains("quarantine"), "{}", dropped.1);
    send(&other, run, &second).await;
    let over = server.wait_for(run, "the end", |view| view.phase == "finished");
    over.await;
    let merged = operator.whole_log(run).await.unwrap();
    let merged = merged.into_iter().find_map(|entry| match entry.event.kind {
        EventKind::RoundClosed { updates, .. } => Some(updates),
        _ => None,
    });
    assert_eq!(merged, Some(vec![second.assignment]));
}

/// Sends made-up progress for all of an assignment.
async fn send(worker: &Worker, run: RunId, assignment: &AssignmentPlan) {
    let ranges = assignment.blocks.iter();
    let blocks = ranges.map(|range| range.end - range.start).sum();
    let (assignment, base) = (assignment.assignment, assignment.base);
    let notice = worker.update(run, assignment, base, blocks).await;
    worker.client.post_update(run, &notice).await.unwrap();
}
