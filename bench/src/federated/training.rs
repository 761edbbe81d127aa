//! A training under way, in one thread: the coordinator's driver and all agents, without
//! network, files and a clock that anything waits for.

mod unusual;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use opengpu_dataset::TokenStream;
use opengpu_merge::{Layout, Merge, OuterSettings, OuterState, Weighted, merge_round};
use opengpu_protocol::outer_settings;
use opengpu_rounds::{
    AssignmentId, AuditOutcome, AuditRules, FeedbackId, Fleet, Hash, Input, NodeId, PendingMerge,
    Phase, Refusal, Regard, Reputation, Run, WEIGHING, WorkerId, WorkerSight,
    weights as weights_of,
};
use opengpu_trainer::fresh_weights;
use opengpu_trainer_protocol::{InnerSettings, InnerState};

use super::audits::Auditor;
use super::figures::{Counts, Figures};
use super::honest::{Arrival, Kind, Tally, Unusual};
use super::worker::{Schedule, Worker};
use super::{Federated, ROUND_MS};
use crate::Data;
use crate::attack::Attack;
use crate::decide::{decide, offer};
use crate::random::mix;

/// How long of a round workers train. What is left is too little for who gets ready meanwhile.
const TRAINING_MS: u64 = ROUND_MS / 8 * 7;

/// A training under way: the coordinator and all workers.
pub(super) struct Training<'a> {
    settings: &'a Federated,
    data: &'a Data,
    inner: &'a InnerSettings,
    schedule: Schedule,
    layout: Layout,
    outer: OuterSettings,
    weights: Vec<f32>,
    state: OuterState,
    tokens: TokenStream,
    poisoned: TokenStream,
    run: Run,
    fleet: Fleet,
    clock: u64,
    workers: BTreeMap<WorkerId, Worker>,
    /// The name of the next worker that joins.
    next_worker: u64,
    /// Payloads and openings.
    blobs: BTreeMap<Hash, Vec<u8>>,
    auditor: Option<Auditor>,
    counts: Counts,
    /// Honest workers that are not like most, if one looks at those.
    unusual: Option<Unusual>,
    up: u64,
    down: u64,
    updates: u64,
    tokens_trained: u64,
}

impl<'a> Training<'a> {
    /// A run whose workers have joined and hold the first weights. `unusual`: they are honest, and
    /// many are not like most.
    pub(super) fn start(
        settings: &'a Federated,
        (data, inner): (&'a Data, &'a InnerSettings),
        workers: u64,
        seed: u64,
        unusual: Option<Unusual>,
    ) -> Result<Self> {
        let layout = Layout::new(data.model.tensors().iter().map(|tensor| tensor.len()));
        let outer = outer_settings(&settings.sync, &settings.trust());
        let schedule = Schedule {
            blocks_per_epoch: data.blocks(inner.batch_sequences),
            block_sequences: inner.batch_sequences,
            seed,
        };
        let auditor = settings
            .audits
            .map(|_| Auditor::new(data, settings.spec(inner, seed)));
        let rules = match &auditor {
            None => AuditRules::default(),
            Some(_) => {
                ensure!(
                    inner.state == InnerState::Reset && settings.keep_unsent == 0.0,
                    "audits need assignments that follow from public data alone"
                );
                settings.spec(inner, seed).audit_rules()
            }
        };
        let rounds = settings.round_settings(workers, schedule.blocks_per_epoch, rules)?;
        let mut training = Self {
            settings,
            data,
            inner,
            schedule,
            state: OuterState::new(&layout, &outer),
            layout,
            outer,
            weights: fresh_weights(&data.model, seed),
            tokens: data.training()?,
            poisoned: data.poisoned()?,
            run: Run::from_events(&[Run::create(rounds, 0)]),
            fleet: Fleet::new(),
            clock: 0,
            workers: BTreeMap::new(),
            next_worker: 1,
            blobs: BTreeMap::new(),
            auditor,
            counts: Counts::default(),
            unusual,
            up: 0,
            down: 0,
            updates: 0,
            tokens_trained: 0,
        };
        training.decide(&Input::Start)?;
        let first_hostile = workers - settings.hostile.map_or(0, |hostile| hostile.workers);
        let hostile_are_new = settings.audits.is_some_and(|audits| audits.hostile_are_new);
        for id in 1..=workers {
            let hostile = settings.hostile.filter(|_| id > first_hostile);
            let attack = hostile.map(|hostile| hostile.attack);
            let new = attack.is_some_and(|attack| attack.is_fresh() || hostile_are_new);
            let kind = training.unusual.is_some().then(|| Kind::of(id));
            let new = new || kind == Some(Kind::Joiner);
            training.join((attack, kind), !new, 0)?;
        }
        let revision = training.run.revision();
        training.decide(&Input::CheckpointDone {
            revision,
            weights: Hash([0; 32]),
            outer_state: Hash([0; 32]),
        })?;
        training.see();
        training.decide(&Input::Tick)?;
        Ok(training)
    }

