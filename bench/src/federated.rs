//! A fleet of equal workers that train in rounds, in one thread.

use anyhow::{Context, Result, bail};
use opengpu_dataset::TokenStream;
use opengpu_merge::{Layout, OuterState, Weighted, feedback, merge_round};
use opengpu_protocol::{Aggregator, SyncSettings, TrustSettings, outer_settings};
use opengpu_rounds::{
    FeedbackId, Fleet, Hash, Input, NodeId, Regard, RoundSettings, Run, WEIGHING, WorkerId,
    WorkerSight, weights as weights_of,
};
use opengpu_trainer::{InnerLoop, Signals, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, TrainRequest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::attack::Attack;
use crate::{Data, Hostile};

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
    /// How far workers are trusted; None: the plain mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustSettings>,
    /// Workers that do something else than they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostile: Option<Hostile>,
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
    /// How the updates counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// How updates counted in their merges, in parts of their weight.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Mean over those of honest workers.
    pub honest: f64,
    /// Part of them that counted less than half of their weight.
    pub wronged: f64,
    /// Mean over those of hostile workers.
    pub hostile: f64,
}

struct Worker {
    inner: InnerLoop,
    feedback: Vec<f32>,
    /// What it does, if it is hostile.
    attack: Option<Attack>,
    /// What it made this round and the round before.
    progress: Vec<f32>,
    before: Vec<f32>,
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
        let mean = TrustSettings {
            aggregator: Aggregator::Mean,
            ..TrustSettings::default()
        };
        let outer = outer_settings(&self.sync, self.trust.as_ref().unwrap_or(&mean));
        let mut weights = fresh_weights(&data.model, seed);
        let mut state = OuterState::new(&layout, &outer);
        let (mut tokens, mut poisoned) = (data.training()?, data.poisoned()?);
        let blocks_per_epoch = data.blocks(inner.batch_sequences);
        let mut clock = 0;
        let (mut run, mut fleet) = self.form(workers, blocks_per_epoch, &mut clock)?;
        let first_hostile = workers - self.hostile.map_or(0, |hostile| hostile.workers);
        let mut workers: BTreeMap<WorkerId, Worker> = (1..=workers)
            .map(|id| {
                let hostile = self.hostile.filter(|_| id > first_hostile);
                let worker = Worker {
                    inner: InnerLoop::new(&data.model, inner),
                    feedback: vec![0.0; layout.len()],
                    attack: hostile.map(|hostile| hostile.attack),
                    progress: vec![0.0; layout.len()],
                    before: vec![0.0; layout.len()],
                };
                (WorkerId(id), worker)
            })
            .collect();
        let (mut up, mut down, mut updates, mut tokens_trained) = (0u64, 0u64, 0u64, 0u64);
        let mut counts = Counts::default();
        while run.revision().number < self.rounds {
            let round = run.round();
            for (&id, worker) in &mut workers {
                let poisons = worker.attack == Some(Attack::PoisonedData);
                let stream = if poisons { &mut poisoned } else { &mut tokens };
                let schedule = (inner, blocks_per_epoch, seed);
                tokens_trained += self.train(&run, id, worker, stream, &weights, schedule)?;
            }
            let payloads = self.payloads(&layout, &mut workers, seed ^ round << 32)?;
            for (&id, payload) in &payloads {
                let (assignment, lease) = run.assignment_of(id).context("a worker got no work")?;
                up += payload.len() as u64;
                updates += 1;
                let update = Input::Update {
                    assignment,
                    worker: id,
                    base: lease.base,
                    blocks_completed: lease.block_count(),
                    payload: Hash::of(payload),
                    payload_bytes: payload.len() as u64,
                    tokens_per_block: tokens_per_block(data, inner),
                    feedback: FeedbackId(id.0),
                    commitment: None,
                    draw: 0,
                };
                decide(&mut run, clock, &update, &fleet)?;
            }
            let pending = run
                .pending_merge()
                .context("all reported, but no merge is due")?;
            let fresh = |worker: &WorkerId| workers[worker].attack.is_some_and(Attack::is_fresh);
            let weighted: Vec<Weighted> = pending
                .updates
                .iter()
                .zip(weights_of(WEIGHING, &pending.updates))
                .map(|(update, weight)| Weighted {
                    payload: &payloads[&update.worker],
                    weight,
                    record: update.record.filter(|_| !fresh(&update.worker)),
                })
                .collect();
            let merge = merge_round(&layout, &outer, &weighted, &mut state, &mut weights)?;
            down += merge.bytes.len() as u64;
            for (update, factor) in pending.updates.iter().zip(&merge.factors) {
                if *factor < 1.0 {
                    let worker = workers.get_mut(&update.worker).context("unknown worker")?;
                    feedback::restore(
                        &layout,
                        &payloads[&update.worker],
                        1.0 - factor,
                        &mut worker.feedback,
                    )?;
                }
            }
            // All have the same weight here.
            let all = pending.updates.len() as f32;
            let regards: Vec<Regard> = merge
                .regards
                .iter()
                .map(|found| Regard {
                    counted: found.share * all,
                    agreement: found.agreement,
                    record: found.record,
                    needed: found.needed,
                    twin: found
                        .twin
                        .map(|(other, _)| pending.updates[other].assignment),
                })
                .collect();
            for (update, regard) in pending.updates.iter().zip(&regards) {
                counts.add(workers[&update.worker].attack.is_some(), regard);
            }
            let done = Input::MergeDone {
                round: pending.round,
                merge: Hash::of(&merge.bytes),
                merge_bytes: merge.bytes.len() as u64,
                digest: Hash(merge.digest),
                factors: merge.factors,
                regards,
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
            counted: (self.trust.is_some() || self.hostile.is_some()).then(|| counts.parts()),
        })
    }

    /// Has a worker train its assignment and notes its progress. Returns the tokens trained.
    fn train(
        &self,
        run: &Run,
        id: WorkerId,
        worker: &mut Worker,
        tokens: &mut TokenStream,
        weights: &[f32],
        (inner, blocks_per_epoch, seed): (&InnerSettings, u64, u64),
    ) -> Result<u64> {
        let (_, lease) = run.assignment_of(id).context("a worker got no work")?;
        let effort = worker.attack.map_or(1.0, Attack::effort);
        let mut left = (lease.block_count() as f64 * effort).ceil() as u64;
        let mut blocks = Vec::new();
        for range in lease.blocks() {
            let end = range.end.min(range.start + left);
            left -= end - range.start;
            if end > range.start {
                blocks.push((range.start, end));
            }
        }
        let request = TrainRequest {
            blocks,
            blocks_per_epoch,
            block_sequences: inner.batch_sequences,
            seed,
            progress_from: run.progress(lease.base.number),
            progress_to: run.progress(lease.base.number + 1),
            at_most_blocks: None,
            out: Default::default(),
            slowdown: 1.0,
        };
        let mut local = weights.to_vec();
        for (weight, unsent) in local.iter_mut().zip(&worker.feedback) {
            *weight -= self.keep_unsent * unsent;
        }
        let signals = Signals::default();
        let (trained, local) =
            worker
                .inner
                .train(local, tokens, &request, &signals, &mut |_| ())?;
        std::mem::swap(&mut worker.before, &mut worker.progress);
        for ((made, global), local) in worker.progress.iter_mut().zip(weights).zip(&local) {
            *made = global - local;
        }
        Ok(trained.tokens)
    }

    /// What each worker sends.
    fn payloads(
        &self,
        layout: &Layout,
        workers: &mut BTreeMap<WorkerId, Worker>,
        seed: u64,
    ) -> Result<BTreeMap<WorkerId, Vec<u8>>> {
        let honest = workers.values().filter(|worker| worker.attack.is_none());
        let honest: Vec<&[f32]> = honest.map(|worker| &worker.progress[..]).collect();
        let sent: BTreeMap<WorkerId, Vec<f32>> = workers
            .iter()
            .map(|(id, worker)| {
                let (own, before) = (&worker.progress, &worker.before);
                let sent = match worker.attack {
                    Some(attack) => {
                        let mut forged = attack.forge(layout, own, before, &honest, seed ^ id.0);
                        differ(&mut forged, seed ^ id.0);
                        forged
                    }
                    None => own.clone(),
                };
                (*id, sent)
            })
            .collect();
        let none = vec![0.0; layout.len()];
        let mut payloads = BTreeMap::new();
        for (id, worker) in workers {
            let payload = feedback::send(
                self.sync.up.into(),
                layout,
                self.sync.feedback_decay,
                &mut worker.feedback,
                &sent[id],
                &none,
            )?;
            payloads.insert(*id, payload);
        }
        Ok(payloads)
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

fn tokens_per_block(data: &Data, inner: &InnerSettings) -> u64 {
    (inner.batch_sequences * data.model.max_position_embeddings) as u64
}

/// Sums over all updates.
#[derive(Default)]
struct Counts {
    honest: u64,
    honest_counted: f64,
    wronged: u64,
    hostile: u64,
    hostile_counted: f64,
}

impl Counts {
    fn add(&mut self, hostile: bool, regard: &Regard) {
        let counted = f64::from(regard.counted);
        if hostile {
            self.hostile += 1;
            self.hostile_counted += counted;
        } else {
            self.honest += 1;
            self.honest_counted += counted;
            self.wronged += u64::from(counted < 0.5);
        }
    }

    fn parts(&self) -> Counted {
        let part = |sum: f64, count: u64| sum / count.max(1) as f64;
        Counted {
            honest: part(self.honest_counted, self.honest),
            wronged: part(self.wronged as f64, self.honest),
            hostile: part(self.hostile_counted, self.hostile),
        }
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
            trusted: true,
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

/// The same bytes are taken for one assignment only: an attacker changes one weight of what it
/// sends, so that those of others or of another round are not refused for that.
fn differ(forged: &mut [f32], seed: u64) {
    let largest = forged
        .iter()
        .fold(0f32, |largest, value| largest.max(value.abs()));
    let at = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    let at = (at % forged.len().max(1) as u64) as usize;
    if let Some(value) = forged.get_mut(at) {
        *value = if largest > 0.0 { largest } else { 1e-6 };
    }
}
