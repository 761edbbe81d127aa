//! What goes wrong, and how it mends.

use rand::RngExt;

use super::settings::Faults;
use super::worker::Doing;
use super::world::{Happening, World};
use crate::{Hash, Input, Look, Phase, Revision};

impl World<'_> {
    /// Rolls the dice for every kind of fault; once the faulty time is over, mends everything.
    pub(super) fn strike(&mut self) {
        let Some(faults) = self.faults() else {
            self.mend();
            return;
        };
        // Called ten times in a round's duration; rates are for a hundred rounds.
        let rate = |of: f64| (of / 1000.0).clamp(0.0, 1.0);
        if self.random.random_bool(rate(faults.coordinator_crashes))
            && let Some(owner) = self.owners.last()
        {
            let epoch = owner.epoch;
            self.count_fault("coordinator crash");
            self.crash_owner(epoch);
        }
        if self.random.random_bool(rate(faults.takeovers)) && self.owners.len() < 3 {
            self.count_fault("takeover");
            self.start_owner();
        }
        if self.random.random_bool(rate(faults.clock_steps)) {
            const DAY_MS: i64 = 86_400_000;
            self.system_clock_off_ms = self.random.random_range(-DAY_MS..DAY_MS);
            self.count_fault("clock step");
        }
        self.strike_workers(faults, rate);
        self.strike_run(faults, rate);
    }

    fn strike_workers(&mut self, faults: &Faults, rate: impl Fn(f64) -> f64) {
        let round_ms = self.settings.round.duration_ms;
        let index = self.random.random_range(0..self.workers.len());
        let later_ms = self.random.random_range(500..3 * round_ms);
        if self.random.random_bool(rate(faults.worker_crashes)) && self.workers[index].up {
            self.count_fault("worker crash");
            self.crash_worker(index);
            self.after(later_ms, Happening::WorkerStarts { worker: index });
        }
        if self.random.random_bool(rate(faults.rotten_weights))
            && let Some((_, digest)) = &mut self.workers[index].holds
        {
            *digest = Hash::of(&digest.0);
            self.count_fault("rotten weights");
        }
        if self.random.random_bool(rate(faults.partitions)) {
            self.workers[index].reachable = false;
            self.count_fault("partition");
            self.after(later_ms, Happening::Restored { worker: index });
        }
        if self.random.random_bool(rate(faults.drains)) {
            self.workers[index].draining = true;
            self.count_fault("drain");
            self.after(later_ms, Happening::Restored { worker: index });
        }
        if self.random.random_bool(rate(faults.leavers)) && self.workers[index].up {
            self.workers[index].willing = false;
            let now_ms = self.now_ms;
            self.workers[index].rest(now_ms);
            let expelled = self.random.random_bool(0.5);
            self.count_fault(if expelled { "expelled" } else { "leaver" });
            let worker = index;
            self.after(50, Happening::LeaveArrives { expelled, worker });
            self.after(later_ms, Happening::Restored { worker: index });
        }
        let room = self.workers.len() < 3 * self.settings.workers as usize;
        if self.random.random_bool(rate(faults.joiners)) && room {
            let slow = self.random.random_bool(0.2);
            self.count_fault("joiner");
            self.add_worker(slow);
        }
    }

    fn strike_run(&mut self, faults: &Faults, rate: impl Fn(f64) -> f64) {
        let Some(owner) = self.owners.last() else {
            return;
        };
        let started = !matches!(owner.run.phase(), Phase::Draft | Phase::Finished);
        let checkpoints: Vec<Revision> = owner
            .run
            .checkpoints()
            .iter()
            .map(|checkpoint| checkpoint.revision)
            .collect();
        let paused = owner.run.phase() == Phase::Paused;
        let later_ms = self
            .random
            .random_range(1000..2 * self.settings.round.duration_ms);
        if started && !paused && self.random.random_bool(rate(faults.pauses)) {
            self.count_fault("pause");
            let reason = "somebody needs the machines".into();
            self.after(0, Happening::Operator(Input::Pause { reason }));
            self.after(later_ms, Happening::Operator(Input::Resume));
        }
        if started && !checkpoints.is_empty() && self.random.random_bool(rate(faults.rollbacks)) {
            let to = checkpoints[self.random.random_range(0..checkpoints.len())];
            self.count_fault("rollback");
            if self.settings.round.rollback_above > 0.0 {
                self.see_spike(to, later_ms);
            } else {
                let reason = "the loss went up".into();
                self.after(0, Happening::Operator(Input::RollBack { to, reason }));
            }
        }
    }

    /// A held-out loss goes up after `good`, and one worker is suspected of it. A person takes it
    /// back after a while, and lets the run go on should it have given up.
    fn see_spike(&mut self, good: Revision, later_ms: u64) {
        let suspect = self.random.random_range(0..self.workers.len());
        let worker = self.workers[suspect].id;
        let Some(owner) = self.owners.last() else {
            return;
        };
        let look = Look {
            revision: owner.run.revision(),
            loss: Some(9.0),
            good: Some((good, 1.0)),
            suspects: vec![worker],
        };
        self.after(0, Happening::Operator(Input::HeldOut(look)));
        self.after(later_ms, Happening::Operator(Input::Readmit { worker }));
        self.after(later_ms, Happening::Operator(Input::Resume));
    }

    fn crash_worker(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let worker = &mut self.workers[index];
        worker.rest(now_ms);
        worker.up_ms += now_ms - worker.up_since_ms;
        worker.up = false;
        worker.life += 1;
    }

    pub(super) fn start_worker(&mut self, index: usize) {
        let loses_feedback = self.chance(|faults| faults.lost_feedback);
        let loses_disk = self.chance(|faults| faults.lost_feedback);
        let feedback = self.fresh_feedback();
        let now_ms = self.now_ms;
        let worker = &mut self.workers[index];
        if worker.up {
            return;
        }
        worker.up = true;
        worker.up_since_ms = now_ms;
        worker.doing = Doing::Nothing;
        worker.newest = (0, 0);
        worker.plan = None;
        if loses_disk {
            worker.holds = None;
            worker.outcomes.clear();
        }
        if loses_disk || loses_feedback {
            worker.feedback = feedback;
            worker.journal.clear();
            self.count_fault("lost feedback");
        }
        let life = self.workers[index].life;
        self.after(
            100,
            Happening::WorkerWakes {
                worker: index,
                life,
            },
        );
    }

    /// A partition, a drain or an absence ends.
    pub(super) fn restore(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.reachable = true;
        worker.willing = true;
        worker.draining = false;
    }

    fn mend(&mut self) {
        for index in 0..self.workers.len() {
            self.restore(index);
            if !self.workers[index].up {
                self.start_worker(index);
            }
        }
        let Some(owner) = self.owners.last() else {
            return;
        };
        if matches!(owner.run.phase(), Phase::Paused | Phase::Failed) {
            self.after(0, Happening::Operator(Input::Resume));
        }
    }
}