    /// Trains to the last round.
    pub(super) fn finish(mut self) -> Result<Figures> {
        self.all_rounds()?;
        self.figures()
    }

    /// Trains to the last round; what became of unusual workers.
    pub(super) fn tallies(mut self) -> Result<BTreeMap<Kind, Tally>> {
        self.all_rounds()?;
        Ok(self.unusual.map(|all| all.tallies).unwrap_or_default())
    }

    fn all_rounds(&mut self) -> Result<()> {
        while self.run.phase() != Phase::Finished {
            self.round()?;
        }
        Ok(())
    }

    fn figures(self) -> Result<Figures> {
        let parameters = self.layout.len() as f64;
        let says = self.settings.trust.is_some() || self.settings.hostile.is_some();
        Ok(Figures {
            nats: self.data.held_out_loss(&self.weights)?,
            up: self.up as f64 / parameters / self.updates as f64,
            down: self.down as f64 / parameters / self.run.revision().number as f64,
            rounds: self.run.revision().number,
            tokens: self.tokens_trained,
            counted: says.then(|| self.counts.parts()),
            audited: self.auditor.as_ref().map(|auditor| auditor.watch.figures()),
        })
    }

    /// From an open round to the next. An audit takes about as long as training did. So what
    /// an update is held for is found while the next round trains, and what an update was
    /// drawn for after it was merged once the next round is merged too: who cheats has had two
    /// rounds by then.
    fn round(&mut self) -> Result<()> {
        let round = self.run.round();
        self.train()?;
        self.clock += TRAINING_MS;
        self.see();
        self.audit(round, true)?;
        self.send(Arrival::InTime)?;
        self.collect()?;
        self.merge()?;
        self.settle()?;
        if self.run.phase() == Phase::Finished {
            return Ok(());
        }
        self.audit(round, false)?;
        let needed = self.run.payloads_needed();
        self.blobs.retain(|hash, _| needed.contains(hash));
        self.relieve_joiner(round)?;
        self.see();
        self.decide(&Input::Tick)
    }

    /// The end of training time, and the grace if somebody is late.
    fn collect(&mut self) -> Result<()> {
        let grace_ms = self.run.settings().grace_ms;
        self.clock += ROUND_MS - TRAINING_MS;
        for (waits_ms, arrival) in [(grace_ms / 2, true), (grace_ms - grace_ms / 2, false)] {
            if self.run.pending_merge().is_some() {
                return Ok(());
            }
            self.see();
            self.decide(&Input::Tick)?;
            self.clock += waits_ms;
            self.see();
            if arrival {
                self.send(Arrival::InGrace)?;
            }
            self.decide(&Input::Tick)?;
        }
        Ok(())
    }

    /// Has each worker with an assignment train it.
    fn train(&mut self) -> Result<()> {
        let round = self.run.round();
        for (&id, worker) in &mut self.workers {
            let Some((_, lease)) = self.run.assignment_of(id) else {
                ensure!(self.auditor.is_some(), "a worker got no work");
                continue;
            };
            // Who owes an update has trained it.
            if lease.round < round {
                continue;
            }
            let stream = match (worker.attack, worker.kind, &mut self.unusual) {
                (Some(Attack::PoisonedData), ..) => &mut self.poisoned,
                (_, Some(Kind::OtherText), Some(unusual)) => &mut unusual.other,
                _ => &mut self.tokens,
            };
            self.tokens_trained += worker.train(
                (&self.run, lease),
                self.schedule,
                stream,
                &self.weights,
                self.settings.keep_unsent,
            )?;
        }
        Ok(())
    }

