//! Updates on their way: sent beside the training, and again until the coordinator took or
//! refused them; then watched until their verdict is carried out.
//!
//! Whatever an earlier agent left is asked about before it is sent: an update that was
//! merged long ago must not be refused now and added back a second time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use opengpu_protocol::client::full_jitter;
use opengpu_protocol::wire::{Outcome, Verdict};
use opengpu_protocol::{Client, ClientError};
use opengpu_rounds::{AssignmentId, RunId};
use tokio::sync::mpsc;

use super::Device;
use crate::connection::chain;
use crate::journal::{Entry, Journal, payload};
use crate::receipts::Receipts;

/// How long a sent update waits for a verdict in the plan before it is asked for.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// Refusals that may pass by themselves are believed after so many attempts.
const EARLY_ATTEMPTS: u32 = 8;
/// Verdicts shown in the status.
const SHOWN: usize = 16;

/// One update of one run.
type Name = (RunId, AssignmentId);

/// What is known of an update's way.
#[derive(Debug)]
enum State {
    /// To be asked about or sent, not before then.
    Due { ask: bool, at: Instant },
    /// A task is at it.
    UnderWay { ask: bool },
    /// The coordinator has it.
    Sent { asked: Instant },
}

#[derive(Debug)]
struct Item {
    state: State,
    attempts: u32,
}

/// What a task found out.
#[derive(Debug)]
pub(super) enum Answer {
    Taken,
    /// Its verdict, and the code of a refusal before it.
    Verdict(Verdict, Option<String>),
    /// The coordinator never heard of it.
    Unknown,
    /// It will never be taken: why, and the code if the coordinator refused it.
    Refused(String, Option<String>),
    /// To be tried again.
    Failed(String),
}

impl Answer {
    /// The code with which an update was rejected.
    fn rejected(&self) -> Option<&str> {
        match self {
            Self::Refused(_, code) => code.as_deref(),
            Self::Verdict(verdict, code) if !verdict.accepted => code.as_deref(),
            _ => None,
        }
    }
}

/// The updates of one device that have no verdict.
#[derive(Debug)]
pub(super) struct Outbox {
    client: Client,
    receipts: Receipts,
    items: BTreeMap<Name, Item>,
    tell: mpsc::Sender<(Name, Answer)>,
    hear: mpsc::Receiver<(Name, Answer)>,
}

impl Outbox {
    pub(super) fn new(client: Client, receipts: Receipts, journal: &Journal) -> Self {
        let now = Instant::now();
        let item = |_| Item {
            state: State::Due { ask: true, at: now },
            attempts: 0,
        };
        let items = journal
            .entries()
            .map(|entry| (name(entry), item(())))
            .collect();
        let (tell, hear) = mpsc::channel(64);
        Self {
            client,
            receipts,
            items,
            tell,
            hear,
        }
    }

    /// A new update: to be sent at once.
    pub(super) fn add(&mut self, entry: &Entry) {
        let state = State::Due {
            ask: false,
            at: Instant::now(),
        };
        self.items.insert(name(entry), Item { state, attempts: 0 });
    }

    pub(super) fn forget(&mut self, run: RunId, assignment: AssignmentId) {
        self.items.remove(&(run, assignment));
    }

    /// The oldest update that is being sent.
    pub(super) fn under_way(&self) -> Option<AssignmentId> {
        let sending = |item: &Item| matches!(item.state, State::UnderWay { ask: false });
        self.items
            .iter()
            .find(|entry| sending(entry.1))
            .map(|entry| entry.0.1)
    }

