//! Simulated time: what happens when, and who hears of it.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::invariants::Invariants;
use super::log::Log;
use super::owner::{Clocks, Owner};
use super::report::{Report, RoundRow};
use super::settings::{Faults, SimulationSettings};
use super::worker::{Plan, Sent, Worker};
use crate::{AssignmentId, FeedbackId, Hash, Input, Revision, Run};

/// Something that happens at a point in time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    ReportArrives {
        worker: usize,
        holds: Option<(Revision, Hash)>,
        feedback: FeedbackId,
        measured: f64,
    },
    UpdateArrives {
        worker: usize,
        assignment: AssignmentId,
        sent: Sent,
    },
    LeaveArrives {
        /// Whether it is sent away, with all that waits of it.
        expelled: bool,
        worker: usize,
    },
    PlanArrives {
        worker: usize,
        plan: Plan,
    },
    AnswerArrives {
        worker: usize,
        assignment: AssignmentId,
        payload: Hash,
        granted: Result<(), &'static str>,
    },
    FeedbackRefused {
        worker: usize,
        feedback: FeedbackId,
    },
    WorkerWakes {
        worker: usize,
        life: u64,
    },
    WorkerStarts {
        worker: usize,
    },
    FetchEnds {
        worker: usize,
        life: u64,
    },
    TrainingEnds {
        worker: usize,
        life: u64,
        assignment: AssignmentId,
    },
    Restored {
        worker: usize,
    },
    OwnerStarts,
    OwnerWakes {
        epoch: u64,
    },
    MergeComputed {
        epoch: u64,
        round: u64,
    },
    CheckpointWritten {
        epoch: u64,
        revision: Revision,
        weights: Hash,
    },
    Operator(Input),
    FaultsStrike,
}

/// What was so at the row before.
#[derive(Default)]
pub(super) struct RowBefore {
    pub late: u64,
    pub refused: u64,
    pub busy_ms: u64,
    pub up_ms: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

pub(super) struct World<'a> {
    pub settings: &'a SimulationSettings,
    pub random: ChaCha8Rng,
    pub now_ms: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub log: Log,
    /// Coordinators that run, oldest first; only the last can append.
    pub owners: Vec<Owner>,
    pub workers: Vec<Worker>,
    pub blobs: BTreeMap<Hash, ()>,
    pub initial: Hash,
    /// How far the system's clock is off. Nothing may depend on it.
    pub system_clock_off_ms: i64,
    pub report: Report,
    pub broken: Option<String>,
    pub on_round: &'a mut dyn FnMut(&RoundRow),
    pub row_before: RowBefore,
    pub first_row: Option<Vec<(u64, u64)>>,
    pub finished_ms: Option<u64>,
}

impl<'a> World<'a> {
    pub fn new(settings: &'a SimulationSettings, on_round: &'a mut dyn FnMut(&RoundRow)) -> Self {
        let created = Run::create(settings.round.clone(), 0);
        let mut world = Self {
            settings,
            random: ChaCha8Rng::seed_from_u64(settings.seed),
            now_ms: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            log: Log::new(created, Invariants::new()),
            owners: Vec::new(),
            workers: Vec::new(),
            blobs: BTreeMap::new(),
            initial: Hash::of(&settings.seed.to_le_bytes()),
            system_clock_off_ms: 0,
            report: Report {
                seed: settings.seed,
                ..Report::default()
            },
            broken: None,
            on_round,
            row_before: RowBefore::default(),
            first_row: None,
            finished_ms: None,
        };
        for index in 0..settings.workers {
            world.add_worker(index < settings.slow_workers);
        }
        world.after(0, Happening::OwnerStarts);
        world.after(10, Happening::Operator(Input::Start));
        world.after(settings.round.duration_ms, Happening::FaultsStrike);
        world
    }

    pub fn run(mut self) -> Report {
        if let Some(problem) = self.settings.round.problem() {
            self.broken = Some(problem);
        }
        let per_round = self.settings.round.duration_ms + self.settings.round.grace_ms;
        let patience = (self.settings.round.rounds * 8 + 200) * (per_round + 60_000);
        while self.broken.is_none() {
            let Some(((at_ms, _), happening)) = self.queue.pop_first() else {
                self.broken = Some("nothing happens any more".into());
                break;
            };
            self.now_ms = at_ms;
            self.happen(happening);
            if self.log.invariants.violation.is_some() {
                self.broken = self.log.invariants.violation.take();
            } else if self.is_over() {
                self.broken = self.check_end().err();
                break;
            } else if self.now_ms > patience {
                let owner = self.owners.last();
                let why = owner.map(|o| o.run.explanation(o.clock(self.clocks()), &o.fleet));
                self.broken = Some(format!("no end in sight; the run says: {why:?}"));
            }
        }
        self.summarise()
    }

