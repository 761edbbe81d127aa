//! One device: an actor that compares what it holds with what the coordinator plans, and
//! does one step after another until they agree.
//!
//! All state of a worker (weights, error feedback, journal, trainer) belongs to this task
//! alone, so that nothing needs a lock. Computations over all weights run on the blocking
//! pool; updates are sent beside the steps (see `outbox`), so that a slow upload does not
//! keep the device from training.

mod audit;
mod job;
mod opening;
mod outbox;
mod sync;
mod train;
mod trainer;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use opengpu_protocol::Client;
use opengpu_protocol::client::full_jitter;
use opengpu_protocol::wire::{
    Activity, AssignmentPlan, NO_WEIGHTS, Plan, Report, RunPlan, WorkerPlan,
};
use opengpu_rounds::{AssignmentId, Hash, Revision, RunId, WorkerId};
use opengpu_trainer_protocol::SharedFolder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connection::Line;
use crate::home::NodeHome;
use crate::journal::Journal;
use crate::next_step::{Held, Step, next_step};
use crate::receipts::Receipts;
use crate::reporter::{Saying, Word};
use crate::settings::DeviceSettings;
use crate::shards::Shards;
use crate::status::Board;
use job::Job;
use outbox::Outbox;
use trainer::TrainerSlot;

/// While no run needs the device, it is offered again so often, as a sign of life.
const OFFER_AGAIN: Duration = Duration::from_secs(5);
/// Weights that stay disputed are fetched anew so often.
const FETCH_ANEW_AGAIN: Duration = Duration::from_secs(60);
/// Assignments remembered as done, beside those in the journal.
const REMEMBERED: usize = 64;

/// What all devices of an agent share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) home: NodeHome,
    pub(crate) folder: SharedFolder,
    pub(crate) client: Client,
    pub(crate) shards: Shards,
    pub(crate) board: Board,
    pub(crate) receipts: Receipts,
    pub(crate) line: watch::Receiver<Line>,
    pub(crate) shutdown: CancellationToken,
}

/// The actor.
pub(crate) struct Device {
    number: u32,
    settings: DeviceSettings,
    shared: Shared,
    saying: Saying,
    disputed: watch::Receiver<Option<Hash>>,
    worker: Option<WorkerId>,
    /// In which life of the line the device was offered last, and when.
    offered: Option<(u64, Instant)>,
    trainer: TrainerSlot,
    job: Option<Job>,
    journal: Journal,
    outbox: Outbox,
    /// When chunks of an update were opened last.
    opened: BTreeMap<(RunId, AssignmentId), Instant>,
    /// Audits that were answered or declined.
    audited: VecDeque<u64>,
    /// Assignments that are over without an update in the journal; each run counts its own.
    given_up: VecDeque<(RunId, AssignmentId)>,
    /// Weights that were fetched anew because the coordinator disputed them, and when.
    fetched_anew: Option<(Hash, Instant)>,
    /// Steps that failed in a row, and when to try again.
    failures: u32,
    retry_at: Option<Instant>,
    /// The life of the line in which the device works now.
    epoch: u64,
}

impl Device {
    pub(crate) fn new(
        number: u32,
        settings: DeviceSettings,
        shared: Shared,
        saying: Saying,
        disputed: watch::Receiver<Option<Hash>>,
    ) -> Result<Self, crate::AgentError> {
        let journal = Journal::open(&shared.home, number)?;
        let trainer = TrainerSlot::new(number, &settings, &shared);
        Ok(Self {
            number,
            settings,
            saying,
            disputed,
            worker: None,
            offered: None,
            trainer,
            job: None,
            outbox: Outbox::new(shared.client.clone(), shared.receipts.clone(), &journal),
            opened: BTreeMap::new(),
            journal,
            audited: VecDeque::new(),
            given_up: VecDeque::new(),
            fetched_anew: None,
            failures: 0,
            retry_at: None,
            epoch: 0,
            shared,
        })
    }

