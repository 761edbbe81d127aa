//! Audits that nodes are asked to make: what is in their plans, until they answer. In memory
//! alone: after a restart the state still has the audits, and somebody is asked again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use opengpu_merge::audit::Again;
use opengpu_protocol::audits::AuditPlan;
use opengpu_rounds::{NodeId, WorkerId};
use tokio::sync::oneshot;

/// Numbers of audits are below this: every reader of JSON has them exactly.
const NUMBERS: u64 = 1 << 53;

/// What a node answers.
#[derive(Debug)]
pub enum Answer {
    /// What training again gave.
    Again(Again),
    /// Why it can't.
    Declined(String),
}

/// The audits of one run that its workers are asked for.
#[derive(Debug, Default)]
pub struct Asked(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of each worker, the one that it is to make first.
    of: BTreeMap<WorkerId, VecDeque<Ask>>,
    /// Nodes that were contradicted by a third training: they are not asked any more.
    contradicted: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Ask {
    plan: AuditPlan,
    reply: oneshot::Sender<Answer>,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a worker, after what it was asked for before. Its number names the audit; the answer
    /// comes by the channel.
    pub fn ask(&self, worker: WorkerId, plan: AuditPlan) -> (u64, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        // Not to be guessed, and not that of an audit before a restart.
        let number = rand::random::<u64>() % NUMBERS;
        let plan = AuditPlan { number, ..plan };
        let mut inner = self.lock();
        let of_worker = inner.of.entry(worker).or_default();
        of_worker.push_back(Ask { plan, reply });
        (number, answer)
    }

    /// What a worker is to make now.
    pub fn plan_of(&self, worker: WorkerId) -> Option<AuditPlan> {
        let inner = self.lock();
        let first = inner.of.get(&worker)?.front()?;
        Some(first.plan.clone())
    }

    /// Audits that each worker is asked for; none that is asked for none.
    pub fn counts(&self) -> BTreeMap<WorkerId, usize> {
        let inner = self.lock();
        let counts = inner.of.iter();
        counts.map(|(worker, asks)| (*worker, asks.len())).collect()
    }

    /// Who is asked for this audit, and for which chunks.
    pub fn find(&self, number: u64) -> Option<(WorkerId, Vec<usize>)> {
        let inner = self.lock();
        inner.of.iter().find_map(|(worker, asks)| {
            let ask = asks.iter().find(|ask| ask.plan.number == number)?;
            let chunks = ask.plan.chunks.iter().map(|chunk| *chunk as usize);
            Some((*worker, chunks.collect()))
        })
    }

    /// Hands an answer over. Whether anybody still waited for it.
    pub fn answer(&self, number: u64, answer: Answer) -> bool {
        let ask = self.lock().take(number);
        ask.is_some_and(|ask| ask.reply.send(answer).is_ok())
    }

    /// Nobody waits for this one any more.
    pub fn forget(&self, number: u64) {
        self.lock().take(number);
    }

    /// Asks a node no more.
    pub fn contradict(&self, node: NodeId) {
        self.lock().contradicted.insert(node);
    }

    /// Whether a node was contradicted.
    pub fn is_contradicted(&self, node: NodeId) -> bool {
        self.lock().contradicted.contains(&node)
    }
}

impl Inner {
    fn take(&mut self, number: u64) -> Option<Ask> {
        let mut taken = None;
        self.of.retain(|_, asks| {
            let place = asks.iter().position(|ask| ask.plan.number == number);
            if let Some(place) = place {
                taken = asks.remove(place);
            }
            !asks.is_empty()
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_rounds::{Hash, Revision};

    use super::*;

    fn plan(chunk: u32) -> AuditPlan {
        AuditPlan {
            number: 0,
            base: Revision {
                lineage: 0,
                number: 3,
            },
            digest: Hash([7; 32]),
            blocks: Vec::new(),
            blocks_completed: 1,
            progress_from: 0.0,
            progress_to: 0.1,
            chunks: vec![chunk],
        }
    }

    #[tokio::test]
    async fn a_worker_makes_one_audit_after_the_other_and_each_is_answered_once() {
        let asked = Asked::default();
        let worker = WorkerId(4);
        let (first, answer) = asked.ask(worker, plan(5));
        let (second, _waiting) = asked.ask(worker, plan(6));
        assert_ne!(first, second);
        assert_eq!(asked.plan_of(worker).unwrap().number, first);
        assert_eq!(asked.find(second), Some((worker, vec![6])));
        assert_eq!(asked.counts(), BTreeMap::from([(worker, 2)]));
        assert!(asked.answer(first, Answer::Declined("no memory".into())));
        assert!(!asked.answer(first, Answer::Declined("no memory".into())));
        assert!(matches!(answer.await.unwrap(), Answer::Declined(_)));
        assert_eq!(asked.plan_of(worker).unwrap().number, second);
        asked.forget(second);
        assert_eq!(asked.plan_of(worker), None);
        assert!(asked.find(second).is_none() && asked.counts().is_empty());
    }

    #[test]
    fn an_answer_that_nobody_waits_for_any_more_counts_for_nothing() {
        let asked = Asked::default();
        let (number, answer) = asked.ask(WorkerId(4), plan(5));
        drop(answer);
        assert!(!asked.answer(number, Answer::Declined("late".into())));
    }
}