    /// The next thing a task found out. Dropping the future loses nothing.
    pub(super) async fn answered(&mut self) -> (Name, Answer) {
        match self.hear.recv().await {
            Some(answer) => answer,
            // Never: this holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Starts what is due.
    fn start_due(&mut self, journal: &Journal) {
        let now = Instant::now();
        // In order, for one may follow from the other: an update is sent when the ones before it
        // in its run were answered.
        let mut held_up = None;
        for (name, item) in &mut self.items {
            let unanswered = matches!(
                item.state,
                State::Due { ask: false, .. } | State::UnderWay { ask: false }
            );
            if unanswered && held_up.replace(name.0) == Some(name.0) {
                continue;
            }
            let ask = match item.state {
                State::Due { ask, at } if at <= now => ask,
                State::Sent { asked } if asked + ASK_AFTER <= now => true,
                _ => continue,
            };
            let attempts = item.attempts;
            let Some(entry) = journal.get(name.0, name.1) else {
                continue;
            };
            item.state = State::UnderWay { ask };
            let (client, entry) = (self.client.clone(), entry.clone());
            let receipts = self.receipts.clone();
            let (path, tell, name) = (journal.path(name.0, name.1), self.tell.clone(), *name);
            tokio::spawn(async move {
                let answer = match ask {
                    true => ask_for_verdict(&client, &entry, attempts).await,
                    false => send(&client, &entry, path, attempts).await,
                };
                // Here, where the entry is at hand: its verdict may come by the plan meanwhile,
                // and the journal forget it.
                if let Some(code) = answer.rejected() {
                    receipts.want_rejection(&entry, code);
                }
                // Nobody listens after shutdown.
                let _ = tell.send((name, answer)).await;
            });
        }
    }

    /// Tries what waits for another attempt now.
    pub(super) fn hurry(&mut self) {
        for item in self.items.values_mut() {
            if let State::Due { at, .. } = &mut item.state {
                *at = Instant::now();
            }
        }
    }

    fn wait(&mut self, name: Name, ask: bool) {
        if let Some(item) = self.items.get_mut(&name) {
            item.attempts += 1;
            let wait = full_jitter(
                item.attempts,
                Duration::from_millis(300),
                Duration::from_secs(30),
            );
            item.state = State::Due {
                ask,
                at: Instant::now() + wait,
            };
        }
    }
}

fn name(entry: &Entry) -> Name {
    (entry.run, entry.notice.assignment)
}

async fn ask_for_verdict(client: &Client, entry: &Entry, attempts: u32) -> Answer {
    match client.verdict(entry.run, entry.notice.assignment).await {
        Ok(verdict) => Answer::Verdict(verdict, None),
        Err(error) if error.code() == Some("no_verdict") => Answer::Unknown,
        // The run or the worker is gone for good.
        Err(error) if error.is_final() && attempts >= EARLY_ATTEMPTS => {
            Answer::Refused(error.to_string(), None)
        }
        Err(error) => Answer::Failed(chain(&error)),
    }
}

fn is_early(error: &ClientError) -> bool {
    matches!(
        error.code(),
        // New error feedback is taken note of once in a round's length.
        Some("unknown_worker" | "payload_missing" | "wrong_feedback")
    )
}

async fn send(client: &Client, entry: &Entry, path: PathBuf, attempts: u32) -> Answer {
    let read = tokio::task::spawn_blocking(move || payload(&path)).await;
    let payload = match read {
        Ok(Ok(payload)) => payload,
        Ok(Err(error)) => return Answer::Refused(chain(&error), None),
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let sent = async {
        let (run, notice) = (entry.run, &entry.notice);
        client
            .put_payload_for(run, notice.assignment, notice.payload, payload.into())
            .await?;
        client.post_update(run, notice).await
    };
    match sent.await {
        Ok(()) => Answer::Taken,
        // A coordinator that was just started anew has yet to hear of the worker.
        Err(error) if is_early(&error) && attempts < EARLY_ATTEMPTS => {
            Answer::Failed(chain(&error))
        }
        Err(error) if error.is_final() => refused(client, entry, &error, attempts).await,
        Err(error) => Answer::Failed(chain(&error)),
    }
}

/// A refusal may come to the repetition of a request whose first answer was lost, so the
/// coordinator is asked what became of the update before it is added back.
async fn refused(client: &Client, entry: &Entry, error: &ClientError, attempts: u32) -> Answer {
    let code = error.code().map(str::to_owned);
    match ask_for_verdict(client, entry, attempts).await {
        Answer::Unknown => Answer::Refused(error.to_string(), code),
        Answer::Verdict(verdict, _) => Answer::Verdict(verdict, code),
        other => other,
    }
}

impl Device {
    /// Takes note of what a task found out.
    pub(super) async fn sent(&mut self, (name, answer): (Name, Answer)) {
        let (run, assignment) = name;
        match answer {
            Answer::Taken => {
                if let Some(item) = self.outbox.items.get_mut(&name) {
                    *item = Item {
                        state: State::Sent {
                            asked: Instant::now(),
                        },
                        attempts: 0,
                    };
                }
                tracing::info!(
                    device = self.number,
                    assignment = assignment.0,
                    "update accepted"
                );
                self.want_receipt(run, assignment);
            }
            Answer::Verdict(mut verdict, refused) => {
                self.want_receipt(run, assignment);
                // Its owner looks the code up.
                if let (Some(code), Outcome::NotMerged { reason }) = (refused, &mut verdict.outcome)
                    && !verdict.accepted
                {
                    *reason = format!("{reason} ({code})");
                }
                if let Some(item) = self.outbox.items.get_mut(&name) {
                    *item = Item {
                        state: State::Sent {
                            asked: Instant::now(),
                        },
                        attempts: 0,
                    };
                }
                self.carry_out_verdict(run, verdict).await;
            }
            Answer::Unknown => {
                if let Some(item) = self.outbox.items.get_mut(&name) {
                    item.state = State::Due {
                        ask: false,
                        at: Instant::now(),
                    };
                }
            }
            Answer::Refused(reason, _) => {
                self.carry_out_verdict(
                    run,
                    Verdict {
                        assignment,
                        accepted: false,
                        outcome: Outcome::NotMerged { reason },
                    },
                )
                .await;
            }
            Answer::Failed(why) => {
                tracing::info!(
                    device = self.number,
                    assignment = assignment.0,
                    why,
                    "update not sent yet"
                );
                let ask = self
                    .outbox
                    .items
                    .get(&name)
                    .is_some_and(|item| matches!(item.state, State::UnderWay { ask: true }));
                self.outbox.wait(name, ask);
            }
        }
    }

    /// Where updates are audited each must follow from the last accepted one. One that was made
    /// and not accepted breaks that.
    async fn distrust_feedback(&mut self, run: RunId, assignment: AssignmentId) {
        let life = self
            .journal
            .get(run, assignment)
            .map(|entry| entry.notice.feedback);
        let broken = self.job.as_ref().is_some_and(|job| {
            job.spec.round.audit.enabled && job.run == run && Some(job.feedback) == life
        });
        let why = format!("update {assignment} was not accepted");
        if broken && let Err(error) = self.start_feedback(&why).await {
            tracing::error!(
                device = self.number,
                error = format!("{error:#}"),
                "error feedback could not be started anew"
            );
        }
    }

    /// An update that has a verdict, or whose sending was answered, was accepted.
    fn want_receipt(&self, run: RunId, assignment: AssignmentId) {
        if let Some(entry) = self.journal.get(run, assignment) {
            self.shared.receipts.want(entry);
        }
    }

    /// Carries the plan's verdicts out and sends what is due. Only while a run is held: the
    /// error feedback that a verdict is about must be open.
    pub(super) async fn settle_verdicts(&mut self) {
        if self.job.is_none() {
            return;
        }
        let planned = self.plan().and_then(|plan| plan.run);
        if let Some(planned) = planned {
            self.open_drawn(planned.run, &planned.open).await;
            for verdict in planned.verdicts {
                self.carry_out_verdict(planned.run, verdict).await;
            }
        }
        self.outbox.start_due(&self.journal);
    }

    pub(super) async fn carry_out_verdict(&mut self, run: RunId, verdict: Verdict) {
        let assignment = verdict.assignment;
        let Some(entry) = self.journal.get(run, assignment).cloned() else {
            return;
        };
        let part_not_merged = match &verdict.outcome {
            Outcome::Waiting => return,
            Outcome::Merged { factor, .. } if factor.is_finite() => 1.0 - factor.clamp(0.0, 1.0),
            Outcome::Merged { .. } => 0.0,
            Outcome::NotMerged { .. } => 1.0,
        };
        if !verdict.accepted {
            self.distrust_feedback(run, assignment).await;
        }
        if let Err(error) = self.settle(&entry, part_not_merged).await {
            tracing::warn!(
                device = self.number,
                assignment = assignment.0,
                error = format!("{error:#}"),
                "a verdict could not be carried out"
            );
            self.outbox.wait((run, assignment), true);
            return;
        }
        let merged = matches!(verdict.outcome, Outcome::Merged { .. });
        match &verdict.outcome {
            Outcome::Merged { revision, .. } => tracing::info!(
                device = self.number,
                assignment = assignment.0,
                %revision,
                "update merged"
            ),
            Outcome::NotMerged { reason } => tracing::info!(
                device = self.number,
                assignment = assignment.0,
                reason,
                "update not merged; added back"
            ),
            Outcome::Waiting => {}
        }
        self.shared.board.device(self.number, |status| {
            if merged {
                status.merged += 1;
            } else {
                status.not_merged += 1;
            }
            status.verdicts.push(verdict);
            let surplus = status.verdicts.len().saturating_sub(SHOWN);
            status.verdicts.drain(..surplus);
        });
    }

    /// Adds back what was not merged, if the feedback is still the one it was taken from,
    /// and forgets the update.
    async fn settle(&mut self, entry: &Entry, part_not_merged: f32) -> anyhow::Result<()> {
        let (run, assignment) = name(entry);
        let same = |job: &super::job::Job| job.run == run && job.feedback == entry.notice.feedback;
        if part_not_merged > 0.0 && self.job.as_ref().is_some_and(same) {
            let path = self.journal.path(run, assignment);
            self.compute(move |job, buffers| {
                let payload = payload(&path)?;
                let feedback = &mut buffers.feedback;
                feedback.settle(assignment, &payload, &job.layout, part_not_merged)?;
                anyhow::Ok(())
            })
            .await??;
        }
        self.outbox.forget(run, assignment);
        self.remember(run, assignment);
        self.journal.remove(run, assignment)?;
        Ok(())
    }
}
