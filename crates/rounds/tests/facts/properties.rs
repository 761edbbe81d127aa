//! Any input in any state: decide never panics, fold gives what decide foresaw, snapshots read
//! back the same, and the next wake is neither missed nor called too early.

use opengpu_rounds::probe::{Flag, Trial};
use opengpu_rounds::{
    AssignmentId, EventKind, FeedbackId, Fleet, Hash, Input, NodeId, Phase, Revision,
    RoundSettings, Run, WorkerId, WorkerSight,
};
use proptest::prelude::*;

/// One step of a made-up history.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes.
    Pass(u64),
    /// A worker is seen: which, how old its weights are (0: newest), speed, draining.
    See(u64, u64, f64, bool),
    /// It is lost from sight.
    Lose(u64),
    /// Input as drawn, mostly nonsense.
    Act(Input),
    /// The newest assignment of a worker is answered, with a part of its blocks.
    Update(u64, u64),
    /// The pending merge is done.
    Merge,
    /// The newest weights are checkpointed.
    Checkpoint,
    /// Back to a kept checkpoint, by index.
    RollBack(usize),
}

fn revision() -> impl Strategy<Value = Revision> {
    (0..3u32, 0..6u64).prop_map(|(lineage, number)| Revision { lineage, number })
}

fn hash() -> impl Strategy<Value = Hash> {
    (0..4u8).prop_map(|byte| Hash::of(&[byte]))
}

fn worker() -> impl Strategy<Value = WorkerId> {
    (0..5u64).prop_map(WorkerId)
}

fn feedback() -> impl Strategy<Value = FeedbackId> {
    (0..12u64).prop_map(FeedbackId)
}

