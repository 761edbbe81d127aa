//! A fleet of equal workers that train in rounds, in one thread.

use anyhow::{Context, Result, bail};
use opengpu_merge::{Layout, OuterSettings, OuterState, Weighted, feedback, merge_round};
use opengpu_protocol::SyncSettings;
use opengpu_rounds::{
    AssignmentId, FeedbackId, Fleet, Hash, Input, NodeId, RoundSettings, Run, WorkerId,
    WorkerSight, weight,
};
use opengpu_trainer::{InnerLoop, Signals, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, TrainRequest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::Data;

/// Length of a simulated round, in milliseconds of a clock that nothing waits for.
const ROUND_MS: u64 = 60_000;

/// How workers learn from each other in rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Federated {
    /// Rounds.
    pub rounds: u64,
    /// Inner steps in a round (H).
    pub steps: u64,
    /// Compression and outer optimiser.
    pub sync: SyncSettings,
    /// Part of a worker's unsent progress that it starts a round with: 0 is the product's
    /// way (start from the global weights), 1 keeps all of it.
    #[serde(default)]
    pub keep_unsent: f32,
}

/// What a setting gave.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Held-out loss at the end, nats per token.
    pub nats: f64,
    /// Payload bytes up, per parameter, worker and round.
    pub up: f64,
    /// Merge bytes down, per parameter and round.
    pub down: f64,
    /// Rounds merged.
    pub rounds: u64,
    /// Tokens trained on.
    pub tokens: u64,
}

struct Worker {
    inner: InnerLoop,
    feedback: Vec<f32>,
}

impl Federated {
    /// Trains `workers` workers from first weights, which `seed` decides together with the
    /// order of the data, to the last round.
    pub fn run(
        &self,
        data: &Data,
        inner: &InnerSettings,
        workers: u64,
        seed: u64,
    ) -> Result<Figures> {
        let layout = Layout::new(data.model.tensors().iter().map(|tensor| tensor.len()));
        let outer = OuterSettings::from(&self.sync);
        let mut weights = fresh_weights(&data.model, seed);
        let mut state = OuterState::new(&layout, &outer);
        let mut tokens = data.training()?;
        let blocks_per_epoch = data.blocks(inner.batch_sequences);
        let mut clock = 0;
        let (mut run, mut fleet) = self.form(workers, blocks_per_epoch, &mut clock)?;
        let mut workers: BTreeMap<WorkerId, Worker> = (1..=workers)
            .map(|id| {
                let worker = Worker {
                    inner: InnerLoop::new(&data.model, inner),
                    feedback: vec![0.0; layout.len()],
                };
                (WorkerId(id), worker)
            })
            .collect();
        let (mut up, mut down, mut updates, mut tokens_trained) = (0u64, 0u64, 0u64, 0u64);
        while run.revision().number < self.rounds {
            let mut payloads: BTreeMap<AssignmentId, Vec<u8>> = BTreeMap::new();
            for (&id, worker) in &mut workers {
                let (assignment, lease) = run.assignment_of(id).context("a worker got no work")?;
                let base = lease.base;
                let request = TrainRequest {
                    blocks: lease
                        .blocks()
                        .iter()
                        .map(|range| (range.start, range.end))
                        .collect(),
                    blocks_per_epoch,
                    block_sequences: inner.batch_sequences,
                    seed,
                    progress_from: run.progress(base.number),
                    progress_to: run.progress(base.number + 1),
                    out: Default::default(),
                    slowdown: 1.0,
                };
                let mut local = weights.clone();
                for (weight, unsent) in local.iter_mut().zip(&worker.feedback) {
                    *weight -= self.keep_unsent * unsent;
                }
                let (trained, local) = worker.inner.train(
                    local,
                    &mut tokens,
                    &request,
                    &Signals::default(),
                    &mut |_| (),
                )?;
                tokens_trained += trained.tokens;
                let payload = feedback::send(
                    self.sync.up.into(),
                    &layout,
                    self.sync.feedback_decay,
                    &mut worker.feedback,
                    &weights,
                    &local,
                )?;
                up += payload.len() as u64;
                updates += 1;
                let hash = Hash::of(&payload);
                let bytes = payload.len() as u64;
                payloads.insert(assignment, payload);
                let update = Input::Update {
                    assignment,
                    worker: id,
                    base,
                    blocks_completed: trained.blocks,
                    payload: hash,
                    payload_bytes: bytes,
                    tokens_per_block: trained.tokens / trained.blocks,
                    feedback: FeedbackId(id.0),
                };
                decide(&mut run, clock, &update, &fleet)?;
            }
            let pending = run
                .pending_merge()
                .context("all reported, but no merge is due")?;
            let weighted: Vec<Weighted> = pending
                .updates
                .iter()
                .map(|update| Weighted {
                    payload: &payloads[&update.assignment],
                    weight: weight(update),
                })
                .collect();
            let merge = merge_round(&layout, &outer, &weighted, &mut state, &mut weights)?;
            down += merge.bytes.len() as u64;
            for (update, factor) in pending.updates.iter().zip(&merge.factors) {
                if *factor < 1.0 {
                    let worker = workers.get_mut(&update.worker).context("unknown worker")?;
                    feedback::restore(
                        &layout,
                        &payloads[&update.assignment],
                        1.0 - factor,
                        &mut worker.feedback,
                    )?;
                }
            }
            let done = Input::MergeDone {
                round: pending.round,
                merge: Hash::of(&merge.bytes),
                merge_bytes: merge.bytes.len() as u64,
                digest: Hash(merge.digest),
                factors: merge.factors,
            };
            clock += ROUND_MS / 2;
            decide(&mut run, clock, &done, &fleet)?;
            see(&mut fleet, &run, clock, self.speed());
            decide(&mut run, clock, &Input::Tick, &fleet)?;
        }
        let parameters = layout.len() as f64;
        Ok(Figures {
            nats: data.held_out_loss(&weights)?,
            up: up as f64 / parameters / updates as f64,
            down: down as f64 / parameters / self.rounds as f64,
            rounds: run.revision().number,
            tokens: tokens_trained,
        })
    }

