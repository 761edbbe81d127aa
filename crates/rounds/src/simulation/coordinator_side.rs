//! A simulated coordinator at work: what it hears, decides, appends, and does then.

use rand::RngExt;

use super::TOKENS_PER_BLOCK;
use super::owner::{Owner, merge_of, payloads, step};
use super::worker::Sent;
use super::world::{Happening, World};
use crate::{AssignmentId, EventKind, FeedbackId, Hash, Input, Phase, Revision, WorkerSight};

impl World<'_> {
    pub(super) fn owner(&mut self, epoch: u64) -> Option<&mut Owner> {
        self.owners.iter_mut().find(|owner| owner.epoch == epoch)
    }

    /// The coordinator that a message reaches: mostly the newest.
    pub(super) fn some_owner(&mut self) -> Option<u64> {
        let newest = self.owners.last()?.epoch;
        if self.owners.len() > 1 && self.random.random_bool(0.3) {
            let index = self.random.random_range(0..self.owners.len());
            return Some(self.owners[index].epoch);
        }
        Some(newest)
    }

    pub(super) fn start_owner(&mut self) {
        let from_snapshot = self.random.random_bool(0.5);
        let run = self.log.read(from_snapshot);
        if self.random.random_bool(0.1) && run != self.log.read(!from_snapshot) {
            self.broken = Some("a snapshot and the whole log fold to different states".into());
            return;
        }
        let epoch = self.log.take_over();
        let blobs = &self.blobs;
        let started = Owner::start(epoch, run, self.clocks(), self.initial, |blob| {
            blobs.contains_key(&blob)
        });
        match started {
            Ok(owner) => {
                self.owners.push(owner);
                self.look_around(epoch);
            }
            Err(what) => self.broken = Some(what),
        }
    }

    /// The process is gone; another starts after a while.
    pub(super) fn crash_owner(&mut self, epoch: u64) {
        self.owners.retain(|owner| owner.epoch != epoch);
        let delay_ms = self
            .random
            .random_range(100..self.settings.round.duration_ms);
        self.after(delay_ms, Happening::OwnerStarts);
    }

    /// Decide, append, fold, act: with a chance to die after each.
    pub(super) fn ask(&mut self, epoch: u64, input: Input) -> Option<Result<(), &'static str>> {
        let clocks = self.clocks();
        let dies = self.chance(|faults| faults.midway_crashes);
        let dies_at = dies.then(|| self.random.random_range(0..3));
        let looks_twice = self.random.random_bool(0.05);
        let owner = self.owners.iter_mut().find(|owner| owner.epoch == epoch)?;
        let clock = owner.clock(clocks);
        let decision = owner.run.decide(clock, &input, &owner.fleet);
        let unready = decision.events.iter().find(|event| match event.kind {
            EventKind::Assigned { worker, base, .. } => !owner.saw_ready(worker, base, clock),
            _ => false,
        });
        if let Some(event) = unready {
            self.broken = Some(format!("given to a worker that was not ready: {event:?}"));
        }
        if dies_at == Some(0) {
            return self.die_midway(epoch);
        }
        if !decision.events.is_empty() {
            let expected = owner.run.events() as usize;
            if self.log.append(epoch, expected, &decision.events).is_err() {
                self.crash_owner(epoch);
                return None;
            }
        }
        if dies_at == Some(1) {
            return self.die_midway(epoch);
        }
        for event in &decision.events {
            owner.run.fold(event);
            if let Err(what) = owner.follow(&event.kind, self.initial) {
                self.broken = Some(what);
            }
        }
        if looks_twice {
            let again = owner.run.decide(clock, &Input::Tick, &owner.fleet);
            if let Some(event) = again.events.first() {
                self.broken = Some(format!("a second look decides more: {event:?}"));
            }
            self.check_state(epoch);
        }
        if !decision.events.is_empty() && self.random.random_bool(0.01) {
            self.store_snapshot(epoch);
        }
        for event in &decision.events {
            if let EventKind::Merged { round, .. } | EventKind::RoundAbandoned { round, .. } =
                event.kind
            {
                self.tell_round(epoch, round);
            }
        }
        self.look_around(epoch);
        if dies_at == Some(2) {
            return self.die_midway(epoch);
        }
        Some(match decision.refusal {
            Some(refusal) => {
                *self.report.refused.entry(refusal.code).or_default() += 1;
                Err(refusal.code)
            }
            None => Ok(()),
        })
    }

    fn check_state(&mut self, epoch: u64) {
        let owner = self.owners.iter().find(|owner| owner.epoch == epoch);
        // A deposed coordinator's state is old, and that is no mistake.
        let current = owner.filter(|owner| owner.run.events() == self.log.len() as u64);
        if let Some(owner) = current
            && let Err(what) = self.log.invariants.compare(&owner.run)
        {
            self.broken = Some(what);
        }
    }

    fn store_snapshot(&mut self, epoch: u64) {
        let owner = self.owners.iter().find(|owner| owner.epoch == epoch);
        if let Some(owner) = owner
            && let Err(what) = self.log.store_snapshot(&owner.run)
        {
            self.broken = Some(what);
        }
    }

    pub(super) fn die_midway(&mut self, epoch: u64) -> Option<Result<(), &'static str>> {
        self.count_fault("coordinator died midway");
        self.crash_owner(epoch);
        None
    }

    /// Level-triggered: starts the effects that the state asks for, sets the next wake, and
    /// tells each worker what is new to it.
    pub(super) fn look_around(&mut self, epoch: u64) {
        let (now_ms, clocks) = (self.now_ms, self.clocks());
        let every = self.settings.checkpoint_every;
        let some_time = self
            .random
            .random_range(20..self.settings.round.duration_ms / 5 + 21);
        // Now and then a checkpoint is written so slowly that merges overtake it.
        let slowness = if self.random.random_bool(0.3) { 20 } else { 1 };
        let Some(owner) = self.owners.iter_mut().find(|owner| owner.epoch == epoch) else {
            return;
        };
        let mut then = Vec::new();
        // What is no longer asked for, as in a run that failed, may be asked for again.
        let pending = owner.run.pending_merge().map(|merge| merge.round);
        if pending != owner.merging {
            owner.merging = pending;
            if let Some(round) = pending {
                then.push((some_time, Happening::MergeComputed { epoch, round }));
            }
        }
        if let Some(revision) = owner.run.pending_checkpoint(every)
            && owner.writing.is_none()
        {
            owner.writing = Some(revision);
            let weights = owner.weights;
            let some_time = some_time * slowness;
            then.push((
                some_time,
                Happening::CheckpointWritten {
                    epoch,
                    revision,
                    weights,
                },
            ));
        }
        if let Some(wake) = owner.run.next_wake_ms(owner.clock(clocks), &owner.fleet) {
            let at_ms = owner.world_time(wake).max(now_ms);
            if owner.wakes_ms != Some(at_ms) || at_ms == now_ms {
                if at_ms == now_ms && owner.wakes_ms == Some(now_ms) {
                    self.broken = Some("the coordinator would wake forever".into());
                    return;
                }
                owner.wakes_ms = Some(at_ms);
                then.push((at_ms - now_ms, Happening::OwnerWakes { epoch }));
            }
        }
        let mut plans = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            let Some(plan) = owner.plan(worker.id, clocks) else {
                continue;
            };
            if !owner
                .told
                .get(&worker.id)
                .is_some_and(|told| told.says_as_much_as(&plan))
            {
                owner.told.insert(worker.id, plan.clone());
                plans.push((index, plan));
            }
        }
        for (delay_ms, happening) in then {
            self.after(delay_ms, happening);
        }
        for (worker, plan) in plans {
            self.send(worker, Happening::PlanArrives { worker, plan });
        }
    }

    pub(super) fn owner_hears_report(
        &mut self,
        worker: usize,
        holds: Option<(Revision, Hash)>,
        feedback: FeedbackId,
        measured: f64,
    ) {
        let Some(epoch) = self.some_owner() else {
            return;
        };
        let (id, node, draining) = {
            let worker = &self.workers[worker];
            (worker.id, worker.node, worker.draining)
        };
        let Some(owner) = self.owner(epoch) else {
            return;
        };
        let member = owner.run.member(id);
        let present = member.is_some_and(|member| member.present);
        let known = member.and_then(|member| member.feedback);
        let answer = if owner.run.phase() == Phase::Finished {
            Some(Ok(()))
        } else if !present {
            self.ask(
                epoch,
                Input::Join {
                    worker: id,
                    node,
                    feedback,
                },
            )
        } else if known != Some(feedback) {
            self.ask(
                epoch,
                Input::FeedbackReset {
                    worker: id,
                    feedback,
                },
            )
        } else {
            Some(Ok(()))
        };
        if answer == Some(Err("feedback_retired")) {
            self.send(worker, Happening::FeedbackRefused { worker, feedback });
        }
        let clocks = self.clocks();
        let Some(owner) = self.owner(epoch) else {
            return;
        };
        let newest = owner.run.revision();
        let verified = holds.filter(|(revision, digest)| {
            *revision != newest || owner.run.digest() == Some(*digest)
        });
        let sight = WorkerSight {
            revision: verified.map(|(revision, _)| revision),
            blocks_per_second: measured,
            last_heard_ms: owner.clock(clocks),
            draining,
            trusted: id.0 % 2 == 1,
            reputation: (id.0 % 5) as f64 / 4.0,
        };
        owner.fleet.insert(id, sight);
        let rotten = verified.is_none() && holds.is_some();
        self.ask(epoch, Input::Tick);
        self.audit_some(epoch);
        if rotten {
            // The answer to a report with another digest: fetch the weights again.
            self.workers[worker].holds = None;
        }
        let plan = self.owner(epoch).and_then(|owner| owner.plan(id, clocks));
        if let Some(plan) = plan {
            self.send(worker, Happening::PlanArrives { worker, plan });
        }
    }

    pub(super) fn owner_hears_update(
        &mut self,
        worker: usize,
        assignment: AssignmentId,
        sent: Sent,
    ) {
        let Some(epoch) = self.some_owner() else {
            return;
        };
        // The payload is durable before the notice is looked at.
        self.blobs.insert(sent.payload, ());
        let id = self.workers[worker].id;
        let known = self.owner(epoch).and_then(|owner| owner.run.member(id));
        let fits = known.is_some_and(|member| member.feedback == Some(sent.feedback));
        let in_log = self.log.invariants.holds(assignment, sent.payload);
        let commitment = self.commitment_of(epoch, id, sent.payload);
        let draw = self.random.random();
        let answer = self.ask(
            epoch,
            Input::Update {
                assignment,
                worker: self.workers[worker].id,
                base: sent.base,
                blocks_completed: sent.completed,
                payload: sent.payload,
                payload_bytes: 100,
                tokens_per_block: TOKENS_PER_BLOCK,
                feedback: sent.feedback,
                commitment,
                draw,
            },
        );
        if answer == Some(Ok(())) && !in_log && !fits {
            self.broken = Some(format!(
                "update {assignment} is of another life of feedback"
            ));
        }
        if let Some(granted) = answer {
            let payload = sent.payload;
            self.send(
                worker,
                Happening::AnswerArrives {
                    worker,
                    assignment,
                    payload,
                    granted,
                },
            );
        }
    }

    pub(super) fn merge_computed(&mut self, epoch: u64, round: u64) {
        let fails = self.chance(|faults| faults.failed_merges / 100.0);
        let clips = self.random.random_bool(0.2);
        let Some(owner) = self.owner(epoch) else {
            return;
        };
        let pending = owner
            .run
            .pending_merge()
            .filter(|pending| pending.round == round);
        let Some(pending) = pending else {
            return;
        };
        if fails && owner.fails.insert(round) {
            owner.merging = None;
            self.count_fault("merge failed");
            self.ask(
                epoch,
                Input::MergeFailed {
                    reason: "no memory was left".into(),
                },
            );
            self.after(5000, Happening::Operator(Input::Resume));
            return;
        }
        let parts = payloads(&pending);
        let merge = merge_of(owner.weights, &parts);
        let digest = step(owner.weights, merge);
        let lost = parts.iter().find(|part| !self.blobs.contains_key(*part));
        if let Some(lost) = lost {
            if !self.log.is_owner(epoch) {
                // The true owner merged and forgot them long ago; this one can append nothing.
                return;
            }
            self.broken = Some(format!("payload {lost} of a pending merge is gone"));
            return;
        }
        self.blobs.insert(merge, ());
        let factors = vec![if clips { 0.5 } else { 1.0 }; parts.len()];
        self.ask(
            epoch,
            Input::MergeDone {
                round,
                merge,
                merge_bytes: 50,
                digest,
                factors,
                regards: Vec::new(),
            },
        );
    }

    /// Retention, as the true owner does it: with no minimum age, to be as strict as can be.
    pub(super) fn collect_garbage(&mut self) {
        let owner = self
            .owners
            .iter()
            .find(|owner| self.log.is_owner(owner.epoch));
        if let Some(owner) = owner {
            let needed = owner.run.blobs_needed();
            self.blobs.retain(|blob, ()| needed.contains(blob));
        }
    }

    pub(super) fn operator(&mut self, input: Input) {
        let answer = self.owners.last().map(|owner| owner.epoch);
        let answer = answer.and_then(|epoch| self.ask(epoch, input.clone()));
        if answer.is_none() {
            self.after(1000, Happening::Operator(input));
        }
    }
}
