//! One audit from its openings to its finding: the proof, then one training again, and two more
//! opinions at most before anybody is accused.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use opengpu_merge::audit::{Again, Opened, WrongOpening};
use opengpu_protocol::audits::AuditPlan;
use opengpu_rounds::{
    AssignmentId, Audit, Belief, Choice, Finding, Involved, NodeId, Rerun, WorkerId, believe,
    choose_auditor,
};

use super::asked::Answer;
use super::candidates::{candidates, whose};
use super::proof::{drawn, prove};
use crate::Coordinator;
use crate::driver::LiveRun;
use crate::metrics::ByLabel;

/// Nodes that are tried before the coordinator's own trainer.
const NODES: usize = 2;
/// How often it is looked whether a node has time, and whether the audit is still wanted.
const LOOK: Duration = Duration::from_millis(500);

/// An audit that is being made.
pub(super) struct Case {
    pub(super) coordinator: Coordinator,
    pub(super) run: Arc<LiveRun>,
    pub(super) assignment: AssignmentId,
    pub(super) audit: Audit,
}

/// One training again, and how the worker's claim compares with it.
struct Training {
    again: Again,
    rerun: Rerun,
    /// More is unsent than that progress allows.
    wrong: Option<WrongOpening>,
}

impl Training {
    fn agrees(&self) -> bool {
        self.rerun.agrees()
    }

    /// The worker's claim is the same.
    fn passed(&self, reruns: Vec<Rerun>) -> Finding {
        let measured = self.rerun.measured.unwrap_or(f64::INFINITY);
        Finding::passed(measured, self.rerun.allowed).by(reruns)
    }

    /// It is not.
    fn failed(&self, reruns: Vec<Rerun>) -> Finding {
        if let Some(wrong) = &self.wrong {
            return Finding::failed("not_proven", wrong.to_string(), None).by(reruns);
        }
        let allowed = self.rerun.allowed;
        let numbers = self.rerun.measured.map(|measured| (measured, allowed));
        let measured = self.rerun.measured.unwrap_or(f64::INFINITY);
        let reason = format!(
            "its progress differs from what training its assignment again gives: by {measured:.3} of its length, {allowed} is allowed; trained again by {}",
            in_words(&reruns)
        );
        Finding::failed("progress_differs", reason, numbers).by(reruns)
    }
}

/// Who trained it again.
fn in_words(reruns: &[Rerun]) -> String {
    let names = reruns.iter().map(|rerun| match rerun.by {
        Some(node) => format!("node {node}"),
        None => "the coordinator".to_owned(),
    });
    let names: Vec<_> = names.collect();
    names.join(", ")
}

impl Case {
    /// What comes of it.
    pub(super) async fn find(&self) -> anyhow::Result<Finding> {
        let audits = self.coordinator.audits();
        let proved = {
            let _turn = audits.proofs.acquire().await?;
            prove(&audits.blobs, &self.run, &self.audit).await?
        };
        let opened = match proved {
            Ok(opened) => opened,
            Err(wrong) => return Ok(Finding::failed("not_proven", wrong.to_string(), None)),
        };
        let first = self.first(&opened).await?;
        match first.rerun.by {
            None => self.decided_here(&opened, Vec::new(), Some(first)).await,
            Some(_) if first.agrees() => {
                let rerun = first.rerun;
                Ok(first.passed(vec![rerun]))
            }
            Some(node) => self.settle(&opened, node, first).await,
        }
    }

    /// A node contradicts the worker: somebody else trains it a third time, and two of three
    /// are believed.
    async fn settle(
        &self,
        opened: &[Opened],
        node: NodeId,
        first: Training,
    ) -> anyhow::Result<Finding> {
        let third = self.third(opened, node).await?;
        let same = self.are_same(&first, &third);
        let belief = believe(third.agrees(), same);
        let (run, assignment) = (self.run.id, self.assignment);
        let one = Rerun {
            refuted: !same,
            ..first.rerun
        };
        let reruns = vec![one, third.rerun];
        match belief {
            Belief::Auditor => Ok(third.failed(reruns)),
            Belief::Worker => {
                self.contradict(node, &third);
                Ok(third.passed(reruns))
            }
            Belief::Both => {
                tracing::warn!(
                    %run, %assignment, worker = %self.audit.worker, %node, measured = first.rerun.measured,
                    allowed = first.rerun.allowed,
                    "a worker and the node that trained its assignment again differ, and a third can't tell them apart; the worker is believed"
                );
                Ok(third.passed(reruns))
            }
            Belief::Nobody => {
                tracing::warn!(%run, %assignment, %node, "three trainings of an assignment differ; the coordinator's own trainer decides");
                let (before, here) = match third.rerun.by {
                    None => (vec![first], Some(third)),
                    Some(_) => (vec![first, third], None),
                };
                self.decided_here(opened, before, here).await
            }
        }
    }