fn input() -> impl Strategy<Value = Input> {
    let reason = || Just("drawn".to_owned());
    prop_oneof![
        2 => Just(Input::Start),
        4 => (worker(), 0..2u64, feedback()).prop_map(|(worker, node, feedback)| Input::Join {
            worker,
            node: NodeId(node + 2 * worker.0),
            feedback,
        }),
        3 => (worker(), feedback())
            .prop_map(|(worker, feedback)| Input::FeedbackReset { worker, feedback }),
        2 => (worker(), reason()).prop_map(|(worker, reason)| Input::Leave { worker, reason }),
        1 => (worker(), reason()).prop_map(|(worker, reason)| Input::Expel { worker, reason }),
        3 => (0..20u64, worker(), revision(), 0..9u64, hash(), feedback()).prop_map(
            |(assignment, worker, base, blocks_completed, payload, feedback)| Input::Update {
                assignment: AssignmentId(assignment),
                worker,
                base,
                blocks_completed,
                payload,
                payload_bytes: 3,
                tokens_per_block: 10,
                feedback,
                commitment: None,
                draw: 0,
            }
        ),
        1 => (0..6u64, hash(), prop::collection::vec(-0.5f32..1.5, 0..4)).prop_map(
            |(round, digest, factors)| Input::MergeDone {
                round,
                merge: digest,
                merge_bytes: 1,
                digest,
                factors,
                regards: Vec::new(),
            }
        ),
        1 => reason().prop_map(|reason| Input::MergeFailed { reason }),
        1 => (revision(), hash(), hash()).prop_map(|(revision, weights, outer_state)| {
            Input::CheckpointDone { revision, weights, outer_state }
        }),
        1 => reason().prop_map(|reason| Input::Pause { reason }),
        3 => Just(Input::Resume),
        1 => (0..40u8).prop_filter_map("rarely", |dice| {
            (dice == 0).then(|| Input::Stop { reason: "drawn".into() })
        }),
        1 => (revision(), reason()).prop_map(|(to, reason)| Input::RollBack { to, reason }),
        2 => (revision(), 0..20u64, worker()).prop_map(|(revision, assignment, worker)| {
            let trial = Trial {
                assignment: AssignmentId(assignment),
                worker,
                flag: Flag::Clipped,
                before: 3.0,
                measured: None,
                allowed: 3.15,
            };
            Input::Probed { revision, trials: vec![trial] }
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..9_000u64).prop_map(Step::Pass),
        8 => (0..5u64, prop_oneof![4 => Just(0u64), 1 => 1..3u64], 0.0..9.0f64, prop::bool::weighted(0.1))
            .prop_map(|(worker, age, speed, draining)| Step::See(worker, age, speed, draining)),
        1 => (0..5u64).prop_map(Step::Lose),
        6 => input().prop_map(Step::Act),
        8 => (0..5u64, 0..5u64).prop_map(|(worker, part)| Step::Update(worker, part)),
        4 => Just(Step::Merge),
        2 => Just(Step::Checkpoint),
        1 => (0..3usize).prop_map(Step::RollBack),
    ]
}

fn rules() -> impl Strategy<Value = RoundSettings> {
    (
        1..4u32,
        1..4u32,
        1..30u64,
        0..3u64,
        (0..3_000u64, 0..3_000u64),
        prop_oneof![Just(0u64), 1..6_000u64],
    )
        .prop_map(
            |(min_workers, quorum, blocks_per_epoch, staleness_rounds, waits, total_tokens)| {
                let (grace_ms, forming_ms) = waits;
                RoundSettings {
                    rounds: 6,
                    total_tokens,
                    blocks_per_epoch,
                    min_workers,
                    max_workers: 4,
                    quorum,
                    duration_ms: 5_000,
                    grace_ms,
                    forming_ms,
                    max_blocks: 8,
                    stretch: 1.0,
                    staleness_rounds,
                    silence_ms: 6_000,
                    audit: opengpu_rounds::AuditRules::default(),
                    rollback_above: 0.0,
                    weighing: 0,
                }
            },
        )
}

struct History {
    run: Run,
    now_ms: u64,
    fleet: Fleet,
}

impl History {
    fn act(&mut self, input: &Input) {
        let decision = self.run.decide(self.now_ms, input, &self.fleet);
        assert!(!decision.reason.is_empty());
        for event in &decision.events {
            // As it is stored and read.
            let text = serde_json::to_string(event).unwrap();
            assert_eq!(
                &serde_json::from_str::<opengpu_rounds::Event>(&text).unwrap(),
                event
            );
            self.run.fold(event);
            assert!(event.at_ms >= self.now_ms);
        }
        assert_eq!(self.run.inconsistency(), None);
        let again = self.run.decide(self.now_ms, &Input::Tick, &self.fleet);
        assert_eq!(again.events, vec![], "a second look decides nothing");
        assert!(!self.run.explanation(self.now_ms, &self.fleet).is_empty());
    }

    /// Before the next wake a tick decides nothing.
    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        loop {
            let wake = self.run.next_wake_ms(self.now_ms, &self.fleet);
            if let Some(wake) = wake {
                assert!(wake > self.now_ms, "it would spin");
            }
            let before = wake.map_or(until, |wake| until.min(wake - 1));
            let early = self.run.decide(before, &Input::Tick, &self.fleet);
            assert_eq!(
                early.events,
                vec![],
                "at {before}, before the next wake at {wake:?}"
            );
            match wake.filter(|wake| *wake <= until) {
                Some(wake) => {
                    self.now_ms = wake;
                    self.act(&Input::Tick);
                }
                None => break,
            }
        }
        self.now_ms = until;
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Pass(ms) => self.pass(*ms),
            Step::See(worker, age, speed, draining) => {
                let newest = self.run.revision();
                let revision = newest.number.checked_sub(*age);
                let sight = WorkerSight {
                    revision: revision.map(|number| Revision { number, ..newest }),
                    blocks_per_second: *speed,
                    last_heard_ms: self.now_ms,
                    draining: *draining,
                    trusted: true,
                    reputation: 1.0,
                };
                self.fleet.insert(WorkerId(*worker), sight);
                self.act(&Input::Tick);
            }
            Step::Lose(worker) => {
                self.fleet.remove(&WorkerId(*worker));
                self.act(&Input::Tick);
            }
            Step::Act(input) => self.act(input),
            Step::Update(worker, part) => {
                let worker = WorkerId(*worker);
                let held = self.run.assignment_of(worker);
                let feedback = self.run.member(worker).and_then(|member| member.feedback);
                if let (Some((assignment, lease)), Some(feedback)) = (held, feedback) {
                    let update = Input::Update {
                        assignment,
                        worker,
                        base: lease.base,
                        blocks_completed: lease.block_count() * part / 4,
                        payload: Hash::of(&assignment.0.to_le_bytes()),
                        payload_bytes: 3,
                        tokens_per_block: 10,
                        feedback,
                        commitment: None,
                        draw: 0,
                    };
                    self.act(&update);
                }
            }
            Step::Merge => {
                if let Some(pending) = self.run.pending_merge() {
                    let next = self.run.revision().number + 1;
                    self.act(&Input::MergeDone {
                        round: pending.round,
                        merge: Hash::of(&next.to_le_bytes()),
                        merge_bytes: 2,
                        digest: Hash::of(&next.to_be_bytes()),
                        factors: vec![1.0; pending.updates.len()],
                        regards: Vec::new(),
                    });
                }
            }
            Step::Checkpoint => {
                let revision = self.run.revision();
                let weights = self.run.digest().unwrap_or(Hash::of(b"first"));
                self.act(&Input::CheckpointDone {
                    revision,
                    weights,
                    outer_state: weights,
                });
            }
            Step::RollBack(index) => {
                if let Some(kept) = self.run.checkpoints().get(*index) {
                    let to = kept.revision;
                    self.act(&Input::RollBack {
                        to,
                        reason: "drawn".into(),
                    });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_history_keeps_the_rules(rules in rules(), steps in prop::collection::vec(step(), 1..120)) {
        let created = Run::create(rules, 0);
        let mut history = History {
            run: Run::from_events([&created]),
            now_ms: 0,
            fleet: Fleet::new(),
        };
        history.act(&Input::Start);
        for step in &steps {
            history.step(step);
        }
        let text = serde_json::to_string(&history.run).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Run>(&text).unwrap(), &history.run);
    }

    #[test]
    fn an_event_that_fits_nowhere_does_no_harm(kinds in prop::collection::vec(stray(), 1..20)) {
        let mut run = Run::from_events([&Run::create(RoundSettings::default(), 0)]);
        for kind in kinds {
            run.fold(&opengpu_rounds::Event { at_ms: 1, kind });
        }
        prop_assert!(matches!(run.phase(), Phase::Draft | Phase::Collecting | Phase::Merging | Phase::Forming));
        run.decide(5, &Input::Tick, &Fleet::new());
    }
}

fn stray() -> impl Strategy<Value = EventKind> {
    let reason = || Just("stray".to_owned());
    prop_oneof![
        (0..5u64, reason()).prop_map(|(id, reason)| EventKind::LeaseReturned {
            assignment: AssignmentId(id),
            reason
        }),
        (0..5u64, reason()).prop_map(|(id, reason)| EventKind::UpdateDropped {
            assignment: AssignmentId(id),
            reason
        }),
        (0..5u64, hash()).prop_map(|(id, payload)| EventKind::UpdateAccepted {
            assignment: AssignmentId(id),
            blocks_completed: 3,
            payload,
            payload_bytes: 1,
            tokens: 1,
            mergeable: true,
            commitment: None,
            audit: None,
            held: false,
            trust: 1.0,
        }),
        (0..5u64, reason()).prop_map(|(round, reason)| EventKind::RoundClosed {
            round,
            updates: vec![AssignmentId(round)],
            reason,
        }),
        (0..5u64, revision(), hash()).prop_map(|(round, revision, digest)| EventKind::Merged {
            round,
            revision,
            merge: digest,
            merge_bytes: 1,
            digest,
            factors: vec![],
            regards: Vec::new(),
            counted_tokens: Some(round),
        }),
        worker().prop_map(|worker| EventKind::WorkerLeft {
            worker,
            reason: "stray".into()
        }),
        (0..5u64).prop_map(|round| EventKind::Collecting {
            round,
            grace_ends_ms: 3
        }),
        (revision(), hash()).prop_map(|(revision, weights)| EventKind::Checkpointed {
            revision,
            weights,
            outer_state: weights,
        }),
    ]
}