    /// Has each worker that trained, and whose update arrives now, send it and open what is drawn
    /// of it.
    fn send(&mut self, now: Arrival) -> Result<()> {
        let round = self.run.round();
        let seed = self.schedule.seed ^ round << 32;
        let arrives = |id: &WorkerId| {
            let Some((_, lease)) = self.run.assignment_of(*id) else {
                return false;
            };
            let kind = self.workers[id].kind.unwrap_or(Kind::Usual);
            kind.arrives(lease.round < round) == Some(now)
        };
        let working: Vec<WorkerId> = self.workers.keys().copied().filter(arrives).collect();
        if working.is_empty() && now == Arrival::InGrace {
            return Ok(());
        }
        let trained = working.iter().map(|id| &self.workers[id]);
        let honest: Vec<&[f32]> = trained
            .filter(|worker| worker.attack.is_none())
            .map(|worker| &worker.progress[..])
            .collect();
        ensure!(
            !honest.is_empty(),
            "no honest worker is left in round {round}"
        );
        let claims: Vec<(WorkerId, Vec<f32>)> = working
            .iter()
            .map(|id| {
                let worker = &self.workers[id];
                (*id, worker.claimed(&self.layout, &honest, seed ^ id.0))
            })
            .collect();
        for (id, claimed) in claims {
            let (assignment, lease) = self.run.assignment_of(id).context("a worker got no work")?;
            let base = lease.base;
            let worker = self.workers.get_mut(&id).context("unknown worker")?;
            let sync = &self.settings.sync;
            let audited = self.auditor.is_some();
            let (payload, commitment) =
                worker.send(&self.layout, sync, assignment, &claimed, audited)?;
            let (blocks_completed, feedback) = (worker.completed, worker.life(id));
            opengpu_merge::check(sync.up.into(), &self.layout, &payload)?;
            self.up += payload.len() as u64;
            self.updates += 1;
            let hash = Hash::of(&payload);
            let update = Input::Update {
                assignment,
                worker: id,
                base,
                blocks_completed,
                payload: hash,
                payload_bytes: payload.len() as u64,
                tokens_per_block: self.tokens_per_block(),
                feedback,
                commitment,
                draw: mix(mix(mix(self.schedule.seed) ^ round) ^ id.0),
            };
            self.blobs.insert(hash, payload);
            self.note(id, |tally| tally.updates += 1);
            match offer(&mut self.run, self.clock, &update, &self.fleet) {
                Some(refusal) => self.refused(id, &refusal)?,
                None => self.open(assignment, id)?,
            }
        }
        Ok(())
    }

    /// An update was refused. Its worker leaves, and comes back with new error feedback.
    fn refused(&mut self, id: WorkerId, refusal: &Refusal) -> Result<()> {
        if self.is_hostile(id) {
            self.counts.refuse();
        } else {
            ensure!(
                self.unusual.is_some(),
                "an update of honest worker {id} was refused: {}",
                refusal.message
            );
            self.note(id, |tally| {
                *tally.refused.entry(refusal.code.to_owned()).or_default() += 1;
            });
        }
        let worker = self.workers.get_mut(&id).context("unknown worker")?;
        worker.begin_anew();
        let feedback = worker.life(id);
        self.decide(&Input::Leave {
            worker: id,
            reason: "its update was refused".into(),
        })?;
        self.decide(&Input::Join {
            worker: id,
            node: NodeId(id.0),
            feedback,
        })
    }

    /// Notes something about an unusual worker.
    fn note(&mut self, id: WorkerId, note: impl FnOnce(&mut Tally)) {
        if let Some(unusual) = &mut self.unusual {
            unusual.note(id, note);
        }
    }

