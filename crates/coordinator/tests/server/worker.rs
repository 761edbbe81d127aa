//! A worker of the tests: everything an agent does but training; its progress is made up.

use std::time::Duration;

use bytes::Bytes;
use opengpu_merge::Layout;
use opengpu_protocol::wire::{
    Activity, AssignmentPlan, Outcome, Report, RunPlan, RunView, UpdateNotice,
};
use opengpu_protocol::{Client, SigningKey};
use opengpu_rounds::{AssignmentId, FeedbackId, Hash, NodeId, Revision, RunId, WorkerId};

use super::support::{Server, hash_of_bytes, key, offer};

pub struct Worker {
    pub node: NodeId,
    pub client: Client,
    pub worker: WorkerId,
    pub key: SigningKey,
    pub feedback: FeedbackId,
    pub held: Option<Weights>,
    pub sent: Vec<AssignmentId>,
}

pub struct Weights {
    pub run: RunId,
    pub revision: Revision,
    pub values: Vec<f32>,
    pub layout: Layout,
}

impl Worker {
    pub async fn join(server: &Server, seed: u8) -> Self {
        let key = key(seed);
        let (node, client) = server.enrol(&key, &format!("machine {seed}")).await;
        let worker = client.offer(0, &offer()).await.unwrap().worker;
        Self {
            node,
            client,
            worker,
            key,
            feedback: FeedbackId(1000 + u64::from(seed)),
            held: None,
            sent: Vec::new(),
        }
    }

    /// The same worker at a server that was started again.
    pub fn at(&mut self, server: &Server) {
        self.client = Client::node(&server.url, self.key.clone(), self.node).unwrap();
    }

    /// Works until the run is in this phase, and the weights are the newest.
    pub async fn work_until(&mut self, run: RunId, done: impl Fn(&RunView) -> bool) {
        let started = std::time::Instant::now();
        let mut directives = self
            .client
            .directives(Duration::from_secs(20))
            .await
            .unwrap();
        loop {
            let plan = directives
                .next()
                .await
                .unwrap()
                .expect("the stream goes on");
            assert_eq!(plan.node, self.node);
            let mine = plan
                .workers
                .into_iter()
                .find(|plan| plan.worker == self.worker);
            if let Some(plan) = mine.and_then(|plan| plan.run) {
                self.follow(&plan).await;
            }
            let view = self.client.run(run).await.unwrap();
            let newest = self
                .held
                .as_ref()
                .is_some_and(|held| held.revision == view.revision);
            if done(&view) && newest {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "{} {}",
                view.phase,
                view.explanation
            );
        }
    }

    /// Gets ready for work and waits until it is given some, which it does not begin.
    pub async fn wait_for_assignment(&mut self) -> AssignmentPlan {
        let mut directives = self
            .client
            .directives(Duration::from_secs(20))
            .await
            .unwrap();
        loop {
            let plan = directives.next().await.unwrap().expect("it goes on");
            let mine = plan.workers.into_iter().find_map(|plan| plan.run);
            let Some(plan) = mine else { continue };
            if let Some(assignment) = plan.assignment {
                return assignment;
            }
            self.sync(plan.run, plan.revision, plan.digest).await;
            self.report(plan.run, Activity::Idle).await;
        }
    }

    /// Does what a plan says, once.
    pub async fn follow(&mut self, plan: &RunPlan) {
        self.sync(plan.run, plan.revision, plan.digest).await;
        self.report(plan.run, Activity::Idle).await;
        if let Some(assignment) = &plan.assignment
            && !self.sent.contains(&assignment.assignment)
            && self
                .held
                .as_ref()
                .is_some_and(|held| held.revision == assignment.base)
        {
            let blocks = assignment
                .blocks
                .iter()
                .map(|range| range.end - range.start)
                .sum();
            let notice = self
                .update(plan.run, assignment.assignment, assignment.base, blocks)
                .await;
            self.client.post_update(plan.run, &notice).await.unwrap();
            self.sent.push(assignment.assignment);
        }
    }

    /// Brings the weights to this revision by history and merges.
    pub async fn sync(&mut self, run: RunId, revision: Revision, digest: Hash) {
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.run == run && held.revision == revision)
        {
            return;
        }
        let limit = 1 << 30;
        let from = self
            .held
            .as_ref()
            .filter(|held| held.run == run)
            .map(|held| held.revision);
        let history = self
            .client
            .history(
                run,
                from.unwrap_or(Revision {
                    lineage: 0,
                    number: u64::MAX >> 12,
                }),
            )
            .await
            .unwrap();
        let follows = from.is_some_and(|from| {
            history.merges.first().is_some_and(|merge| {
                merge.revision.number == from.number + 1 && merge.revision.lineage == from.lineage
            })
        });
        if !follows {
            let bytes = self
                .client
                .blob(history.checkpoint.weights, limit)
                .await
                .unwrap();
            let view = self.client.run(run).await.unwrap();
            let model = view.spec.model.unwrap();
            let values = bytes
                .chunks_exact(4)
                .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
                .collect();
            self.held = Some(Weights {
                run,
                revision: history.checkpoint.revision,
                values,
                layout: Layout::new(model.tensors().iter().map(|tensor| tensor.len())),
            });
        }
        let held = self.held.as_mut().unwrap();
        for merge in &history.merges {
            if merge.revision.number <= held.revision.number {
                continue;
            }
            let bytes = self.client.blob(merge.merge, limit).await.unwrap();
            opengpu_merge::subtract(&held.layout, &bytes, &mut held.values).unwrap();
            held.revision = merge.revision;
            assert_eq!(hash_of_bytes(&held.values), merge.digest);
        }
        if held.revision == revision {
            assert_eq!(hash_of_bytes(&held.values), digest);
        }
    }

    pub async fn report(&self, run: RunId, activity: Activity) -> bool {
        let held = self.held.as_ref().unwrap();
        let report = Report {
            run,
            revision: held.revision,
            digest: hash_of_bytes(&held.values),
            feedback: self.feedback,
            blocks_per_second: 1.0,
            activity,
        };
        self.client
            .report(self.worker, &report)
            .await
            .unwrap()
            .resync
    }

    /// Encodes made-up progress, sends it and says how it is to be announced.
    pub async fn update(
        &self,
        run: RunId,
        assignment: AssignmentId,
        base: Revision,
        blocks: u64,
    ) -> UpdateNotice {
        let held = self.held.as_ref().unwrap();
        let codec = self.client.run(run).await.unwrap().spec.sync.up;
        let mut state = assignment.0 + 77 * self.worker.0 + 1;
        let mut progress: Vec<f32> = (0..held.values.len())
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / 16_777_216.0 - 0.5) * 1e-3
            })
            .collect();
        let payload = opengpu_merge::encode(codec.into(), &held.layout, &mut progress).unwrap();
        let hash = Hash::of(&payload);
        let payload_bytes = payload.len() as u64;
        self.client
            .put_payload(run, hash, Bytes::from(payload))
            .await
            .unwrap();
        UpdateNotice {
            worker: self.worker,
            assignment,
            base,
            blocks_completed: blocks,
            payload: hash,
            payload_bytes,
            feedback: self.feedback,
            loss: 3.5,
            train_seconds: 1.0,
            commitment: None,
            numerics_class: None,
        }
    }

    /// Every update that was sent is in a merge.
    pub async fn all_merged(&self, run: RunId) -> bool {
        for assignment in &self.sent {
            let verdict = self.client.verdict(run, *assignment).await.unwrap();
            if !matches!(verdict.outcome, Outcome::Merged { .. }) {
                return false;
            }
        }
        true
    }
}
