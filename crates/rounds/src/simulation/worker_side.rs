//! A simulated worker at work: it reports, trains, fetches, sends.

use rand::RngExt;

use super::owner::step;
use super::worker::{Doing, Next, Sent, Worker};
use super::world::{Happening, World};
use crate::{AssignmentId, FeedbackId, Hash};

/// How often a worker reports.
const REPORT_MS: u64 = 3000;

impl World<'_> {
    pub(super) fn fresh_feedback(&mut self) -> FeedbackId {
        FeedbackId(self.random.random_range(0..1 << 53))
    }

    pub(super) fn add_worker(&mut self, slow: bool) {
        let index = self.workers.len();
        // Some are slower than one block a round on purpose.
        let per_round = self.random.random_range(0.8..40.0);
        let speed = per_round / self.settings.round.duration_ms as f64 * 1000.0;
        let feedback = self.fresh_feedback();
        let speed = if slow { speed / 4.0 } else { speed };
        let mut worker = Worker::new(index as u64, speed, feedback);
        worker.up_since_ms = self.now_ms;
        self.workers.push(worker);
        let delay_ms = self.random.random_range(20..2000);
        self.after(
            delay_ms,
            Happening::WorkerWakes {
                worker: index,
                life: 0,
            },
        );
    }

    pub(super) fn worker_wakes(&mut self, index: usize, life: u64) {
        let worker = &self.workers[index];
        if worker.life != life || !worker.up {
            return;
        }
        if worker.willing {
            self.report_in(index);
            let unanswered = self.workers[index].journal.iter();
            let unanswered = unanswered.filter(|(_, sent)| !sent.answered);
            let unanswered: Vec<_> = unanswered.map(|(id, sent)| (*id, sent.clone())).collect();
            for (assignment, sent) in unanswered {
                self.send(
                    index,
                    Happening::UpdateArrives {
                        worker: index,
                        assignment,
                        sent,
                    },
                );
            }
            self.act(index);
        }
        let jitter = self.random.random_range(0..500);
        self.after(
            REPORT_MS + jitter,
            Happening::WorkerWakes {
                worker: index,
                life,
            },
        );
    }

    pub(super) fn report_in(&mut self, index: usize) {
        let worker = &self.workers[index];
        let (holds, feedback, measured) = (worker.holds, worker.feedback, worker.measured);
        self.send(
            index,
            Happening::ReportArrives {
                worker: index,
                holds,
                feedback,
                measured,
            },
        );
    }

    pub(super) fn act(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let noise = self.random.random_range(0.85..1.15);
        let fetch_ms = self
            .random
            .random_range(50..self.settings.round.duration_ms / 10 + 51);
        let worker = &mut self.workers[index];
        let life = worker.life;
        match worker.next(now_ms) {
            Next::Nothing => {}
            Next::Fetch => {
                worker.doing = Doing::Fetching;
                self.after(
                    fetch_ms,
                    Happening::FetchEnds {
                        worker: index,
                        life,
                    },
                );
            }
            Next::Train {
                assignment,
                base,
                blocks,
                left_ms,
            } => {
                let speed = worker.speed * noise;
                let fitting = (speed * left_ms as f64 / 1000.0).floor() as u64;
                let completed = fitting.clamp(1, blocks);
                let takes_ms = (completed as f64 / speed * 1000.0) as u64;
                worker.doing = Doing::Training {
                    assignment,
                    base,
                    completed,
                    since_ms: now_ms,
                };
                worker.measured = 0.5 * worker.measured + 0.5 * speed;
                self.after(
                    takes_ms,
                    Happening::TrainingEnds {
                        worker: index,
                        life,
                        assignment,
                    },
                );
            }
        }
    }

    pub(super) fn training_ends(&mut self, index: usize, life: u64, ended: AssignmentId) {
        let nonce: u64 = self.random.random();
        let now_ms = self.now_ms;
        let worker = &mut self.workers[index];
        let Doing::Training {
            assignment,
            base,
            completed,
            ..
        } = worker.doing
        else {
            return;
        };
        if worker.life != life || assignment != ended {
            return;
        }
        worker.rest(now_ms);
        let sent = Sent {
            base,
            completed,
            payload: Hash::of(&nonce.to_le_bytes()),
            feedback: worker.feedback,
            answered: false,
        };
        worker.journal.insert(assignment, sent.clone());
        self.send(
            index,
            Happening::UpdateArrives {
                worker: index,
                assignment,
                sent,
            },
        );
        self.report_in(index);
        self.act(index);
    }

    pub(super) fn fetch_ends(&mut self, index: usize, life: u64) {
        let worker = &mut self.workers[index];
        if worker.life != life || worker.doing != Doing::Fetching {
            return;
        }
        worker.doing = Doing::Nothing;
        let Some(owner) = self.owners.last().filter(|_| worker.reachable) else {
            return;
        };
        let Some(digest) = owner.run.digest() else {
            return;
        };
        let follow = |from: Hash, merges: &mut dyn Iterator<Item = Hash>| merges.fold(from, step);
        let mut reached = None;
        if let Some((revision, weights)) = worker.holds
            && let Some(merges) = owner.run.merges_after(revision)
        {
            reached = Some(follow(weights, &mut merges.iter().map(|merge| merge.merge)));
        }
        if reached != Some(digest)
            && let Some(checkpoint) = owner.run.checkpoint()
        {
            let mut merges = owner.run.merges_since_checkpoint().map(|merge| merge.merge);
            reached = Some(follow(checkpoint.weights, &mut merges));
        }
        if self.log.is_owner(owner.epoch) && reached.is_some() && reached != Some(digest) {
            self.broken = Some("a checkpoint and its merges lead to another digest".into());
        }
        let lost = owner
            .run
            .merges()
            .find(|merge| !self.blobs.contains_key(&merge.merge));
        if self.log.is_owner(owner.epoch) && lost.is_some() {
            self.broken = Some("a merge that workers need is gone".into());
        }
        if reached == Some(digest) {
            worker.holds = Some((owner.run.revision(), digest));
        }
        self.report_in(index);
    }

    /// An old message of this worker overtook a newer one, or a rollback ended its feedback:
    /// the coordinator takes no more updates from it, so it starts at zero.
    pub(super) fn worker_starts_feedback(&mut self, index: usize, refused: FeedbackId) {
        let fresh = self.fresh_feedback();
        let worker = &mut self.workers[index];
        if worker.up && worker.feedback == refused {
            worker.feedback = fresh;
            worker.journal.clear();
        }
    }

    pub(super) fn worker_hears_answer(
        &mut self,
        index: usize,
        assignment: AssignmentId,
        payload: Hash,
        granted: Result<(), &'static str>,
    ) {
        if granted.is_ok() && !self.log.invariants.holds(assignment, payload) {
            self.broken = Some(format!(
                "update {assignment} was granted and is not in the log"
            ));
        }
        let worker = &mut self.workers[index];
        let known = worker.journal.get_mut(&assignment);
        let Some(sent) = known.filter(|sent| worker.up && sent.payload == payload) else {
            return;
        };
        match granted {
            Ok(()) => sent.answered = true,
            Err(_) => drop(worker.journal.remove(&assignment)),
        }
    }
}
