//! The running server: what handlers, drivers and the portal share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use opengpu_protocol::wire::RunView;
use opengpu_rounds::{Hash, Phase, RunId};
use opengpu_trainer_protocol::SharedFolder;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::intake::Checker;
use crate::auth::{OperatorToken, Signatures};
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::driver::{Audits, Evaluate, LiveRun, Mailbox, drive, is_over};
use crate::enrolment::EnrolmentPolicy;
use crate::fleet::{Fleet, Wants};
use crate::home::Home;
use crate::ledger::Signer;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::store::{OwnerEpoch, Store};
use crate::tasks::Tasks;
use crate::trainer::Trainer;
use crate::view;

/// A worker not heard of for this long is given to no run.
pub const WORKER_SILENCE_MS: u64 = 15_000;

/// The running server. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator(Arc<Inner>);

pub(crate) struct Inner {
    pub home: Home,
    pub store: Store,
    pub blobs: Blobs,
    pub clock: Clock,
    pub metrics: Metrics,
    pub fleet: Fleet,
    pub checker: Checker,
    pub signatures: Signatures,
    pub operator: OperatorToken,
    pub enrolment: EnrolmentPolicy,
    pub limits: Limits,
    pub ledger: Signer,
    pub trainer: Arc<Trainer>,
    pub auditing: Arc<Trainer>,
    pub shared: SharedFolder,
    pub runs: RwLock<BTreeMap<RunId, Arc<LiveRun>>>,
    pub evaluations: mpsc::Sender<Evaluate>,
    pub audits: Audits,
    pub plans: watch::Sender<u64>,
    pub learning: tokio::sync::Mutex<()>,
    pub ready: AtomicBool,
    pub shutdown: CancellationToken,
    pub tasks: Tasks,
}

impl Coordinator {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Views of all runs, newest first.
    pub fn runs(&self) -> Vec<RunView> {
        self.live_runs()
            .iter()
            .rev()
            .map(|run| view::run_view(self, run))
            .collect()
    }

    /// View of one run, if there is such a run.
    pub fn run_view(&self, run: RunId) -> Option<RunView> {
        Some(view::run_view(self, &*self.run(run)?))
    }

    /// Ticks whenever something changed in the run's view that a watcher should see at once.
    /// The sender is dropped with the server. For an unknown run the receiver is closed.
    pub fn subscribe(&self, run: RunId) -> watch::Receiver<u64> {
        match self.run(run) {
            Some(run) => run.changes(),
            None => watch::channel(0).1,
        }
    }

