//! The loop of a driver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opengpu_ledger::{Entry, EntryKind};
use opengpu_rounds::probe::{CLIPPED, Flag};
use opengpu_rounds::{AssignmentId, Event, EventKind, Input, NodeId, Phase, Regard};
use tokio::sync::mpsc;

use super::audits::look_at_audits;
use super::effects::Effects;
use super::entries::{entries, taken};
use super::evaluator::Evaluate;
use super::live::{Answer, DriveError, LiveRun, Mailbox, Message};
use super::open::{Opened, SNAPSHOT_FORMAT, open};
use super::probe::Merged;
use super::rejection::Rejection;
use super::sight::sight;
use super::workshop::{Done, Workshop};
use crate::Coordinator;
use crate::metrics::CodeLabel;
use crate::standing::learn_standing;
use crate::store::{AppendError, Review};

/// Events after which the state is stored as a snapshot.
const SNAPSHOT_EVERY: u64 = 1000;
/// Rounds of which measurements are kept.
pub(super) const KEPT_METRICS: u64 = 100_000;
/// Longest sleep without looking at the state.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

struct Driver {
    coordinator: Coordinator,
    run: Arc<LiveRun>,
    opened: Ownership,
    effects: Effects,
}

/// The right to append and where the log ends.
struct Ownership {
    epoch: crate::store::OwnerEpoch,
    head: u64,
    snapshot: u64,
}

/// Drives a run until the process goes down or somebody else owns the run.
pub async fn drive(
    coordinator: Coordinator,
    run: Arc<LiveRun>,
    opened: (crate::store::OwnerEpoch, u64, u64),
    mailbox: Mailbox,
    evaluations: mpsc::Sender<Evaluate>,
) {
    let Mailbox {
        mut messages,
        jobs: todo,
    } = mailbox;
    let (done, mut results) = mpsc::channel::<Done>(8);
    let shared = coordinator.shared_folder();
    let workshop = Workshop::new(
        Arc::clone(&run),
        coordinator.blobs().clone(),
        coordinator.trainer(),
        shared,
        coordinator.metrics().merge_seconds.clone(),
    );
    let working = tokio::spawn(workshop.work(todo, done));
    let (epoch, head, snapshot) = opened;
    let mut driver = Driver {
        coordinator: coordinator.clone(),
        run: Arc::clone(&run),
        opened: Ownership {
            epoch,
            head,
            snapshot,
        },
        effects: Effects::new(run.jobs(), evaluations),
    };
    driver.effects.look(&run);
    look_at_audits(&coordinator, &run);
    let shutdown = coordinator.shutdown_token();
    loop {
        let sleep = tokio::time::sleep(driver.until_wake());
        let step = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            result = results.recv() => match result {
                Some(done) => driver.result(done).await,
                None => Err(Stop("its workshop ended".into())),
            },
            message = messages.recv() => match message {
                Some(message) => driver.message(message).await,
                None => break,
            },
            () = run.nudged() => driver.decide(Input::Tick, None).await.map(|_| ()),
            () = sleep => driver.decide(Input::Tick, None).await.map(|_| ()),
        };
        if let Err(Stop(why)) = step {
            tracing::error!(run = %run.id, why, "this process no longer drives the run");
            run.give_up(&why);
            break;
        }
        driver.effects.look(&run);
        look_at_audits(&coordinator, &run);
    }
    run.give_up("it is shutting down or has another owner");
    // What waits in the mailbox is told by its reply being dropped.
    working.abort();
}

/// The run has another owner, or its log can't be read.
struct Stop(String);

impl Driver {
    fn until_wake(&self) -> Duration {
        let now_ms = self.coordinator.clock().now_ms();
        let fleet = sight(&self.run, &self.coordinator.fleet().lock());
        let wake = self.run.state().next_wake_ms(now_ms, &fleet);
        let for_state = wake.map_or(LONGEST_SLEEP, |at| {
            Duration::from_millis(at.saturating_sub(now_ms))
        });
        let for_effects = self.effects.wake().map_or(LONGEST_SLEEP, |at| {
            at.saturating_duration_since(tokio::time::Instant::now())
        });
        for_state
            .min(for_effects)
            .clamp(Duration::from_millis(5), LONGEST_SLEEP)
    }