    /// Blocks a second that fit exactly `steps` blocks into a round.
    fn speed(&self) -> f64 {
        self.steps as f64 / (ROUND_MS as f64 / 1000.0)
    }

    /// A run whose workers have joined and hold the first weights.
    fn form(&self, workers: u64, blocks_per_epoch: u64, clock: &mut u64) -> Result<(Run, Fleet)> {
        let all = u32::try_from(workers)?;
        let settings = RoundSettings {
            rounds: self.rounds,
            blocks_per_epoch,
            min_workers: all,
            max_workers: all,
            quorum: all,
            duration_ms: ROUND_MS,
            forming_ms: 0,
            max_blocks: self.steps,
            ..RoundSettings::default()
        };
        let mut run = Run::from_events(&[Run::create(settings, *clock)]);
        let mut fleet = Fleet::new();
        decide(&mut run, *clock, &Input::Start, &fleet)?;
        for id in 1..=workers {
            let join = Input::Join {
                worker: WorkerId(id),
                node: NodeId(id),
                feedback: FeedbackId(id),
            };
            decide(&mut run, *clock, &join, &fleet)?;
        }
        let first = Input::CheckpointDone {
            revision: run.revision(),
            weights: Hash([0; 32]),
            outer_state: Hash([0; 32]),
        };
        decide(&mut run, *clock, &first, &fleet)?;
        see(&mut fleet, &run, *clock, self.speed());
        decide(&mut run, *clock, &Input::Tick, &fleet)?;
        Ok((run, fleet))
    }
}

/// Every worker holds the newest weights.
fn see(fleet: &mut Fleet, run: &Run, clock: u64, speed: f64) {
    for (worker, _) in run.members() {
        let sight = WorkerSight {
            revision: Some(run.revision()),
            blocks_per_second: speed,
            last_heard_ms: clock,
            draining: false,
        };
        fleet.insert(worker, sight);
    }
}

fn decide(run: &mut Run, clock: u64, input: &Input, fleet: &Fleet) -> Result<()> {
    let decision = run.decide(clock, input, fleet);
    if let Some(refusal) = decision.refusal {
        bail!("{}", refusal.message);
    }
    for event in &decision.events {
        run.fold(event);
    }
    Ok(())
}
