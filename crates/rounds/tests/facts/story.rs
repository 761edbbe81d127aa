//! A run told step by step: arrange, act, look. After every act the story checks what must
//! always hold, so that each test also tests that.

use std::collections::BTreeMap;

use opengpu_rounds::{
    AssignmentId, AuditOutcome, AuditRules, Commitment, Decision, Event, EventKind, FeedbackId,
    Finding, Fleet, Hash, Input, NodeId, Outcome, PendingUpdate, Phase, Regard, Revision,
    RoundSettings, Run, WorkerId, WorkerSight,
};

pub const TOKENS_PER_BLOCK: u64 = 100;

pub struct Story {
    pub run: Run,
    pub log: Vec<Event>,
    pub now_ms: u64,
    pub fleet: Fleet,
    pub feedback: BTreeMap<WorkerId, FeedbackId>,
    /// What the last act answered.
    pub reason: String,
}

/// Three workers wanted, rounds of ten seconds, two late rounds allowed.
pub fn settings() -> RoundSettings {
    RoundSettings {
        rounds: 100,
        total_tokens: 0,
        blocks_per_epoch: 1000,
        min_workers: 3,
        max_workers: 8,
        quorum: 2,
        duration_ms: 10_000,
        grace_ms: 4_000,
        forming_ms: 2_000,
        max_blocks: 50,
        stretch: 1.0,
        staleness_rounds: 2,
        silence_ms: 5_000,
        audit: AuditRules::default(),
        rollback_above: 0.0,
        weighing: 0,
    }
}

pub fn revision(lineage: u32, number: u64) -> Revision {
    Revision { lineage, number }
}

pub fn hash(of: impl std::fmt::Display) -> Hash {
    Hash::of(of.to_string().as_bytes())
}

impl Story {
    /// Created, not started, nobody there.
    pub fn new(settings: RoundSettings) -> Self {
        let created = Run::create(settings, 0);
        let mut story = Self {
            run: Run::from_events([&created]),
            log: vec![created],
            now_ms: 0,
            fleet: Fleet::new(),
            feedback: BTreeMap::new(),
            reason: String::new(),
        };
        let weights = hash("0.0");
        story.checkpoint_as(revision(0, 0), weights).unwrap();
        story
    }

    /// Started, with workers 1 to `workers` ready, one block a second each.
    pub fn started(settings: RoundSettings, workers: u64) -> Self {
        let mut story = Self::new(settings);
        for worker in 1..=workers {
            story.join(worker).unwrap();
            story.see(worker, 1.0);
        }
        story.act(Input::Start).unwrap();
        story
    }

    /// In round 0, with all of `workers` assigned.
    pub fn training(settings: RoundSettings, workers: u64) -> Self {
        let mut story = Self::started(settings, workers);
        story.form();
        story
    }

    /// The next round opens.
    pub fn form(&mut self) {
        self.pass(self.run.settings().forming_ms);
        assert_eq!(self.run.phase(), Phase::Training, "{}", self.explanation());
    }