    async fn message(&mut self, message: Message) -> Result<(), Stop> {
        // Whoever asked may have gone; the decision stands.
        match message {
            Message::Decide { input, loss, reply } => {
                let answer = self.decide(input, loss).await;
                let (answer, outcome) = self.told(answer);
                let _ = reply.send(answer);
                outcome
            }
            Message::Reject { rejection, reply } => {
                let answer = self.reject(&rejection).await;
                let (answer, outcome) = self.told(answer);
                let _ = reply.send(answer);
                outcome
            }
            Message::Reverse {
                review,
                assignment,
                reply,
            } => {
                let answer = self.reverse(&review, assignment).await;
                let (answer, outcome) = self.told(answer);
                let _ = reply.send(answer);
                outcome
            }
        }
    }

    /// What whoever asked is told, and whether the driver goes on.
    fn told<T>(
        &self,
        answer: Result<Result<T, DriveError>, Stop>,
    ) -> (Result<T, DriveError>, Result<(), Stop>) {
        match answer {
            Ok(answer) => (answer, Ok(())),
            Err(Stop(why)) => {
                let told = DriveError::NotDriven(self.run.id, why.clone());
                (Err(told), Err(Stop(why)))
            }
        }
    }

    async fn result(&mut self, done: Done) -> Result<(), Stop> {
        let Some(input) = self.effects.input_of(&self.run, done) else {
            return Ok(());
        };
        if let Ok(answer) = self.decide(input, None).await?
            && let Some(refusal) = answer.refusal
        {
            tracing::info!(run = %self.run.id, code = refusal.code, message = refusal.message, "work was no longer wanted");
            self.effects.forget();
        }
        Ok(())
    }