    /// Whether faults still strike. Later all is well, so that every run can finish.
    pub fn is_faulty(&self) -> bool {
        let round = &self.settings.round;
        self.now_ms < round.rounds * (round.duration_ms + round.grace_ms) * 3 / 2
    }

    pub fn faults(&self) -> Option<&'a Faults> {
        self.is_faulty().then_some(&self.settings.faults)
    }

    pub fn clocks(&self) -> Clocks {
        const START_MS: i64 = 1_800_000_000_000;
        Clocks {
            monotonic_ms: self.now_ms,
            system_ms: START_MS + self.now_ms as i64 + self.system_clock_off_ms,
        }
    }

    pub fn chance(&mut self, of: impl Fn(&Faults) -> f64) -> bool {
        let probability = self.faults().map_or(0.0, of);
        self.random.random_bool(probability.clamp(0.0, 1.0))
    }

    pub fn count_fault(&mut self, what: &'static str) {
        *self.report.faults.entry(what).or_default() += 1;
    }

    pub fn after(&mut self, delay_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue
            .insert((self.now_ms + delay_ms, self.sequence), happening);
    }

    /// Over the network: lost, late, twice, out of order.
    pub fn send(&mut self, worker: usize, happening: Happening) {
        if !self.workers[worker].reachable || self.chance(|faults| faults.lost_messages) {
            return;
        }
        let copies = 1 + u64::from(self.chance(|faults| faults.repeated_messages));
        for _ in 0..copies {
            let late = self.chance(|faults| faults.late_messages);
            let most = if late {
                3 * self.settings.round.duration_ms
            } else {
                200
            };
            let delay_ms = self.random.random_range(5..=most.max(6));
            self.after(delay_ms, happening.clone());
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ReportArrives {
                worker,
                holds,
                feedback,
                measured,
            } => {
                self.owner_hears_report(worker, holds, feedback, measured);
            }
            Happening::UpdateArrives {
                worker,
                assignment,
                sent,
            } => {
                self.owner_hears_update(worker, assignment, sent);
            }
            Happening::LeaveArrives { expelled, worker } => {
                if let Some(epoch) = self.some_owner() {
                    let worker = self.workers[worker].id;
                    let input = match expelled {
                        true => Input::Expel {
                            worker,
                            reason: "its node is in quarantine".into(),
                        },
                        false => Input::Leave {
                            worker,
                            reason: "it wants to".into(),
                        },
                    };
                    self.ask(epoch, input);
                }
            }
            Happening::PlanArrives { worker, plan } => {
                let fresh = self.fresh_feedback();
                let now_ms = self.now_ms;
                let hearer = &mut self.workers[worker];
                if hearer.up {
                    if let Err(what) = hearer.hear(plan, now_ms, fresh) {
                        self.broken = Some(what);
                    }
                    self.act(worker);
                }
            }
            Happening::AnswerArrives {
                worker,
                assignment,
                payload,
                granted,
            } => {
                self.worker_hears_answer(worker, assignment, payload, granted);
            }
            Happening::FeedbackRefused { worker, feedback } => {
                self.worker_starts_feedback(worker, feedback);
            }
            Happening::WorkerWakes { worker, life } => self.worker_wakes(worker, life),
            Happening::WorkerStarts { worker } => self.start_worker(worker),
            Happening::FetchEnds { worker, life } => self.fetch_ends(worker, life),
            Happening::TrainingEnds {
                worker,
                life,
                assignment,
            } => {
                self.training_ends(worker, life, assignment);
            }
            Happening::Restored { worker } => self.restore(worker),
            Happening::OwnerStarts => {
                if self
                    .owners
                    .last()
                    .is_none_or(|owner| !self.log.is_owner(owner.epoch))
                {
                    self.start_owner();
                }
            }
            Happening::OwnerWakes { epoch } => {
                let now_ms = self.now_ms;
                let due = self
                    .owner(epoch)
                    .is_some_and(|owner| owner.wakes_ms == Some(now_ms));
                if due {
                    self.ask(epoch, Input::Tick);
                }
            }
            Happening::MergeComputed { epoch, round } => self.merge_computed(epoch, round),
            Happening::CheckpointWritten {
                epoch,
                revision,
                weights,
            } => {
                let outer_state = Hash::of(&weights.0);
                self.blobs.insert(weights, ());
                self.blobs.insert(outer_state, ());
                self.ask(
                    epoch,
                    Input::CheckpointDone {
                        revision,
                        weights,
                        outer_state,
                    },
                );
                if let Some(owner) = self.owner(epoch) {
                    owner.writing = None;
                }
            }
            Happening::Operator(input) => self.operator(input),
            Happening::FaultsStrike => {
                self.strike();
                self.collect_garbage();
                self.after(
                    self.settings.round.duration_ms / 10 + 1,
                    Happening::FaultsStrike,
                );
            }
        }
    }
}