    /// The coordinator's own trainer decides, and trains twice before it accuses.
    async fn decided_here(
        &self,
        opened: &[Opened],
        before: Vec<Training>,
        done: Option<Training>,
    ) -> anyhow::Result<Finding> {
        let mut here = match done {
            Some(done) => done,
            None => self.here(opened).await?,
        };
        let mut made_here = vec![here.rerun];
        // One flipped bit in this machine's memory must not accuse anybody.
        if !here.agrees() {
            here = self.here(opened).await?;
            made_here.push(here.rerun);
        }
        let beside = |training: &Training| Rerun {
            refuted: !self.are_same(training, &here),
            ..training.rerun
        };
        let reruns = before.iter().map(beside).chain(made_here).collect();
        Ok(match here.agrees() {
            true => here.passed(reruns),
            false => here.failed(reruns),
        })
    }

    /// The node's training was contradicted by a third: it is asked no more.
    fn contradict(&self, node: NodeId, third: &Training) {
        self.run.asked().contradict(node);
        self.coordinator.metrics().audits_contradicted.inc();
        tracing::warn!(
            run = %self.run.id, assignment = %self.assignment, %node, third = in_words(&[third.rerun]),
            "a node that was asked to train an assignment again got something else than its worker and a third; it is asked for no more audits of this run. `opengpu node distrust` if it happens again"
        );
    }

    /// By a node, if there is one; else here.
    async fn first(&self, opened: &[Opened]) -> anyhow::Result<Training> {
        let Some(whose) = self.whose() else {
            return self.here(opened).await;
        };
        let mut involved = vec![whose];
        let mut waited = Duration::ZERO;
        while involved.len() <= NODES {
            match self.choose(&involved, false) {
                Choice::Ask(worker, node) => match self.ask(worker, node).await? {
                    Some(again) => {
                        return Ok(self.compare(opened, Some((node, worker)), again));
                    }
                    None => involved.push(self.involved(node)),
                },
                Choice::Wait if waited < self.patience() => {
                    tokio::time::sleep(LOOK).await;
                    self.check_wanted()?;
                    waited += LOOK;
                }
                Choice::Wait | Choice::Nobody => break,
            }
        }
        self.here(opened).await
    }

    /// By a node of another account, if there is one of the worker's numerics class: only that can
    /// tell a small difference. Else here.
    async fn third(&self, opened: &[Opened], node: NodeId) -> anyhow::Result<Training> {
        if let Some(whose) = self.whose()
            && let Choice::Ask(worker, other) = self.choose(&[whose, self.involved(node)], true)
            && let Some(again) = self.ask(worker, other).await?
        {
            return Ok(self.compare(opened, Some((other, worker)), again));
        }
        self.here(opened).await
    }

    /// By the coordinator's own trainer, in turn.
    async fn here(&self, opened: &[Opened]) -> anyhow::Result<Training> {
        let audits = self.coordinator.audits();
        let mut own = audits.own.lock().await;
        self.check_wanted()?;
        let again = own.train(&self.run, &self.audit).await?;
        drop(own);
        self.count("coordinator");
        Ok(self.compare(opened, None, again))
    }

    fn choose(&self, involved: &[Involved], same_class: bool) -> Choice {
        let now_ms = self.coordinator.clock().now_ms();
        let memory = self.coordinator.fleet().lock();
        let mut all = candidates(&self.run, &memory, &self.audit, now_ms);
        all.retain(|candidate| candidate.same_class || !same_class);
        choose_auditor(involved, &all, self.audit.draw)
    }

    fn whose(&self) -> Option<Involved> {
        let memory = self.coordinator.fleet().lock();
        whose(&self.run, &memory, &self.audit)
    }