    /// Decides, stores, folds, publishes: in that order.
    async fn decide(
        &mut self,
        input: Input,
        loss: Option<f64>,
    ) -> Result<Result<Answer, DriveError>, Stop> {
        let now_ms = self.coordinator.clock().now_ms();
        let decision = {
            let fleet = sight(&self.run, &self.coordinator.fleet().lock());
            self.run.state().decide(now_ms, &input, &fleet)
        };
        let answer = Answer {
            refusal: decision.refusal,
            reason: decision.reason,
        };
        let refusal = answer.refusal.as_ref();
        let rejection =
            refusal.and_then(|refusal| Rejection::of(&self.run.state(), &input, refusal));
        let entries = match self.entries(&decision.events, rejection.as_ref()).await {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(self.unread(&error))),
        };
        let stored = self.store(&decision.events, &entries, loss, None).await?;
        Ok(stored.map(|()| answer))
    }

    /// Gives back what a failed audit took, with the operator's answer that it did not fail.
    async fn reverse(
        &mut self,
        review: &Review,
        assignment: AssignmentId,
    ) -> Result<Result<(), DriveError>, Stop> {
        let taken = match taken(self.coordinator.store(), &self.run, assignment).await {
            Ok(taken) => taken,
            Err(error) => return Ok(Err(self.unread(&error))),
        };
        let events = taken.map_or_else(Vec::new, |taken| {
            let input = Input::ReturnCredit {
                assignment,
                worker: taken.worker(),
                tokens: taken.tokens,
            };
            let now_ms = self.coordinator.clock().now_ms();
            let fleet = sight(&self.run, &self.coordinator.fleet().lock());
            self.run.state().decide(now_ms, &input, &fleet).events
        });
        match self.entries(&events, None).await {
            Ok(entries) => self.store(&events, &entries, None, Some(review)).await,
            Err(error) => Ok(Err(self.unread(&error))),
        }
    }

    /// Writes a refusal into the ledger, unless it is there.
    async fn reject(&mut self, rejection: &Rejection) -> Result<Result<(), DriveError>, Stop> {
        match self.entries(&[], Some(rejection)).await {
            Ok(entries) => self.store(&[], &entries, None, None).await,
            Err(error) => Ok(Err(self.unread(&error))),
        }
    }

    fn unread(&self, error: &anyhow::Error) -> DriveError {
        tracing::error!(run = %self.run.id, error = format!("{error:#}"), "the ledger can't be read");
        DriveError::NotStored(self.run.id)
    }

    /// Appends events and lines of the ledger, and folds the events.
    async fn store(
        &mut self,
        events: &[Event],
        entries: &[Entry],
        loss: Option<f64>,
        review: Option<&Review>,
    ) -> Result<Result<(), DriveError>, Stop> {
        if events.is_empty() && entries.is_empty() && review.is_none() {
            return Ok(Ok(()));
        }
        let started = Instant::now();
        let appended = self
            .coordinator
            .store()
            .append_with(
                self.run.id,
                self.opened.epoch,
                self.opened.head,
                (events, entries),
                review,
            )
            .await;
        self.coordinator
            .metrics()
            .append_seconds
            .observe(started.elapsed().as_secs_f64());
        match appended {
            Ok(head) => {
                self.opened.head = head;
                if !events.is_empty() {
                    self.fold(events, loss);
                }
                self.note_audits(entries).await;
                self.note_left_out(events).await;
                Ok(Ok(()))
            }
            // Somebody answered it in the same moment; nothing was stored.
            Err(AppendError::Review(error)) => {
                tracing::info!(run = %self.run.id, %error, "a review was not stored");
                Ok(Err(DriveError::NotStored(self.run.id)))
            }
            Err(error @ AppendError::Fenced { .. }) => Err(Stop(error.to_string())),
            Err(error @ (AppendError::Credit { .. } | AppendError::Unfaithful { .. })) => {
                tracing::error!(run = %self.run.id, ?events, error = format!("{:#}", anyhow::Error::from(error)), "a decision can't be stored");
                Ok(Err(DriveError::NotStored(self.run.id)))
            }
            Err(error @ (AppendError::Conflict { .. } | AppendError::Store(_))) => {
                tracing::error!(run = %self.run.id, error = format!("{:#}", anyhow::Error::from(error)), "events could not be stored; reading the log again");
                self.reopen().await?;
                Ok(Err(DriveError::NotStored(self.run.id)))
            }
        }
    }

    /// What these events, and a refusal, write into the ledger.
    async fn entries(
        &self,
        events: &[Event],
        rejection: Option<&Rejection>,
    ) -> anyhow::Result<Vec<Entry>> {
        let store = self.coordinator.store();
        let mut all = entries(store, &self.run, events).await?;
        if let Some(rejection) = rejection {
            all.extend(rejection.entry(store, &self.run).await?);
        }
        Ok(all)
    }

    /// Brings up to date what is known of the nodes that were audited, who may be in quarantine
    /// now.
    async fn note_audits(&self, entries: &[Entry]) {
        let audited = |entry: &&Entry| matches!(entry.kind, EntryKind::Audited { .. });
        for entry in entries.iter().filter(audited) {
            self.learn(entry.node).await;
        }
    }

    /// The same of the nodes that were left out, who are suspected now.
    async fn note_left_out(&self, events: &[Event]) {
        for event in events {
            let EventKind::RolledBack { left_out, .. } = &event.kind else {
                continue;
            };
            let nodes: Vec<_> = {
                let state = self.run.state();
                let members = left_out.iter().filter_map(|worker| state.member(*worker));
                members.map(|member| member.node).collect()
            };
            for node in nodes {
                self.learn(node).await;
            }
        }
    }

    async fn learn(&self, node: NodeId) {
        if let Err(error) = learn_standing(&self.coordinator, node).await {
            tracing::error!(%node, error = format!("{error:#}"), "a node's standing can't be read");
        }
    }

    /// After the database failed nobody knows what it kept: the log says.
    async fn reopen(&mut self) -> Result<(), Stop> {
        let shutdown = self.coordinator.shutdown_token();
        loop {
            match open(self.coordinator.store(), self.run.id).await {
                Ok(Opened {
                    epoch,
                    head,
                    state,
                    snapshot,
                }) => {
                    self.opened = Ownership {
                        epoch,
                        head,
                        snapshot,
                    };
                    *self.run.state_mut() = state;
                    self.effects.forget();
                    self.publish();
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(run = %self.run.id, error = format!("{error:#}"), "the run can't be opened yet");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {
                    return Err(Stop("it is shutting down".into()));
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn fold(&mut self, events: &[Event], loss: Option<f64>) {
        let before = self.run.state().phase();
        let after = {
            let mut state = self.run.state_mut();
            for event in events {
                state.fold(event);
            }
            state.phase()
        };
        let metrics = self.coordinator.metrics();
        for event in events {
            tracing::debug!(run = %self.run.id, event = ?event.kind, "decided");
            match &event.kind {
                EventKind::UpdateAccepted {
                    assignment, tokens, ..
                } => {
                    metrics.updates_accepted.inc();
                    tracing::info!(run = %self.run.id, %assignment, tokens, "update accepted");
                    if let Some(loss) = loss.filter(|loss| loss.is_finite()) {
                        self.run
                            .losses()
                            .waiting
                            .insert(*assignment, (loss, *tokens));
                    }
                }
                EventKind::Merged {
                    round,
                    revision,
                    factors,
                    regards,
                    ..
                } => {
                    self.effects.probe(Merged::of(&self.run, regards, metrics));
                    metrics.rounds_merged.inc();
                    let clipped = factors.iter().filter(|factor| Flag::is_clipped(**factor));
                    let clipped = clipped.map(|_| CLIPPED);
                    for code in regards.iter().filter_map(Regard::code).chain(clipped) {
                        let code = code.to_owned();
                        let counted_less = &metrics.updates_counted_less;
                        counted_less.get_or_create(&CodeLabel { code }).inc();
                    }
                    tracing::info!(run = %self.run.id, round, %revision, "merge is durable");
                    self.note_merged(*round);
                }
                EventKind::Audited { finding, .. } => {
                    let code = finding.code.clone();
                    metrics.audits.get_or_create(&CodeLabel { code }).inc();
                }
                EventKind::Checkpointed { revision, .. } => {
                    tracing::info!(run = %self.run.id, %revision, "checkpoint is durable");
                }
                EventKind::RoundAbandoned { .. } => {
                    metrics.rounds_abandoned.inc();
                }
                _ => {}
            }
        }
        self.publish();
        if before != after {
            tracing::info!(run = %self.run.id, from = %before, to = %after, "phase");
            if after == Phase::Finished || after == Phase::Forming {
                self.coordinator.reallocate();
            }
        }
        self.maybe_snapshot();
    }

    fn publish(&self) {
        self.run.changed();
        self.coordinator.plans_changed();
    }

    /// Mean training loss of the round just merged.
    fn note_merged(&self, round: u64) {
        let (updates, lineage) = {
            let state = self.run.state();
            let merge = state.merges().rfind(|merge| merge.round == round);
            let updates: Vec<_> = merge
                .iter()
                .flat_map(|merge| &merge.updates)
                .map(|update| update.assignment)
                .collect();
            (updates, state.revision().lineage)
        };
        let metric = {
            let mut losses = self.run.losses();
            let known: Vec<_> = updates
                .iter()
                .filter_map(|id| losses.waiting.remove(id))
                .collect();
            let tokens: u64 = known.iter().map(|loss| loss.1).sum();
            // Those of refused or forgotten updates must not pile up.
            while losses.waiting.len() > 10_000 {
                losses.waiting.pop_first();
            }
            let sum: f64 = known
                .iter()
                .map(|(loss, tokens)| loss * *tokens as f64)
                .sum();
            let mean = (tokens > 0).then(|| sum / tokens as f64);
            let Some(mean) = mean else { return };
            losses.rounds.insert(round, mean);
            losses.forget_old();
            losses.of_round(lineage, round)
        };
        let (store, run) = (self.coordinator.store().clone(), self.run.id);
        tokio::spawn(async move {
            if let Err(error) = store.put_round_metric(run, &metric, KEPT_METRICS).await {
                tracing::warn!(%run, error = format!("{:#}", anyhow::Error::from(error)), "a round's loss could not be stored");
            }
        });
    }

    fn maybe_snapshot(&mut self) {
        if self.opened.head < self.opened.snapshot + SNAPSHOT_EVERY {
            return;
        }
        self.opened.snapshot = self.opened.head;
        let (seq, run, store) = (
            self.opened.head,
            self.run.id,
            self.coordinator.store().clone(),
        );
        let state = self.run.state().clone();
        tokio::spawn(async move {
            let body = tokio::task::spawn_blocking(move || serde_json::to_string(&state)).await;
            let stored = match body {
                Ok(Ok(body)) => store
                    .put_snapshot(run, seq, SNAPSHOT_FORMAT, &body)
                    .await
                    .map_err(anyhow::Error::from),
                Ok(Err(error)) => Err(error.into()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = stored {
                tracing::warn!(%run, error = format!("{error:#}"), "a snapshot could not be stored");
            }
        });
    }
}