    /// Works until shutdown; leaves everything so that it can be taken up again.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.turn() => {}
            }
        }
        self.trainer.stop().await;
    }

    /// One step, or one wait.
    async fn turn(&mut self) {
        let epoch = self.shared.line.borrow().epoch;
        if self.epoch != epoch {
            // The coordinator is there again: what it was asked in vain is asked at once.
            self.epoch = epoch;
            self.retry_at = None;
            self.outbox.hurry();
        }
        self.settle_verdicts().await;
        if let Some(retry_at) = self.retry_at {
            if Instant::now() < retry_at {
                self.wait(retry_at.into()).await;
                return;
            }
            self.retry_at = None;
        }
        let plan = self.plan();
        let step = next_step(&self.held(plan.as_ref()), plan.as_ref());
        if let Step::Wait(why) = step {
            self.idle(why);
            let again = tokio::time::Instant::now() + Duration::from_secs(1);
            self.wait(again).await;
            return;
        }
        tracing::debug!(device = self.number, ?step, "step");
        match self.carry_out(step).await {
            Ok(()) => {
                if self.failures > 0 {
                    self.failures = 0;
                    self.shared
                        .board
                        .device(self.number, |status| status.problem = None);
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn carry_out(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Wait(_) => Ok(()),
            Step::StartTrainer => {
                self.prepare("starting the trainer");
                self.trainer.start().await?;
                if let Some(job) = &mut self.job {
                    job.loaded = false;
                }
                self.offered = None;
                Ok(())
            }
            Step::Offer => self.offer().await,
            Step::TakeUp(run) => self.take_up(run).await,
            Step::StartLineage(lineage) => self.start_lineage(lineage).await,
            Step::Sync { to, anew } => self.sync(to, anew).await,
            Step::Load => self.load().await,
            Step::Calibrate => self.calibrate().await,
            Step::Train(assignment) => self.train(assignment).await,
            Step::Audit(plan) => self.audit(plan).await,
        }
    }

    async fn offer(&mut self) -> anyhow::Result<()> {
        let epoch = self.shared.line.borrow().epoch;
        let Some(offer) = self.trainer.offer() else {
            return Ok(());
        };
        let worker = self.shared.client.offer(self.number, &offer).await?.worker;
        if self.worker != Some(worker) {
            tracing::info!(
                device = self.number,
                worker = worker.0,
                trainer = offer.trainer,
                "offered"
            );
        }
        self.worker = Some(worker);
        self.offered = Some((epoch, Instant::now()));
        self.shared
            .board
            .device(self.number, |status| status.worker = Some(worker));
        Ok(())
    }

    /// The newest plan for this worker.
    fn plan(&self) -> Option<WorkerPlan> {
        let line = self.shared.line.borrow();
        let (plan, _) = line.plan.as_ref()?;
        mine(plan, self.number, self.worker).cloned()
    }

    /// When training the plan's assignment has to end.
    fn deadline(&self, assignment: &AssignmentPlan) -> Option<Instant> {
        let received = self.shared.line.borrow().plan.as_ref()?.1;
        received.checked_add(Duration::from_millis(assignment.remaining_ms))
    }

    fn held(&self, plan: Option<&WorkerPlan>) -> Held {
        let epoch = self.shared.line.borrow().epoch;
        let planned = plan.and_then(|plan| plan.run.as_ref());
        let idle = planned.is_none();
        let fresh = |at: Instant| !idle || at.elapsed() < OFFER_AGAIN;
        let offered = self
            .offered
            .is_some_and(|(life, at)| life == epoch && fresh(at));
        let assignment = planned.and_then(|run| run.assignment.as_ref());
        let deadline = assignment.and_then(|assignment| self.deadline(assignment));
        let job = self.job.as_ref();
        let done = assignment.zip(job).is_some_and(|(assignment, job)| {
            let (run, id) = (job.run, assignment.assignment);
            self.journal.contains(run, id) || self.given_up.contains(&(run, id))
        });
        let digest = job.and_then(|job| job.digest);
        let audit = planned.and_then(|run| run.audit.as_ref());
        Held {
            trainer: self.trainer.is_running(),
            offered,
            run: job.map(|job| job.run),
            lineage: job.map_or(0, |job| job.lineage),
            revision: job.and_then(|job| job.revision),
            resync: digest.is_some_and(|digest| self.is_disputed(digest, planned)),
            loaded: job.is_some_and(|job| job.loaded),
            calibrated: job.is_some_and(|job| job.blocks_per_second > 0.0),
            done,
            audited: audit.is_some_and(|audit| self.audited.contains(&audit.number)),
            audit_at_hand: audit.is_some_and(|audit| digest == Some(audit.digest)),
            time_left: deadline.is_some_and(|deadline| Instant::now() < deadline),
        }
    }

    /// Whether the coordinator says that these weights are wrong, and fetching them anew has
    /// not just shown that they are what it hands out.
    fn is_disputed(&self, digest: Hash, planned: Option<&RunPlan>) -> bool {
        let revision = self.job.as_ref().and_then(|job| job.revision);
        let differs =
            planned.is_some_and(|run| Some(run.revision) == revision && run.digest != digest);
        let fetched = self
            .fetched_anew
            .is_some_and(|(fetched, at)| fetched == digest && at.elapsed() < FETCH_ANEW_AGAIN);
        (differs || *self.disputed.borrow() == Some(digest)) && !fetched
    }

    /// Waits for anything that may change the next step, at most until `until`.
    async fn wait(&mut self, until: tokio::time::Instant) {
        tokio::select! {
            _ = self.shared.line.changed() => {}
            _ = self.disputed.changed() => {}
            result = self.outbox.answered() => self.sent(result).await,
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// A step failed: say so, and try again a little later.
    fn failed(&mut self, error: &anyhow::Error) {
        self.failures += 1;
        let wait = full_jitter(
            self.failures,
            Duration::from_millis(500),
            Duration::from_secs(20),
        );
        let problem = format!("{error:#}");
        tracing::warn!(
            device = self.number,
            problem,
            retry_seconds = wait.as_secs_f64(),
            "a step failed"
        );
        self.retry_at = Some(Instant::now() + wait);
        self.prepare(&problem);
        self.shared
            .board
            .device(self.number, |status| status.problem = Some(problem));
    }

    fn give_up(&mut self, assignment: AssignmentId, why: &str) {
        tracing::warn!(
            device = self.number,
            assignment = assignment.0,
            why,
            "gave an assignment up"
        );
        if let Some(run) = self.job.as_ref().map(|job| job.run) {
            self.remember(run, assignment);
        }
    }

    fn remember(&mut self, run: RunId, assignment: AssignmentId) {
        self.given_up.push_back((run, assignment));
        if self.given_up.len() > REMEMBERED {
            self.given_up.pop_front();
        }
    }

    fn prepare(&mut self, what: &str) {
        self.say(
            Activity::Preparing {
                what: what.to_owned(),
            },
            None,
        );
    }

    fn idle(&mut self, why: &'static str) {
        let activity = match self.outbox.under_way() {
            Some(assignment) => Activity::Sending { assignment },
            None => Activity::Idle,
        };
        self.say(activity, Some(why));
    }

    /// Tells the coordinator and the owner what is being done.
    fn say(&mut self, activity: Activity, idle_because: Option<&str>) {
        let job = self.job.as_ref();
        let unsettled = self.journal.entries().count();
        self.shared.board.device(self.number, |status| {
            status.activity = Some(activity.clone());
            status.idle_because = idle_because.map(str::to_owned);
            status.unsettled = unsettled;
            status.run = job.map(|job| job.run);
            status.run_name = job.map(|job| job.spec.name.clone());
            status.revision = job.and_then(|job| job.revision);
            status.digest = job.and_then(|job| job.digest);
            status.feedback = job.map(|job| job.feedback);
            status.blocks_per_second = job.map_or(0.0, |job| job.blocks_per_second);
        });
        let known = self.worker.zip(job).zip(self.trainer.offer());
        let saying = known.map(|((worker, job), offer)| {
            let held = job.revision.zip(job.digest);
            let start = Revision {
                lineage: job.lineage,
                number: 0,
            };
            let (revision, digest) = held.unwrap_or((start, NO_WEIGHTS));
            let report = Report {
                run: job.run,
                revision,
                digest,
                feedback: job.feedback,
                blocks_per_second: job.blocks_per_second,
                activity,
            };
            Word {
                device: self.number,
                offer,
                worker,
                report,
            }
        });
        self.saying.send_if_modified(|said| {
            let changed = *said != saying;
            if changed {
                *said = saying;
            }
            changed
        });
    }
}

fn mine(plan: &Plan, device: u32, worker: Option<WorkerId>) -> Option<&WorkerPlan> {
    plan.workers
        .iter()
        .find(|entry| entry.device == device && Some(entry.worker) == worker)
}
