//! Audits that nodes make: who may answer, what is taken, and what follows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use opengpu_ledger::{Entry, EntryKind, Sums, Totals, line};
use opengpu_merge::audit::{Again, commitment, write_openings};
use opengpu_protocol::ClientError;
use opengpu_protocol::audits::{AuditDeclined, AuditPlan};
use opengpu_protocol::client::Directives;
use opengpu_protocol::ledger::SumsBy;
use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::standing::ReviewRequest;
use opengpu_protocol::wire::{Activity, AssignmentPlan, RunPlan, UpdateNotice};
use opengpu_rounds::{AuditOutcome, Commitment, EventKind, Finding, Hash, NodeId, Revision, RunId};
use opengpu_trainer_protocol::{InnerSettings, InnerState};

use super::support::{Server, code, spec};
use super::worker::Worker;

const PATIENCE: Duration = Duration::from_secs(60);
const CLASS: &str = "test";

/// A worker whose directive stream stays open.
pub(super) struct Listening {
    pub worker: Worker,
    directives: Directives,
}

/// What `look` finds, as soon as it finds something.
async fn wait_until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Listening {
    async fn to(worker: Worker) -> Self {
        let directives = worker.client.directives(Duration::from_secs(20)).await;
        Self {
            directives: directives.unwrap(),
            worker,
        }
    }

    /// Its part in the run, if it hears of it within a moment.
    async fn hear(&mut self) -> Option<RunPlan> {
        let line = tokio::time::timeout(Duration::from_millis(100), self.directives.next());
        let plan = line.await.ok()?.unwrap().expect("the stream goes on");
        let run = plan.workers.into_iter().find_map(|worker| worker.run)?;
        self.worker.report(run.run, Activity::Idle).await;
        Some(run)
    }

    pub async fn wait_for<T>(&mut self, what: impl Fn(&RunPlan) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            let plan = self.hear().await;
            if let Some(found) = plan.as_ref().and_then(&what) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "the last plan was {plan:?}");
        }
    }

    async fn answer(&self, run: RunId, number: u64, bytes: Vec<u8>) -> Result<(), ClientError> {
        let hash = Hash::of(&bytes);
        let client = &self.worker.client;
        client.put_audit(run, number, hash, bytes.into()).await
    }
}

/// A run in its first round: a stranger, a known node for which nobody vouches, and nodes for which
/// an operator does. All have an assignment.
pub(super) struct Story {
    pub server: Server,
    pub run: RunId,
    pub stranger: Listening,
    pub known: Listening,
    pub vouched: Vec<Listening>,
}

impl Story {
    pub async fn begin(vouched: usize) -> Self {
        let server = Server::start().await;
        server.dataset("noise", 512).await;
        let mut workers = Vec::new();
        for seed in 1..=2 + vouched as u8 {
            workers.push(Worker::join(&server, seed).await);
        }
        // Who enrols with the machine's own token is vouched for.
        for worker in &workers[..2] {
            let distrust = NodeAction::Distrust;
            let operator = server.operator();
            operator.act_on_node(worker.node, distrust).await.unwrap();
        }
        let mut spec = spec("audited", "noise", 4, workers.len() as u32);
        spec.inner = InnerSettings {
            state: InnerState::Reset,
            ..InnerSettings::default()
        };
        let run = server.start_run(&spec).await;
        let getting_ready = workers.iter_mut().map(Worker::wait_for_assignment);
        futures::future::join_all(getting_ready).await;
        let mut listening = Vec::new();
        for worker in workers {
            listening.push(Listening::to(worker).await);
        }
        let mut listening = listening.into_iter();
        Self {
            stranger: listening.next().unwrap(),
            known: listening.next().unwrap(),
            vouched: listening.collect(),
            server,
            run,
        }
    }

    /// The stranger sends an update and opens what is drawn of it. Returns the progress that it
    /// made up.
    pub async fn stranger_sends(&mut self) -> Vec<f32> {
        let assignment = self.stranger.wait_for(|plan| plan.assignment.clone()).await;
        let weights = self.stranger.worker.held.as_ref().unwrap().values.len();
        let progress: Vec<f32> = (0..weights)
            .map(|i| ((i % 97) as f32 - 48.0) * 1e-4)
            .collect();
        self.send(&assignment, &progress).await;
        let drawn = self
            .stranger
            .wait_for(|plan| plan.open.first().cloned())
            .await;
        assert_eq!(drawn.assignment, assignment.assignment);
        let chunks: Vec<usize> = drawn.chunks.iter().map(|chunk| *chunk as usize).collect();
        let layout = &self.stranger.worker.held.as_ref().unwrap().layout;
        let openings = write_openings(layout, &chunks, &progress, None);
        let (client, hash) = (&self.stranger.worker.client, Hash::of(&openings));
        client
            .put_openings(self.run, drawn.assignment, hash, openings.into())
            .await
            .unwrap();
        progress
    }