    pub fn act(&mut self, input: Input) -> Result<(), &'static str> {
        let decision = self.run.decide(self.now_ms, &input, &self.fleet);
        self.accept(decision)
    }

    fn accept(&mut self, decision: Decision) -> Result<(), &'static str> {
        for event in &decision.events {
            self.run.fold(event);
        }
        self.log.extend(decision.events);
        assert!(!decision.reason.is_empty(), "every decision has a reason");
        self.reason = decision.reason;
        assert_eq!(self.run.inconsistency(), None);
        let again = self.run.decide(self.now_ms, &Input::Tick, &self.fleet);
        assert_eq!(again.events, vec![], "a second look decides nothing");
        let wake = self.run.next_wake_ms(self.now_ms, &self.fleet);
        assert!(wake.is_none_or(|wake| wake > self.now_ms), "it would spin");
        match decision.refusal {
            Some(refusal) => {
                assert!(!refusal.message.is_empty());
                Err(refusal.code)
            }
            None => Ok(()),
        }
    }

    /// Time passes; nobody is heard of, the run is looked at when it asks to be.
    pub fn silence(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(wake) = self.run.next_wake_ms(self.now_ms, &self.fleet)
            && wake <= until
        {
            self.now_ms = wake;
            self.act(Input::Tick).unwrap();
        }
        self.now_ms = until;
        self.act(Input::Tick).unwrap();
    }

    /// Time passes; everyone in sight reports all along.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms = (self.now_ms + 1000).min(until);
            for sight in self.fleet.values_mut() {
                sight.last_heard_ms = self.now_ms;
            }
            self.act(Input::Tick).unwrap();
        }
    }

    pub fn join(&mut self, worker: u64) -> Result<(), &'static str> {
        let feedback = FeedbackId(worker * 1000);
        self.join_with(worker, worker + 10, feedback.0)
    }

    pub fn join_with(&mut self, worker: u64, node: u64, feedback: u64) -> Result<(), &'static str> {
        let (worker, feedback) = (WorkerId(worker), FeedbackId(feedback));
        let node = NodeId(node);
        self.act(Input::Join {
            worker,
            node,
            feedback,
        })?;
        self.feedback.insert(worker, feedback);
        Ok(())
    }

    /// A worker reports: it holds the newest weights.
    pub fn see(&mut self, worker: u64, blocks_per_second: f64) {
        let revision = self.run.revision();
        self.see_with(worker, blocks_per_second, Some(revision));
    }

    pub fn see_with(&mut self, worker: u64, speed: f64, revision: Option<Revision>) {
        let sight = WorkerSight {
            revision,
            blocks_per_second: speed,
            last_heard_ms: self.now_ms,
            draining: false,
            trusted: true,
            reputation: 1.0,
        };
        self.fleet.insert(WorkerId(worker), sight);
        self.act(Input::Tick).unwrap();
    }

    /// Everyone in sight has fetched the newest weights.
    pub fn all_fetch(&mut self) {
        let revision = self.run.revision();
        for sight in self.fleet.values_mut() {
            sight.revision = Some(revision);
            sight.last_heard_ms = self.now_ms;
        }
        self.act(Input::Tick).unwrap();
    }

    pub fn assignment(&self, worker: u64) -> Option<AssignmentId> {
        Some(self.run.assignment_of(WorkerId(worker))?.0)
    }

    /// The blocks of a worker's assignment, as (start, end).
    pub fn blocks(&self, worker: u64) -> Vec<(u64, u64)> {
        let lease = self
            .run
            .assignment_of(WorkerId(worker))
            .map(|(_, lease)| lease.blocks());
        lease
            .unwrap_or_default()
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    /// The update for a worker's assignment, all its blocks done.
    pub fn update_of(&self, worker: u64) -> Input {
        let (assignment, lease) = self.run.assignment_of(WorkerId(worker)).expect("has one");
        Input::Update {
            assignment,
            worker: WorkerId(worker),
            base: lease.base,
            blocks_completed: lease.block_count(),
            payload: hash(format!("payload {assignment}")),
            payload_bytes: 10,
            tokens_per_block: TOKENS_PER_BLOCK,
            feedback: self.feedback[&WorkerId(worker)],
            commitment: self.commitment_of(worker),
            draw: u64::MAX,
        }
    }

    /// What an honest worker commits itself to.
    fn commitment_of(&self, worker: u64) -> Option<Commitment> {
        let worker = WorkerId(worker);
        let (assignment, _) = self.run.assignment_of(worker)?;
        let mut owners = BTreeMap::new();
        let mut previous = None;
        for event in &self.log {
            match &event.kind {
                EventKind::Assigned {
                    assignment, worker, ..
                } => drop(owners.insert(*assignment, *worker)),
                EventKind::WorkerJoined { worker: who, .. }
                | EventKind::FeedbackReset { worker: who, .. }
                    if *who == worker =>
                {
                    previous = None;
                }
                EventKind::UpdateAccepted { assignment, .. }
                    if owners.get(assignment) == Some(&worker) =>
                {
                    previous = Some(*assignment);
                }
                _ => {}
            }
        }
        let rules = self.run.settings().audit;
        rules.enabled.then(|| Commitment {
            root: hash(format!("root {assignment}")),
            previous,
            taken_back: Vec::new(),
        })
    }

    /// A worker sends its whole update; answers with its name.
    pub fn update(&mut self, worker: u64) -> AssignmentId {
        let input = self.update_of(worker);
        let assignment = self.assignment(worker).unwrap();
        self.act(input).unwrap();
        assignment
    }

    /// A worker opens the chunks that were drawn of its update.
    pub fn open(&mut self, assignment: AssignmentId, worker: u64) -> Result<(), &'static str> {
        self.act(Input::Opened {
            assignment,
            worker: WorkerId(worker),
            openings: hash(format!("openings {assignment}")),
        })
    }

    /// An audit ends.
    pub fn audited(
        &mut self,
        assignment: AssignmentId,
        outcome: AuditOutcome,
    ) -> Result<(), &'static str> {
        self.act(Input::Audited {
            assignment,
            finding: Finding {
                outcome,
                code: "progress_differs".into(),
                reason: "its progress is not what training gives".into(),
                measured: Some(0.5),
                allowed: Some(0.1),
                reruns: Vec::new(),
            },
        })
    }

    /// The pending merge is computed.
    pub fn merge(&mut self) -> Revision {
        self.merge_with(1.0)
    }

    /// The same, every update clipped by this factor.
    pub fn merge_with(&mut self, factor: f32) -> Revision {
        self.merge_counting(factor, &[])
    }

    /// The same, in which the first updates counted so much of their weight and the others all.
    pub fn merge_counting(&mut self, factor: f32, counted: &[f32]) -> Revision {
        let pending = self.run.pending_merge().expect("a merge is pending");
        let number = self.run.revision().number + 1;
        let digest = hash(revision(self.run.revision().lineage, number));
        let regard = |(index, update): (usize, &PendingUpdate)| Regard {
            counted: counted.get(index).copied().unwrap_or(1.0),
            agreement: Some(0.5),
            record: Some(0.25 + 0.5 * update.record.unwrap_or(0.5)),
            needed: Some(0.25),
            twin: None,
        };
        let regards = pending.updates.iter().enumerate().map(regard).collect();
        self.act(Input::MergeDone {
            round: pending.round,
            merge: hash(format!("merge {number}")),
            merge_bytes: 7,
            digest,
            factors: vec![factor; pending.updates.len()],
            regards,
        })
        .unwrap();
        self.run.revision()
    }

    /// Workers 1 to `workers` send, the round is merged, everyone fetches the result.
    pub fn whole_round(&mut self, workers: u64) -> Revision {
        for worker in 1..=workers {
            self.update(worker);
        }
        let made = self.merge();
        self.all_fetch();
        made
    }

    pub fn checkpoint(&mut self) {
        let weights = self.run.digest().unwrap();
        self.checkpoint_as(self.run.revision(), weights).unwrap();
    }

    pub fn checkpoint_as(&mut self, revision: Revision, weights: Hash) -> Result<(), &'static str> {
        let outer_state = hash(format!("outer {revision}"));
        self.act(Input::CheckpointDone {
            revision,
            weights,
            outer_state,
        })
    }

    pub fn roll_back(&mut self, to: Revision) -> Result<(), &'static str> {
        self.act(Input::RollBack {
            to,
            reason: "the loss went up".into(),
        })
    }

    pub fn outcome(&self, assignment: AssignmentId) -> Option<Outcome> {
        Some(self.run.verdict(assignment)?.1.outcome.clone())
    }

    pub fn explanation(&self) -> String {
        self.run.explanation(self.now_ms, &self.fleet)
    }

    /// How many events of a kind the log has.
    pub fn count(&self, kind: impl Fn(&EventKind) -> bool) -> usize {
        self.log.iter().filter(|event| kind(&event.kind)).count()
    }

    /// The reason of the newest closed or abandoned round.
    pub fn round_reason(&self) -> String {
        let ended = self
            .run
            .rounds()
            .rev()
            .find(|round| round.closed_ms.is_some());
        ended.map(|round| round.reason.clone()).unwrap_or_default()
    }
}
