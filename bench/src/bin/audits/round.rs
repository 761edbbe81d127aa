//! One round of a run that has gone on for a while, trained once for both tables.

use anyhow::{Result, ensure};
use opengpu_bench::{Data, run_file};
use opengpu_dataset::TokenStream;
use opengpu_protocol::RunSpec;
use opengpu_trainer::{Forms, InnerLoop, Signals, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, InnerState, Optimizer, Precision, TrainRequest};

use crate::machine::{AUDITORS, MACHINES, Machine, USUAL};

/// How long things are, in steps, each of one block; and how many other workers there are.
#[derive(Clone, Copy)]
pub struct Lengths {
    pub before: u64,
    pub steps: u64,
    pub workers: u64,
}

impl Lengths {
    pub fn check(self) -> Result<()> {
        ensure!(
            self.before >= self.steps,
            "--before is {}, but a round of {} steps comes before the audited one; give at least {}",
            self.before,
            self.steps,
            self.steps
        );
        Ok(())
    }
}

/// The audited worker's assignment on one machine, trained twice.
pub struct Trained {
    pub name: &'static str,
    /// As a trainer states it.
    class: String,
    /// Local weights.
    pub first: Vec<f32>,
    /// Of the second training: what an auditor compares with.
    pub again: Vec<f32>,
}

/// The round. Progress is global minus local weights.
pub struct Round {
    lengths: Lengths,
    inner: InnerSettings,
    pub seed: u64,
    /// Weights of a round before.
    pub older: Vec<f32>,
    /// The global weights that the round starts from.
    pub base: Vec<f32>,
    /// The audited worker's assignment on each machine; the usual one is the first.
    pub machines: Vec<Trained>,
    /// The audited worker's progress of the round before.
    pub before: Vec<f32>,
    /// Progress of the other workers.
    pub honest: Vec<Vec<f32>>,
}

/// What a run file says that leaves the precision to each machine.
pub fn spec(optimizer: Optimizer) -> RunSpec {
    let inner = InnerSettings {
        learning_rate: 8e-3,
        optimizer,
        state: InnerState::Reset,
        precision: Precision::Auto,
        ..InnerSettings::default()
    };
    run_file(&inner, 0)
}

impl Round {
    pub fn train(data: &Data, spec: &RunSpec, lengths: Lengths, seed: u64) -> Result<Self> {
        let mut round = Self {
            lengths,
            inner: spec.inner.clone(),
            seed,
            older: fresh_weights(&data.model, seed),
            base: Vec::new(),
            machines: Vec::new(),
            before: Vec::new(),
            honest: Vec::new(),
        };
        round.go_before(data)?;
        let steps = lengths.steps;
        let of_before = round.request(data, lengths.before - steps);
        let mut tokens = data.training()?;
        let (_, local) = round.go(data, &USUAL, &of_before, &mut tokens, &round.older)?;
        round.before = difference(&round.older, &local);
        let own = round.own(data);
        for machine in &MACHINES {
            let mut once = || round.go(data, machine, &own, &mut tokens, &round.base);
            let (class, first) = once()?;
            let (_, again) = once()?;
            round.machines.push(Trained {
                name: machine.name,
                class,
                first,
                again,
            });
        }
        for worker in 1..=lengths.workers {
            let from = lengths.before + worker * steps;
            // The same round, hence the same rates.
            let request = TrainRequest {
                blocks: vec![(from, from + steps)],
                ..own.clone()
            };
            let (_, local) = round.go(data, &USUAL, &request, &mut tokens, &round.base)?;
            round.honest.push(difference(&round.base, &local));
        }
        Ok(round)
    }

    /// The steps before: one worker, whose optimiser goes on.
    fn go_before(&mut self, data: &Data) -> Result<()> {
        let inner = InnerSettings {
            state: InnerState::Carry,
            precision: Precision::Float32,
            ..self.inner.clone()
        };
        let mut tokens = data.training()?;
        let mut training = InnerLoop::new(&data.model, &inner);
        let mut go = |weights, request: &TrainRequest| {
            let signals = Signals::default();
            training.train(weights, &mut tokens, request, &signals, &mut |_| ())
        };
        let (before, round) = (self.lengths.before, self.lengths.steps);
        if before > round {
            let all_but_one = self.request_of(data, 0, before - round);
            (_, self.older) = go(std::mem::take(&mut self.older), &all_but_one)?;
        }
        let last = self.request(data, before - round);
        (_, self.base) = go(self.older.clone(), &last)?;
        Ok(())
    }

    /// The audited worker's assignment.
    pub fn own(&self, data: &Data) -> TrainRequest {
        self.request(data, self.lengths.before)
    }

    /// An assignment of a round that begins with block `from`, in a run of one worker.
    fn request(&self, data: &Data, from: u64) -> TrainRequest {
        self.request_of(data, from, self.lengths.steps)
    }

    fn request_of(&self, data: &Data, from: u64, steps: u64) -> TrainRequest {
        let whole = 2000.0;
        TrainRequest {
            blocks: vec![(from, from + steps)],
            blocks_per_epoch: data.blocks(self.inner.batch_sequences),
            block_sequences: self.inner.batch_sequences,
            seed: self.seed,
            progress_from: from as f64 / whole,
            progress_to: (from + steps) as f64 / whole,
            at_most_blocks: None,
            out: Default::default(),
            slowdown: 1.0,
        }
    }

    /// Trains on a machine. The numerics class that it states, and local weights.
    pub fn go(
        &self,
        data: &Data,
        machine: &Machine,
        request: &TrainRequest,
        tokens: &mut TokenStream,
        from: &[f32],
    ) -> Result<(String, Vec<f32>)> {
        let inner = InnerSettings {
            precision: machine.precision,
            ..self.inner.clone()
        };
        let whole = inner.batch_sequences;
        let mut training = InnerLoop::new(&data.model, &inner)
            .with_micro_batch(machine.micro_batch.unwrap_or(whole))
            .with_forms(Forms::all(machine.form));
        let signals = Signals::default();
        let (_, local) = training.train(from.to_vec(), tokens, request, &signals, &mut |_| ())?;
        Ok((training.numerics_class(), local))
    }

    /// Progress from this round's global weights to these.
    pub fn progress(&self, local: &[f32]) -> Vec<f32> {
        difference(&self.base, local)
    }

    /// What the product allows these two.
    pub fn allowed(&self, spec: &RunSpec, worker: &Trained, auditor: &Trained) -> f64 {
        spec.audit_tolerance_between(&worker.class, &auditor.class, self.lengths.steps)
    }

    /// An auditor of each kind that tolerances know, for work of the usual machine: of its class,
    /// of another class in float32, and of one that computes in other numbers or says nothing.
    pub fn auditors(&self, spec: &RunSpec) -> [(&Trained, f64); 3] {
        let [usual, float32, other] = AUDITORS.map(|at| &self.machines[at]);
        [
            (usual, self.allowed(spec, usual, usual)),
            (float32, self.allowed(spec, usual, float32)),
            (other, spec.audit_tolerance(self.lengths.steps)),
        ]
    }
}

/// Progress from global weights to local ones.
pub fn difference(global: &[f32], local: &[f32]) -> Vec<f32> {
    global.iter().zip(local).map(|(g, l)| g - l).collect()
}