    async fn send(&self, assignment: &AssignmentPlan, progress: &[f32]) {
        let worker = &self.stranger.worker;
        let layout = &worker.held.as_ref().unwrap().layout;
        let codec = worker.client.run(self.run).await.unwrap().spec.sync.up;
        let mut accumulated = progress.to_vec();
        let payload = opengpu_merge::encode(codec.into(), layout, &mut accumulated).unwrap();
        let blocks = assignment
            .blocks
            .iter()
            .map(|range| range.end - range.start);
        let notice = UpdateNotice {
            worker: worker.worker,
            assignment: assignment.assignment,
            base: assignment.base,
            blocks_completed: blocks.sum(),
            payload: Hash::of(&payload),
            payload_bytes: payload.len() as u64,
            feedback: worker.feedback,
            loss: 3.5,
            train_seconds: 1.0,
            commitment: Some(Commitment {
                root: Hash(commitment(layout, progress)),
                previous: None,
                taken_back: Vec::new(),
            }),
            numerics_class: Some(CLASS.into()),
        };
        let sent = worker
            .client
            .put_payload(self.run, notice.payload, payload.into());
        sent.await.unwrap();
        worker.client.post_update(self.run, &notice).await.unwrap();
    }

    /// Which of the vouched nodes is asked for an audit, but for none of these numbers.
    pub async fn asked(&mut self, before: &[u64]) -> (usize, AuditPlan) {
        let started = Instant::now();
        loop {
            for (place, one) in self.vouched.iter_mut().enumerate() {
                let audit = one.hear().await.and_then(|plan| plan.audit);
                if let Some(audit) = audit
                    && !before.contains(&audit.number)
                {
                    return (place, audit);
                }
            }
            assert!(started.elapsed() < PATIENCE, "nobody is asked");
        }
    }

    /// What training gives whose progress is this, in the drawn chunks.
    fn again(&self, audit: &AuditPlan, progress: &[f32]) -> Vec<u8> {
        let layout = &self.stranger.worker.held.as_ref().unwrap().layout;
        let chunks: Vec<usize> = audit.chunks.iter().map(|chunk| *chunk as usize).collect();
        let weights = (progress, &*vec![0.0; progress.len()]);
        Again::of(layout, &chunks, weights, CLASS).write()
    }

    async fn finding(&self) -> Finding {
        let found = async || {
            let log = self.server.operator().whole_log(self.run).await.unwrap();
            log.into_iter().find_map(|entry| match entry.event.kind {
                EventKind::Audited { finding, .. } => Some(finding),
                _ => None,
            })
        };
        wait_until("something is found", found).await
    }

    /// How many audits the stranger passed and failed, once the first is noted: a moment after it
    /// is in the log.
    async fn audits_of_stranger(&self) -> (u64, u64) {
        let noted = async || {
            let node = self.stranger.worker.node;
            let view = self.server.operator().node_view(node).await.unwrap();
            let audits = (view.audits_passed, view.audits_failed);
            (audits != (0, 0)).then_some(audits)
        };
        wait_until("an audit is noted", noted).await
    }