    /// Has a worker open the chunks of its update, if it is to be audited.
    fn open(&mut self, assignment: AssignmentId, id: WorkerId) -> Result<()> {
        let Some(audit) = self.run.audit(assignment) else {
            return Ok(());
        };
        let auditor = self.auditor.as_mut().context("an audit without rules")?;
        auditor.watch.drawn(id, audit.round);
        let chunks = auditor.drawn(&self.layout, audit);
        let openings = self.workers[&id].open(&self.layout, &chunks)?;
        let hash = Hash::of(&openings);
        self.blobs.insert(hash, openings);
        self.decide(&Input::Opened {
            assignment,
            worker: id,
            openings: hash,
        })
    }

    fn merge(&mut self) -> Result<()> {
        let pending = self
            .run
            .pending_merge()
            .context("all reported, but no merge is due")?;
        if let Some(auditor) = &mut self.auditor {
            auditor.keep(pending.base.number, &self.weights);
        }
        let weights = weights_of(WEIGHING, &pending.updates);
        let mut weighted = Vec::with_capacity(weights.len());
        for (update, weight) in pending.updates.iter().zip(&weights) {
            let payload = self.blobs.get(&update.payload);
            weighted.push(Weighted {
                payload: payload.context("a payload is gone")?,
                weight: *weight,
                record: update.record.filter(|_| !self.is_fresh(update.worker)),
            });
        }
        let before = self.unusual.is_some().then(|| self.weights.clone());
        let merge = merge_round(
            &self.layout,
            &self.outer,
            &weighted,
            &mut self.state,
            &mut self.weights,
        )?;
        self.down += merge.bytes.len() as u64;
        let regards = regards(&pending, &weights, &merge);
        for (update, regard) in pending.updates.iter().zip(&regards) {
            let hostile = self.is_hostile(update.worker);
            self.counts.add(hostile, regard);
            self.note(update.worker, |tally| tally.merge(regard));
        }
        let found = (weights, merge.factors.clone(), regards.clone());
        self.decide(&Input::MergeDone {
            round: pending.round,
            merge: Hash::of(&merge.bytes),
            merge_bytes: merge.bytes.len() as u64,
            digest: Hash(merge.digest),
            factors: merge.factors,
            regards,
        })?;
        match before {
            Some(before) => self.probe(&before, &pending, found),
            None => Ok(()),
        }
    }

    fn settle(&mut self) -> Result<()> {
        for (&id, worker) in &mut self.workers {
            worker.settle((&self.run, id), &self.layout, &self.blobs)?;
        }
        Ok(())
    }

    /// Makes the audits of updates from before round `before`: those that are held for theirs,
    /// or those that are not. Who fails is put in quarantine.
    fn audit(&mut self, before: u64, held: bool) -> Result<()> {
        let due = |run: &Run| {
            let mut pending = run.pending_audits().into_iter();
            pending.find(|(_, audit)| audit.held == held && audit.round < before)
        };
        while let Some((assignment, audit)) = due(&self.run) {
            let auditor = self.auditor.as_mut().context("an audit without rules")?;
            let unusual = self.unusual.as_mut();
            let class = unusual.as_ref().map(|all| all.class(audit.worker));
            let tokens = match unusual {
                Some(all) if all.kind(audit.worker) == Some(Kind::OtherText) => &mut all.other,
                _ => &mut self.tokens,
            };
            let finding = auditor.find(
                (&self.run, &audit),
                &self.layout,
                &self.blobs,
                self.schedule,
                (class.as_deref().unwrap_or_default(), tokens),
            )?;
            if let Some(unusual) = &mut self.unusual {
                unusual.note(audit.worker, |tally| tally.audit(&finding));
            }
            auditor.watch.found(audit.worker, finding.outcome);
            let (outcome, proven) = (finding.outcome, finding.is_proven());
            self.decide(&Input::Audited {
                assignment,
                finding,
            })?;
            match outcome {
                AuditOutcome::Failed if proven => self.quarantine(audit.worker, before)?,
                AuditOutcome::Passed => {
                    if let Some(worker) = self.workers.get_mut(&audit.worker) {
                        worker.passed += 1;
                    }
                }
                _ => bail!("an audit of worker {} gave {outcome:?}", audit.worker),
            }
        }
        Ok(())
    }

