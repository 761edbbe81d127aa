//! A run as the rest of the coordinator sees it: its state to read, its mailbox to write to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use opengpu_merge::audit::CLASS_BYTES;
use opengpu_merge::{Layout, OuterSettings};
use opengpu_protocol::RunSpec;
use opengpu_protocol::wire::{DatasetManifest, Evaluation};
use opengpu_rounds::{AssignmentId, Hash, Input, Phase, Refusal, Revision, Run, RunId};
use opengpu_trainer_protocol::{ModelConfig, TensorShape};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::audits::Asked;
use super::evaluator::Due;
use super::rejection::Rejection;
use super::weights_file::WeightsFile;
use super::workshop::{Job, Recipe};
use crate::api::error::ApiError;
use crate::api::intake::Quotas;
use crate::store::{Review, RoundMetric};

/// Inputs that may wait for a decision.
const MAILBOX: usize = 1024;
/// Checked payloads that are remembered, so that an announcement needs no second check.
const CHECKED: usize = 4096;

/// Rounds of which losses are kept in memory.
const KEPT_LOSSES: usize = 1000;

/// Losses that could not be measured of which the reason is kept.
const KEPT_UNMEASURED: usize = 16;

/// Updates of which the numerics class is remembered, and so are audited by it.
const CLASSES: usize = 1024;

/// Jobs that may wait for the workshop.
const JOBS: usize = 8;

/// The driver's end of a run's queues.
pub struct Mailbox {
    /// Inputs.
    pub messages: mpsc::Receiver<Message>,
    /// Jobs of its workshop.
    pub jobs: mpsc::Receiver<Job>,
}

/// What a driver is asked for, and whoever waits for it.
pub enum Message {
    /// A decision.
    Decide {
        /// What happened.
        input: Input,
        /// Mean training loss of the update, if it is one.
        loss: Option<f64>,
        /// Who is told once the decision is durable.
        reply: oneshot::Sender<Result<Answer, DriveError>>,
    },
    /// A line in the ledger: work was refused before there was anything to decide.
    Reject {
        /// What was refused.
        rejection: Rejection,
        /// Who is told once the line is durable, if there is to be one.
        reply: oneshot::Sender<Result<(), DriveError>>,
    },
    /// An operator found that an audit did not fail.
    Reverse {
        /// His answer to what is held against the node.
        review: Review,
        /// Of which update.
        assignment: AssignmentId,
        /// Who is told once the credit is back, if some was taken.
        reply: oneshot::Sender<Result<(), DriveError>>,
    },
}

/// What came of an input.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Set when it was not granted.
    pub refusal: Option<Refusal>,
    /// Why, or what is waited for.
    pub reason: String,
}

/// Why an input got no decision.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriveError {
    /// The mailbox is full.
    #[error("run {0} has too many requests waiting; try again in a second")]
    Busy(RunId),
    /// Nobody drives the run here, or the process is going down.
    #[error("run {0} is not driven by this process: {1}")]
    NotDriven(RunId, String),
    /// The decision could not be stored; whether it counts will be known once the log was read again.
    #[error("the decision about run {0} could not be stored; try again")]
    NotStored(RunId),
}

impl From<DriveError> for ApiError {
    fn from(error: DriveError) -> Self {
        match &error {
            DriveError::Busy(_) => Self::too_many(error.to_string()),
            DriveError::NotDriven(..) => Self::unavailable("not_driven", error.to_string()),
            DriveError::NotStored(_) => Self::unavailable("not_stored", error.to_string()),
        }
    }
}

/// What was measured, beside what was decided.
#[derive(Debug, Default)]
pub struct Losses {
    /// Training loss and tokens of accepted updates that are in no merge yet.
    pub waiting: BTreeMap<AssignmentId, (f64, u64)>,
    /// Mean training loss of merged rounds.
    pub rounds: BTreeMap<u64, f64>,
    /// Losses of merged rounds on the held-out sequences of the probe.
    pub probes: BTreeMap<u64, f64>,
    /// Held-out losses, by revision.
    pub evaluations: BTreeMap<Revision, Evaluation>,
    /// Why there is none, by revision, since this process started.
    pub unmeasured: BTreeMap<Revision, String>,
}

impl Losses {
    /// What is known of a round, as it is stored.
    pub(super) fn of_round(&self, lineage: u32, round: u64) -> RoundMetric {
        let losses = [("loss", &self.rounds), ("probe_loss", &self.probes)];
        let known = losses.into_iter().filter_map(|(name, losses)| {
            let loss = losses.get(&round)?;
            Some((name.to_owned(), serde_json::json!(loss)))
        });
        RoundMetric {
            lineage,
            round,
            body: serde_json::Value::Object(known.collect()),
        }
    }

    /// Takes note of what was stored.
    pub fn learn(&mut self, metric: &RoundMetric) {
        let stored = |name| metric.body.get(name).and_then(serde_json::Value::as_f64);
        self.rounds
            .extend(stored("loss").map(|loss| (metric.round, loss)));
        self.probes
            .extend(stored("probe_loss").map(|loss| (metric.round, loss)));
    }