    /// The ledger has the stranger's update alone, and credits just these of the vouched nodes, in
    /// this order, with as much work as that was. What each node's lines come to.
    async fn check_who_is_credited(&self, places: &[usize]) -> BTreeMap<NodeId, Totals> {
        let operator = self.server.operator();
        let lines = operator.ledger_lines(self.run, 0).await.unwrap();
        let lines = String::from_utf8(lines).unwrap();
        let entries: Vec<Entry> = lines
            .lines()
            .map(|text| line::read(text.as_bytes()).unwrap())
            .collect();
        let update = &entries[0];
        assert_eq!(update.node, self.stranger.worker.node);
        let EntryKind::Accepted {
            blocks,
            tokens,
            megaflops,
            ..
        } = update.kind
        else {
            panic!("{update:?}");
        };
        assert!(blocks > 0 && tokens > 0 && megaflops > 0);
        assert!(matches!(entries[1].kind, EntryKind::Audited { .. }));
        let is_credit = |entry: &&Entry| matches!(entry.kind, EntryKind::TrainedAgain { .. });
        let credited: Vec<&Entry> = entries.iter().filter(is_credit).collect();
        assert_eq!(credited.len(), places.len(), "{lines}");
        for (entry, place) in credited.into_iter().zip(places) {
            let worker = &self.vouched[*place].worker;
            let expected = Entry {
                at_unix_ms: entry.at_unix_ms,
                node: worker.node,
                worker: worker.worker,
                kind: EntryKind::TrainedAgain {
                    blocks,
                    tokens,
                    megaflops,
                },
                ..update.clone()
            };
            assert_eq!(*entry, expected);
        }

        let mut sums = Sums::new();
        entries.iter().for_each(|entry| sums.add(entry));
        let by_node = sums.grouped(|node, _| node);
        let told = operator.ledger_sums(SumsBy::Node, None).await.unwrap();
        assert_eq!(told.len(), by_node.len());
        for (told, (node, totals)) in told.iter().zip(&by_node) {
            assert_eq!(told.of, Some(node.to_string()));
            assert_eq!(i128::from(told.tokens), totals.tokens, "{node}");
            assert_eq!(i128::from(told.megaflops), totals.megaflops, "{node}");
            assert_eq!(told.trained_again, totals.trained_again, "{node}");
        }
        let rebuilt = operator.rebuild_sums().await.unwrap();
        assert_eq!((rebuilt.lines, rebuilt.differed), (entries.len() as u64, 0));
        by_node
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_is_answered_by_the_node_that_was_asked_alone_and_once() {
    let mut story = Story::begin(1).await;
    let progress = story.stranger_sends().await;
    let (run, (_, audit)) = (story.run, story.asked(&[]).await);
    let view = story.server.operator().run(run).await.unwrap();
    assert_eq!((audit.base, audit.digest), (view.revision, view.digest));
    let asked = &story.vouched[0];
    let good = story.again(&audit, &progress);

    // Neither whose update it is, nor another, nor one for which nobody vouches.
    for other in [&story.stranger, &story.known] {
        let answer = other.answer(run, audit.number, good.clone()).await;
        assert_eq!(code(answer), "not_asked");
        let declined = AuditDeclined {
            reason: "no".into(),
        };
        let client = &other.worker.client;
        let declined = client.decline_audit(run, audit.number, &declined).await;
        assert_eq!(code(declined), "not_asked");
    }
    let unknown = asked.answer(run, audit.number ^ 1, good.clone()).await;
    assert_eq!(code(unknown), "not_asked");

    let short = good[..good.len() - 4].to_vec();
    assert_eq!(
        code(asked.answer(run, audit.number, short).await),
        "bad_audit"
    );
    let long = [&good[..], &[0; 4]].concat();
    assert_eq!(
        code(asked.answer(run, audit.number, long).await),
        "bad_audit"
    );
    let mut no_number = good.clone();
    let end = no_number.len() - 4;
    no_number[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = asked.answer(run, audit.number, no_number).await;
    assert_eq!(code(refused), "bad_audit");

    asked.answer(run, audit.number, good.clone()).await.unwrap();
    let again = asked.answer(run, audit.number, good).await;
    assert_eq!(code(again), "not_asked");

    let finding = story.finding().await;
    assert_eq!(finding.outcome, AuditOutcome::Passed, "{finding:?}");
    assert_eq!(finding.measured, Some(0.0));
    // Both say to be of one class.
    assert_eq!(finding.allowed, Some(1e-3));
    let node = asked.worker.node;
    assert_eq!(finding.decided_by(), Some(node));
    assert_eq!(story.audits_of_stranger().await, (1, 0));
    let operator = story.server.operator();
    let lines = operator.ledger_lines(run, 0).await.unwrap();
    let lines = String::from_utf8(lines).unwrap();
    assert!(lines.contains(&format!("\"by\":{node}")), "{lines}");
    let sums = story.check_who_is_credited(&[0]).await;
    // For the same work the same credit, but it is no update.
    let (node, stranger) = (&sums[&node], &sums[&story.stranger.worker.node]);
    assert_eq!(node.tokens, stranger.tokens);
    assert_eq!((node.accepted, node.trained_again), (0, 1));
    assert_eq!((stranger.accepted, stranger.trained_again), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_declines_is_passed_over_and_a_lie_about_a_worker_is_contradicted_by_a_third() {
    let mut story = Story::begin(2).await;
    let progress = story.stranger_sends().await;
    let run = story.run;
    let (first, audit) = story.asked(&[]).await;
    let declined = AuditDeclined {
        reason: "there is too little memory".into(),
    };
    let client = &story.vouched[first].worker.client;
    client
        .decline_audit(run, audit.number, &declined)
        .await
        .unwrap();

    let mut seen = vec![audit.number];
    let (second, audit) = story.asked(&seen).await;
    seen.push(audit.number);
    assert_ne!(first, second, "another node is asked");
    let other: Vec<f32> = progress.iter().map(|value| -value).collect();
    let lie = story.again(&audit, &other);
    story.vouched[second]
        .answer(run, audit.number, lie)
        .await
        .unwrap();

    let (third, audit) = story.asked(&seen).await;
    assert_eq!(first, third, "nobody confirms himself");
    let truth = story.again(&audit, &progress);
    story.vouched[third]
        .answer(run, audit.number, truth)
        .await
        .unwrap();

    let finding = story.finding().await;
    assert_eq!(finding.outcome, AuditOutcome::Passed, "{finding:?}");
    let by: Vec<_> = finding.reruns.iter().map(|rerun| rerun.by).collect();
    let node = |place: usize| Some(story.vouched[place].worker.node);
    assert_eq!(by, [node(second), node(third)]);
    assert!(!finding.reruns[0].agrees() && finding.reruns[1].agrees());
    assert!(finding.reruns[0].refuted && !finding.reruns[1].refuted);
    story.check_who_is_credited(&[third]).await;
    let operator = story.server.operator();
    for listening in story.vouched.iter().chain([&story.stranger]) {
        let view = operator.node_view(listening.worker.node).await.unwrap();
        assert_eq!((view.audits_failed, &*view.state), (0, "active"));
    }
    let metrics = story.server.metrics().await;
    assert!(
        metrics.contains("opengpu_audits_contradicted_total 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_find_a_lie_are_credited_and_the_liar_is_not() {
    let mut story = Story::begin(2).await;
    let claimed = story.stranger_sends().await;
    let truth: Vec<f32> = claimed.iter().map(|value| -value).collect();
    let (run, mut seen, mut places) = (story.run, Vec::new(), Vec::new());
    for _ in 0..2 {
        let (place, audit) = story.asked(&seen).await;
        let answer = story.again(&audit, &truth);
        let node = &story.vouched[place];
        node.answer(run, audit.number, answer).await.unwrap();
        seen.push(audit.number);
        places.push(place);
    }
    let finding = story.finding().await;
    assert_eq!(finding.outcome, AuditOutcome::Failed, "{finding:?}");
    assert!(finding.reruns.iter().all(|rerun| !rerun.refuted));
    let sums = story.check_who_is_credited(&places).await;
    let stranger = &sums[&story.stranger.worker.node];
    assert_eq!((stranger.tokens, stranger.corrections), (0, 1));
    // It is the update's credit that an operator can give back, and nobody else's.
    let liar = story.stranger.worker.node;
    let operator = story.server.operator();
    let review = ReviewRequest {
        change: None,
        reverse: true,
        note: "two friends of each other".into(),
    };
    operator.review(liar, &review).await.unwrap();
    let after = story.check_who_is_credited(&places).await;
    assert!(after[&liar].tokens > 0);
    for listening in &story.vouched {
        let node = listening.worker.node;
        assert_eq!(after[&node], sums[&node]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_an_older_revision_is_made_can_be_asked_for() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 4, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    worker
        .work_until(run, |view| view.revision.number == 3)
        .await;
    let revision = |number| Revision { lineage: 0, number };
    let all = worker.client.history(run, revision(0)).await.unwrap();
    for number in 0..=3 {
        let way = worker
            .client
            .history_to(run, revision(number))
            .await
            .unwrap();
        assert!(way.checkpoint.revision.number <= number);
        let end = way.checkpoint.revision.number + way.merges.len() as u64;
        assert_eq!(end, number);
        let known = all
            .merges
            .iter()
            .find(|merge| merge.revision.number == number);
        if let Some(known) = known {
            assert_eq!(way.digest(), known.digest);
        }
    }
    let beyond = worker.client.history_to(run, revision(99)).await;
    assert_eq!(code(beyond), "no_such_revision");
}