    /// A node in quarantine gets no work. Whoever has names enough comes again under another.
    fn quarantine(&mut self, id: WorkerId, round: u64) -> Result<()> {
        let Some(gone) = self.workers.remove(&id) else {
            // For an earlier update.
            return Ok(());
        };
        if let Some(auditor) = &mut self.auditor {
            auditor.watch.catches(id, round);
        }
        self.fleet.remove(&id);
        self.note(id, |tally| tally.quarantined += 1);
        self.decide(&Input::Expel {
            worker: id,
            reason: "it failed an audit".into(),
        })?;
        match gone.attack {
            Some(attack) if attack.is_fresh() => self.join((Some(attack), None), false, round + 1),
            _ => Ok(()),
        }
    }

    /// A worker on a machine of its own joins; `first` is the first round it can take part in.
    fn join(
        &mut self,
        (attack, kind): (Option<Attack>, Option<Kind>),
        known: bool,
        first: u64,
    ) -> Result<()> {
        let id = self.next_worker;
        self.next_worker += 1;
        let worker = Worker::new(self.data, self.inner, &self.layout, (attack, kind), known);
        if let (Some(unusual), Some(kind)) = (&mut self.unusual, kind) {
            unusual.joins(WorkerId(id), kind, worker.class());
        }
        self.workers.insert(WorkerId(id), worker);
        if let Some(auditor) = &mut self.auditor {
            auditor.watch.joins(WorkerId(id), attack.is_some(), first);
        }
        self.decide(&Input::Join {
            worker: WorkerId(id),
            node: NodeId(id),
            feedback: FeedbackId(id),
        })
    }

    /// Every worker holds the newest weights and was just heard of.
    fn see(&mut self) {
        let probation = self.settings.trust().probation_audits;
        for (id, worker) in &self.workers {
            // Who still owes an update holds what that started from.
            let owed = self.run.assignment_of(*id).map(|(_, lease)| lease);
            let owed = owed.filter(|lease| lease.round < self.run.round());
            let usual = self.settings.speed();
            let sight = WorkerSight {
                revision: Some(owed.map_or(self.run.revision(), |lease| lease.base)),
                blocks_per_second: worker.kind.map_or(usual, |kind| kind.speed(usual)),
                last_heard_ms: self.clock,
                draining: false,
                trusted: worker.known || worker.passed >= probation,
                reputation: match (worker.kind, worker.known) {
                    // None of its audits is long ago.
                    (Some(_), false) => Reputation {
                        audits: f64::from(worker.passed),
                        at_unix_ms: 0,
                    }
                    .beyond_probation(0, probation),
                    _ => 1.0,
                },
            };
            self.fleet.insert(*id, sight);
        }
    }

    fn decide(&mut self, input: &Input) -> Result<()> {
        decide(&mut self.run, self.clock, input, &self.fleet)
    }

    fn is_hostile(&self, id: WorkerId) -> bool {
        let worker = self.workers.get(&id);
        worker.is_some_and(|worker| worker.attack.is_some())
    }

    /// Without audits a fresh identity keeps its worker here, and has no record.
    fn is_fresh(&self, id: WorkerId) -> bool {
        let worker = self.workers.get(&id);
        worker.is_some_and(|worker| worker.attack.is_some_and(Attack::is_fresh))
    }

    fn tokens_per_block(&self) -> u64 {
        (self.inner.batch_sequences * self.data.model.max_position_embeddings) as u64
    }
}

/// What was found about each update, in parts of its weight.
fn regards(pending: &PendingMerge, weights: &[f32], merge: &Merge) -> Vec<Regard> {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let found = merge.regards.iter().zip(weights);
    found
        .map(|(found, weight)| Regard {
            counted: found.share * (total / f64::from(*weight)) as f32,
            agreement: found.agreement,
            record: found.record,
            needed: found.needed,
            twin: found
                .twin
                .map(|(other, _)| pending.updates[other].assignment),
        })
        .collect()
}