    /// Forgets all but the newest rounds.
    pub(super) fn forget_old(&mut self) {
        for losses in [&mut self.rounds, &mut self.probes] {
            while losses.len() > KEPT_LOSSES {
                losses.pop_first();
            }
        }
    }
}

/// A run.
pub struct LiveRun {
    /// Which.
    pub id: RunId,
    /// What was declared, complete.
    pub spec: RunSpec,
    /// The model.
    pub model: ModelConfig,
    /// Its data.
    pub dataset: DatasetManifest,
    /// Blobs of its data, which its workers may read.
    pub data_blobs: BTreeSet<Hash>,
    /// How its weights are cut.
    pub layout: Arc<Layout>,
    state: RwLock<Run>,
    losses: Mutex<Losses>,
    checked: Mutex<HashMap<Hash, u64>>,
    quotas: Quotas,
    mailbox: mpsc::Sender<Message>,
    jobs: mpsc::Sender<Job>,
    nudge: Notify,
    changes: Mutex<Option<watch::Sender<u64>>>,
    not_driven: Mutex<Option<String>>,
    trouble: Mutex<Option<String>>,
    /// Audits that someone is making.
    auditing: Mutex<BTreeSet<AssignmentId>>,
    /// Audits that nodes are asked for.
    asked: Asked,
    /// The numerics classes of updates, as their workers say.
    classes: Mutex<BTreeMap<AssignmentId, String>>,
}

impl LiveRun {
    /// A run with this state, and the mailbox's other end for its driver.
    pub fn new(
        id: RunId,
        spec: RunSpec,
        dataset: DatasetManifest,
        state: Run,
    ) -> anyhow::Result<(Arc<Self>, Mailbox)> {
        let model = spec
            .model
            .clone()
            .ok_or_else(|| anyhow::anyhow!("run {id} was stored without its model"))?;
        let layout = Arc::new(Layout::new(model.tensors().iter().map(TensorShape::len)));
        let mut data_blobs = BTreeSet::from([dataset.tokenizer]);
        data_blobs.extend(dataset.training.shards.iter().map(|shard| shard.hash));
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let (jobs, todo) = mpsc::channel(JOBS);
        let run = Self {
            id,
            spec,
            model,
            dataset,
            data_blobs,
            layout,
            state: RwLock::new(state),
            losses: Mutex::default(),
            checked: Mutex::default(),
            quotas: Quotas::default(),
            mailbox,
            jobs,
            nudge: Notify::new(),
            changes: Mutex::new(Some(watch::Sender::new(0))),
            not_driven: Mutex::default(),
            trouble: Mutex::default(),
            auditing: Mutex::default(),
            asked: Asked::default(),
            classes: Mutex::default(),
        };
        Ok((
            Arc::new(run),
            Mailbox {
                messages,
                jobs: todo,
            },
        ))
    }