    /// Cancelled when the server shuts down: streams should end then.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.0.shutdown.clone()
    }

    /// Whether all runs are folded.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::SeqCst) && !self.0.shutdown.is_cancelled()
    }

    pub(crate) fn set_ready(&self) {
        self.0.ready.store(true, Ordering::SeqCst);
    }
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
    pub(crate) fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }
    pub(crate) fn signatures(&self) -> &Signatures {
        &self.0.signatures
    }
    pub(crate) fn trainer(&self) -> Arc<Trainer> {
        Arc::clone(&self.0.trainer)
    }
    /// The trainer that audits.
    pub(crate) fn auditing(&self) -> &Trainer {
        &self.0.auditing
    }
    /// What audits need.
    pub(crate) fn audits(&self) -> &Audits {
        &self.0.audits
    }
    pub(crate) fn shared_folder(&self) -> SharedFolder {
        self.0.shared.clone()
    }
    pub(crate) fn home_lock(&self) -> &Home {
        &self.0.home
    }
    /// Counts everyone's silence from now on, after the clock was set.
    pub(crate) fn start_silence_from_now(&self) {
        let now_ms = self.clock().now_ms();
        self.fleet().lock().start_silence_from(now_ms);
    }
    pub(crate) fn home(&self) -> &Path {
        self.0.home.path()
    }
    pub(crate) fn is_operator(&self, token: &str) -> bool {
        self.0.operator.admits(token)
    }

    /// Whom this installation takes in.
    pub(crate) fn enrolment(&self) -> EnrolmentPolicy {
        self.0.enrolment
    }

    /// How often who may ask.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Held while a node's standing is read into memory.
    pub(crate) fn learning(&self) -> &tokio::sync::Mutex<()> {
        &self.0.learning
    }

    /// Plans of nodes may have changed.
    pub(crate) fn plans_changed(&self) {
        self.0.plans.send_modify(|count| *count += 1);
    }
    pub(crate) fn plan_changes(&self) -> watch::Receiver<u64> {
        self.0.plans.subscribe()
    }

    /// One run.
    pub(crate) fn run(&self, run: RunId) -> Option<Arc<LiveRun>> {
        self.0
            .runs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&run)
            .cloned()
    }

    /// Signs the ledgers' heads.
    pub(crate) fn ledger(&self) -> &Signer {
        &self.0.ledger
    }

    /// Checks payloads.
    pub(crate) fn checker(&self) -> &Checker {
        &self.0.checker
    }

    /// All runs, oldest first.
    pub(crate) fn live_runs(&self) -> Vec<Arc<LiveRun>> {
        self.0
            .runs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Takes a run in and drives it from now on.
    pub(crate) fn start_driving(
        &self,
        run: Arc<LiveRun>,
        mailbox: Mailbox,
        ownership: (OwnerEpoch, u64, u64),
    ) {
        self.0
            .runs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(run.id, Arc::clone(&run));
        let driving = drive(
            self.clone(),
            run,
            ownership,
            mailbox,
            self.0.evaluations.clone(),
        );
        self.0.tasks.spawn(driving);
    }

    /// Waits for everything that was started with [`spawn`](Self::spawn) and for all drivers.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Gives workers to runs again.
    pub(crate) fn reallocate(&self) {
        let runs = self.live_runs();
        let mut wants: Vec<Wants> = runs
            .iter()
            .map(|run| {
                let state = run.state();
                let live = !matches!(
                    state.phase(),
                    Phase::Draft | Phase::Paused | Phase::Finished | Phase::Failed
                );
                Wants {
                    run: run.id,
                    live: live && state.digest().is_some(),
                    max_workers: state.settings().max_workers,
                    members: state.members().map(|(worker, _)| worker).collect(),
                    left_out: {
                        let left_out = state.members().filter(|(_, m)| m.left_out.is_some());
                        left_out.map(|(worker, _)| worker).collect()
                    },
                    known: BTreeSet::new(),
                }
            })
            .collect();
        let now_ms = self.clock().now_ms();
        let changed = {
            let mut memory = self.fleet().lock();
            let now_unix_ms = crate::clock::unix_ms();
            for (want, run) in wants.iter_mut().zip(&runs) {
                let barred = memory.barred_from(run.id, &run.spec, now_unix_ms);
                want.left_out.extend(barred);
                want.known = memory.trusted_in(&run.spec, now_unix_ms);
            }
            memory.allocate(&wants, now_ms, WORKER_SILENCE_MS)
        };
        if changed {
            for run in runs {
                run.nudge();
            }
            self.plans_changed();
        }
    }

    /// Whether nodes may read this blob.
    pub(crate) fn is_published(&self, blob: Hash) -> bool {
        self.live_runs().iter().any(|run| run.publishes(blob))
    }

    /// Brings the gauges up to date.
    pub(crate) fn refresh_gauges(&self) {
        let now_ms = self.clock().now_ms();
        let (connected, live) = {
            let memory = self.fleet().lock();
            let connected = memory.nodes.values().filter(|node| node.connected).count();
            (connected, memory.live_workers(now_ms, WORKER_SILENCE_MS))
        };
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics().nodes_connected.set(gauge(connected));
        self.metrics().workers_live.set(gauge(live));
        let over = |run: &Arc<LiveRun>| is_over(&run.state());
        let runs = self.live_runs().iter().filter(|run| !over(run)).count();
        self.metrics().runs_live.set(gauge(runs));
    }
}