    fn involved(&self, node: NodeId) -> Involved {
        let memory = self.coordinator.fleet().lock();
        let known = memory.nodes.get(&node);
        let account = known.and_then(|known| known.account.as_ref());
        Involved {
            node,
            account: account.map(|account| account.id),
        }
    }

    /// Asks a node and waits for its answer. None: there was none in time, or it declined.
    async fn ask(&self, worker: WorkerId, node: NodeId) -> anyhow::Result<Option<Again>> {
        let plan = self.plan()?;
        let (number, mut answer) = self.run.asked().ask(worker, plan);
        self.coordinator.plans_changed();
        let _asked = Pending { case: self, number };
        let (run, assignment) = (self.run.id, self.assignment);
        tracing::info!(%run, %assignment, %worker, %node, number, "asked a node to train an assignment again");
        let mut waited = Duration::ZERO;
        loop {
            match tokio::time::timeout(LOOK, &mut answer).await {
                Ok(Ok(Answer::Again(again))) => {
                    self.count("node");
                    return Ok(Some(again));
                }
                Ok(Ok(Answer::Declined(reason))) => {
                    tracing::info!(%run, %assignment, %node, number, reason, "a node declined an audit");
                    return Ok(None);
                }
                Ok(Err(_)) => return Ok(None),
                Err(_) if waited >= self.patience() => {
                    tracing::info!(%run, %assignment, %node, number, "a node did not answer an audit in time");
                    return Ok(None);
                }
                Err(_) => {
                    self.check_wanted()?;
                    waited += LOOK;
                }
            }
        }
    }

    /// What a node is told.
    fn plan(&self) -> anyhow::Result<AuditPlan> {
        let audit = &self.audit;
        let digest = self.run.digest_of(audit.base);
        let digest = digest.with_context(|| {
            format!(
                "the digest of revision {} is not known any more",
                audit.base
            )
        })?;
        let span = self.run.state().span_of_audited(audit);
        let chunks = drawn(&self.run, audit);
        Ok(AuditPlan {
            number: 0,
            base: audit.base,
            digest,
            blocks: audit.blocks.clone(),
            blocks_completed: audit.blocks_completed,
            progress_from: span.from,
            progress_to: span.to,
            chunks: chunks.into_iter().map(|chunk| chunk as u32).collect(),
        })
    }

    /// How the worker's claim compares with this training.
    fn compare(&self, opened: &[Opened], by: Option<(NodeId, WorkerId)>, again: Again) -> Training {
        let class = self.run.class_of(self.assignment);
        let allowed = self.allowed(&class, again.class());
        let decay = self.run.spec.sync.feedback_decay;
        let wrong = again.check_unsent(decay, opened).err();
        let measured = match wrong {
            Some(_) => f64::INFINITY,
            None => again.farthest(opened),
        };
        Training {
            rerun: Rerun::new(by, measured, allowed),
            again,
            wrong,
        }
    }

    /// Whether two trainings came to the same.
    fn are_same(&self, one: &Training, other: &Training) -> bool {
        let allowed = self.allowed(one.again.class(), other.again.class());
        other.again.far_from(&one.again) <= allowed
    }

    fn allowed(&self, one: &str, other: &str) -> f64 {
        let blocks = self.audit.blocks_completed;
        self.run.spec.audit_tolerance_between(one, other, blocks)
    }

    /// How long a node has: its round may have just begun, and the audit takes about another.
    fn patience(&self) -> Duration {
        let round = &self.run.spec.round;
        let rounds = 2 * round.duration_ms.saturating_add(round.grace_ms);
        Duration::from_millis(rounds.saturating_add(round.silence_ms))
    }

    fn check_wanted(&self) -> anyhow::Result<()> {
        match self.run.state().audit(self.assignment) {
            Some(_) => Ok(()),
            None => bail!("the audit is not wanted any more"),
        }
    }

    fn count(&self, by: &str) {
        let trainings = &self.coordinator.metrics().audit_trainings;
        let by = by.to_owned();
        trainings.get_or_create(&ByLabel { by }).inc();
    }
}

/// What a node is asked for, until it answered or nobody waits for it.
struct Pending<'a> {
    case: &'a Case,
    number: u64,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.case.run.asked().forget(self.number);
        self.case.coordinator.plans_changed();
    }
}