    /// The state, all of it durable. Held for a moment only, never across an await.
    pub fn state(&self) -> RwLockReadGuard<'_, Run> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the driver alone.
    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, Run> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was measured.
    pub fn losses(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a full held-out loss could not be measured: whoever follows the run must
    /// not wait for it. A quick look that failed is just left out.
    pub(super) fn unmeasured(&self, due: Due, error: &anyhow::Error) {
        if !due.full {
            return;
        }
        {
            let mut losses = self.losses();
            losses.unmeasured.insert(due.revision, format!("{error:#}"));
            while losses.unmeasured.len() > KEPT_UNMEASURED {
                losses.unmeasured.pop_first();
            }
        }
        self.changed();
    }

    /// Asks for a decision and waits until it is durable.
    pub async fn ask(&self, input: Input, loss: Option<f64>) -> Result<Answer, DriveError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Decide { input, loss, reply }, answer)
            .await
    }

    /// Has a refusal of work written into the ledger and waits until it is there.
    pub async fn reject(&self, rejection: Rejection) -> Result<(), DriveError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Reject { rejection, reply }, answer)
            .await
    }

    /// Gives back the credit that a failed audit took, and answers what is held against its node,
    /// both or neither.
    pub async fn reverse(
        &self,
        review: Review,
        assignment: AssignmentId,
    ) -> Result<(), DriveError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Reverse {
            review,
            assignment,
            reply,
        };
        self.tell(message, answer).await
    }

    async fn tell<T>(
        &self,
        message: Message,
        answer: oneshot::Receiver<Result<T, DriveError>>,
    ) -> Result<T, DriveError> {
        if let Some(why) = self
            .not_driven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
        {
            return Err(DriveError::NotDriven(self.id, why));
        }
        self.mailbox
            .try_send(message)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => DriveError::Busy(self.id),
                mpsc::error::TrySendError::Closed(_) => {
                    DriveError::NotDriven(self.id, "it is shutting down".into())
                }
            })?;
        answer
            .await
            .map_err(|_| DriveError::NotDriven(self.id, "it is shutting down".into()))?
    }

    /// Lets the driver look again soon: something about a worker changed.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Resolves after a [`nudge`](Self::nudge).
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Ticks whenever something changed that a watcher should see; closed when the run is
    /// not driven any more.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes
            .as_ref()
            .map_or_else(|| watch::channel(0).1, watch::Sender::subscribe)
    }

    /// Makes [`changes`](Self::changes) tick.
    pub fn changed(&self) {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changes) = changes.as_ref() {
            changes.send_modify(|count| *count += 1);
        }
    }

    /// What of the driver's work failed and is tried again.
    pub fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says what failed, or that it is over.
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != trouble {
            *known = trouble;
            drop(known);
            self.changed();
        }
    }

    /// Audits that someone is making.
    pub(super) fn auditing(&self) -> MutexGuard<'_, BTreeSet<AssignmentId>> {
        self.auditing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is making this audit any more.
    pub(super) fn forget_audit(&self, assignment: AssignmentId) {
        self.auditing().remove(&assignment);
    }

    /// Audits that nodes are asked for.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Remembers in which numerics class an accepted update was trained, as its worker said when it
    /// could not know yet whether it is audited: what it says later changes nothing. A text that
    /// is too long says nothing.
    pub fn remember_class(&self, assignment: AssignmentId, class: String) {
        if class.len() > CLASS_BYTES || !self.spec.round.audit.enabled {
            return;
        }
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        classes.entry(assignment).or_insert(class);
        while classes.len() > CLASSES {
            classes.pop_first();
        }
    }

    /// The same of one update; empty where it is not known, as after a restart.
    pub fn class_of(&self, assignment: AssignmentId) -> String {
        let classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        classes.get(&assignment).cloned().unwrap_or_default()
    }

    /// Says why nobody drives it any more.
    pub(super) fn give_up(&self, why: &str) {
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        *self
            .not_driven
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// What its nodes sent.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Remembers that a payload was checked.
    pub fn remember_checked(&self, payload: Hash, bytes: u64) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= CHECKED {
            checked.clear();
        }
        checked.insert(payload, bytes);
    }

    /// Size of a payload that was checked.
    pub fn checked(&self, payload: Hash) -> Option<u64> {
        self.checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&payload)
            .copied()
    }

    /// Whether nothing more will be trained.
    pub fn is_over(&self) -> bool {
        is_over(&self.state())
    }

    /// How the newest weights are made, and their digest; None before the first.
    pub fn newest_recipe(&self) -> Option<(Recipe, Hash)> {
        let state = self.state();
        Some((Recipe::newest(&state)?, state.digest()?))
    }

    /// For the driver's effects.
    pub(super) fn jobs(&self) -> mpsc::Sender<Job> {
        self.jobs.clone()
    }

    /// A file with these weights, for the trainer.
    pub async fn copy_weights(&self, recipe: Recipe) -> anyhow::Result<WeightsFile> {
        let (reply, copy) = oneshot::channel();
        let gone = || anyhow::anyhow!("run {} is not driven any more", self.id);
        self.jobs
            .send(Job::Copy(recipe, reply))
            .await
            .map_err(|_| gone())?;
        copy.await.map_err(|_| gone())?
    }

    /// Most bytes that an update of this run can have.
    pub fn payload_limit(&self) -> usize {
        opengpu_merge::max_bytes(self.spec.sync.up.into(), &self.layout)
    }

    /// Tokens that are trained on in one block.
    pub fn tokens_per_block(&self) -> u64 {
        (self.spec.block_sequences * self.model.max_position_embeddings) as u64
    }

    /// Floating-point operations that training on so many tokens takes, in millions.
    pub fn megaflops(&self, tokens: u64) -> u64 {
        let flops = u128::from(tokens) * u128::from(self.model.training_flops_per_token());
        (flops / 1_000_000).try_into().unwrap_or(u64::MAX)
    }

    /// Aggregation and outer optimiser, as the arithmetic takes them.
    pub fn outer_settings(&self) -> OuterSettings {
        self.spec.outer_settings()
    }

    /// The digest of a revision, if it is one that can be known: the newest, or one whose
    /// merge or checkpoint is kept.
    pub fn digest_of(&self, revision: Revision) -> Option<Hash> {
        let state = self.state();
        if !state.is_live(revision) {
            return None;
        }
        if revision.number == state.revision().number {
            return state.digest();
        }
        let merge = state
            .merges()
            .find(|merge| merge.revision.number == revision.number);
        let of_merge = merge.map(|merge| merge.digest);
        let checkpoints = state.checkpoints();
        let of_checkpoint = checkpoints
            .iter()
            .find(|c| c.revision.number == revision.number);
        of_merge.or(of_checkpoint.map(|checkpoint| checkpoint.weights))
    }

    /// Whether nodes may read this blob because of this run.
    pub fn publishes(&self, blob: Hash) -> bool {
        if self.data_blobs.contains(&blob) {
            return true;
        }
        let state = self.state();
        state.merges().any(|merge| merge.merge == blob)
            || state
                .checkpoints()
                .iter()
                .any(|checkpoint| checkpoint.weights == blob)
    }
}

/// Whether nothing more will be trained in this state.
pub fn is_over(state: &Run) -> bool {
    matches!(state.phase(), Phase::Finished | Phase::Failed)
}
