//! Nodes that take part and send what is no update, no opening and no answer to an audit, each
//! where it is asked for. Between them a worker sends one update that is in order, of progress
//! that it made up: else it would be asked for no openings, and its auditor for no audit.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opengpu_merge::Layout;
use opengpu_merge::audit::{Again, commitment, write_openings};
use opengpu_protocol::audits::{AuditDeclined, AuditPlan};
use opengpu_protocol::client::Directives;
use opengpu_protocol::wire::{AssignmentPlan, Drawn, Report, RunPlan, UpdateNotice};
use opengpu_protocol::{Client, ClientError};
use opengpu_rounds::{AssignmentId, Commitment, FeedbackId, Hash, RunId, WorkerId};
use tokio::time::Instant;

use super::attacker::Attacker;
use super::honest::{claim, offer};
use super::lies;
use super::tally::{Became, Must};

/// Longest wait for a plan.
const SILENCE: Duration = Duration::from_secs(20);
/// Longest wait for a newer plan.
const MOMENT: Duration = Duration::from_millis(200);
/// Longest time for one request; the client is patient with an answer like "too many".
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait until all of them were asked for.
const PATIENCE_FOR_WORK: Duration = Duration::from_secs(90);

/// Gets work by claiming to hold the weights, and lies about it until then, and until each kind
/// of lie was told where it is asked for.
pub async fn attack(attacker: &Arc<Attacker>, until: Instant) -> Result<()> {
    let mut worker = Part::join(&attacker.worker_client).await?;
    let mut auditor = Part::join(&attacker.auditor_client).await?;
    let update = MadeUp::of(attacker).await?;
    let patient_until = Instant::now() + PATIENCE_FOR_WORK;
    let (mut sent, mut opened, mut answered) = (false, false, false);
    while !answered || Instant::now() < until {
        ensure!(
            answered || Instant::now() < patient_until,
            "the attacker's update was {}, its openings were {}, and its auditor was not asked",
            if sent { "sent" } else { "not asked for" },
            if opened { "sent" } else { "not asked for" },
        );
        for part in [&mut worker, &mut auditor] {
            part.hear().await?;
            part.report(attacker).await;
        }
        let asked = worker.run.as_ref().zip(auditor.run.as_ref());
        // Once it has work it is heard of, so that it is asked before anybody else.
        let Some((run, auditors)) = asked.filter(|(_, auditors)| auditors.assignment.is_some())
        else {
            continue;
        };
        if let Some(assignment) = &run.assignment
            && !sent
        {
            update.send(attacker, worker.worker, assignment).await?;
            sent = true;
        } else if let Some(drawn) = run.open.first()
            && !opened
        {
            update.open(attacker, drawn).await?;
            opened = true;
        } else if let Some(audit) = &auditors.audit {
            update.answer(attacker, audit).await;
            answered = true;
        }
    }
    Ok(())
}

/// A worker that takes part.
struct Part<'a> {
    client: &'a Client,
    worker: WorkerId,
    plans: Directives,
    /// What its last plan said.
    run: Option<RunPlan>,
}

impl<'a> Part<'a> {
    async fn join(client: &'a Client) -> Result<Self> {
        Ok(Self {
            client,
            worker: client.offer(0, &offer()).await?.worker,
            plans: client.directives(SILENCE).await?,
            run: None,
        })
    }

    async fn hear(&mut self) -> Result<()> {
        let plan = match tokio::time::timeout(MOMENT, self.plans.next()).await {
            // The last plan stands.
            Err(_elapsed) => return Ok(()),
            Ok(plan) => plan?,
        };
        let Some(plan) = plan else {
            self.plans = self.client.directives(SILENCE).await?;
            return Ok(());
        };
        let mut workers = plan.workers.into_iter();
        let own = workers.find(|plan| plan.worker == self.worker);
        self.run = own.and_then(|plan| plan.run);
        Ok(())
    }

    /// Says to hold the weights; lies about another's worker, and about its own speed.
    async fn report(&self, attacker: &Attacker) {
        let Some(run) = &self.run else {
            return;
        };
        let report = claim(run.run, run.revision, run.digest);
        let fast = Report {
            blocks_per_second: 1e300,
            ..report.clone()
        };
        let (client, victims) = (self.client, attacker.victims_worker);
        let what = "a report for another's worker";
        refused(attacker, what, client.report(victims, &report)).await;
        for (what, report) in [("a report of great speed", fast), ("a report", report)] {
            let heard = client.report(self.worker, &report).await;
            attacker.count(what, Must::BeNoFault, Became::of(&heard));
        }
    }
}

/// Sends what must not be taken.
async fn refused<T>(
    attacker: &Attacker,
    what: &str,
    sending: impl Future<Output = Result<T, ClientError>>,
) {
    let sent = tokio::time::timeout(PATIENCE, sending).await;
    let became = sent.map_or(Became::Silent, |sent| Became::of(&sent));
    attacker.count(what, Must::BeRefused, became);
}

/// An update of progress that nobody trained.
struct MadeUp {
    run: RunId,
    layout: Layout,
    progress: Vec<f32>,
    payload: Vec<u8>,
}

impl MadeUp {
    async fn of(attacker: &Attacker) -> Result<Self> {
        let run = attacker.run;
        let spec = attacker.worker_client.run(run).await?.spec;
        let model = spec.model.context("the run has no model")?;
        let layout = Layout::new(model.tensors().iter().map(|tensor| tensor.len()));
        let progress = (0..layout.len()).map(|weight| ((weight % 97) as f32 - 48.0) * 1e-4);
        let progress: Vec<f32> = progress.collect();
        let mut unsent = progress.clone();
        let payload = opengpu_merge::encode(spec.sync.up.into(), &layout, &mut unsent)?;
        Ok(Self {
            run,
            layout,
            progress,
            payload,
        })
    }

    /// Lies about an assignment; then one update that is in order.
    async fn send(
        &self,
        attacker: &Attacker,
        worker: WorkerId,
        assignment: &AssignmentPlan,
    ) -> Result<()> {
        let (client, run) = (&attacker.worker_client, self.run);
        let hash = Hash::of(&self.payload);
        // First, as the number of payloads for an assignment is limited.
        let sending = client.put_payload(run, hash, self.payload.clone().into());
        sending.await.context("a payload that is in order")?;
        let notice = UpdateNotice {
            worker,
            assignment: assignment.assignment,
            base: assignment.base,
            blocks_completed: 1,
            payload: hash,
            payload_bytes: self.payload.len() as u64,
            feedback: FeedbackId(1),
            loss: 1.0,
            train_seconds: 1.0,
            commitment: Some(Commitment {
                root: Hash(commitment(&self.layout, &self.progress)),
                previous: None,
                taken_back: Vec::new(),
            }),
            numerics_class: None,
        };
        for (what, lie) in lies::like(&notice, attacker.victims_worker) {
            refused(attacker, what, client.post_update(run, &lie)).await;
        }
        send_broken(attacker, &notice).await;
        let posting = client.post_update(run, &notice);
        posting.await.context("an update that is in order")?;
        Ok(())
    }

    /// Broken openings; then those that are asked for.
    async fn open(&self, attacker: &Attacker, drawn: &Drawn) -> Result<()> {
        let chunks = places(&drawn.chunks);
        let good = write_openings(&self.layout, &chunks, &self.progress, None);
        let (client, run, of) = (&attacker.worker_client, self.run, drawn.assignment);
        for (what, bytes) in lies::bytes(&good) {
            let hash = Hash::of(&bytes);
            let what = format!("openings: {what}");
            refused(
                attacker,
                &what,
                client.put_openings(run, of, hash, bytes.into()),
            )
            .await;
        }
        let other = Hash([9; 32]);
        let sending = client.put_openings(run, of, other, good.clone().into());
        refused(attacker, "openings under another name", sending).await;
        let hash = Hash::of(&good);
        let not_its_own = attacker
            .auditor_client
            .put_openings(run, of, hash, good.clone().into());
        refused(attacker, "openings of another's update", not_its_own).await;
        let unknown = client.put_openings(run, AssignmentId(1 << 40), hash, good.clone().into());
        refused(attacker, "openings of no update", unknown).await;
        let sending = client.put_openings(run, of, hash, good.into());
        sending.await.context("openings that are in order")
    }

    /// Broken answers of the node that was asked, and good ones of others.
    async fn answer(&self, attacker: &Attacker, audit: &AuditPlan) {
        let chunks = places(&audit.chunks);
        let nowhere = vec![0.0; self.progress.len()];
        let good = Again::of(&self.layout, &chunks, (&self.progress, &nowhere), "none").write();
        let (client, run, number) = (&attacker.auditor_client, self.run, audit.number);
        let mut no_number = good.clone();
        let end = no_number.len() - 4;
        no_number[end..].copy_from_slice(&f32::NAN.to_le_bytes());
        let mut broken = lies::bytes(&good);
        broken.push(("what is no number", no_number));
        for (what, bytes) in broken {
            let hash = Hash::of(&bytes);
            let what = format!("an answer to an audit: {what}");
            refused(
                attacker,
                &what,
                client.put_audit(run, number, hash, bytes.into()),
            )
            .await;
        }
        let other = Hash([9; 32]);
        let sending = client.put_audit(run, number, other, good.clone().into());
        refused(attacker, "an answer under another name", sending).await;
        let hash = Hash::of(&good);
        let sending = client.put_audit(run, number ^ 1, hash, good.clone().into());
        refused(attacker, "an answer to no audit", sending).await;
        let worker = &attacker.worker_client;
        let sending = worker.put_audit(run, number, hash, good.into());
        refused(attacker, "an answer to an audit of one's own", sending).await;
        let declined = AuditDeclined {
            reason: "\u{1b}[2J".repeat(200),
        };
        let declining = worker.decline_audit(run, number, &declined);
        refused(attacker, "an audit declined for another", declining).await;
    }
}

fn places(chunks: &[u32]) -> Vec<usize> {
    chunks.iter().map(|chunk| *chunk as usize).collect()
}

/// Payloads and files that are none, and notices of them.
async fn send_broken(attacker: &Attacker, good: &UpdateNotice) {
    let (client, run) = (&attacker.worker_client, attacker.run);
    for (what, bytes) in lies::payloads() {
        let hash = Hash::of(&bytes);
        let payload_bytes = bytes.len() as u64;
        let sending = client.put_payload(run, hash, bytes.clone().into());
        refused(attacker, what, sending).await;
        let opening = client.put_openings(run, good.assignment, hash, bytes.into());
        refused(attacker, "openings that nobody asked for", opening).await;
        let notice = UpdateNotice {
            payload: hash,
            payload_bytes,
            ..good.clone()
        };
        for (what, notice) in lies::notices(&notice, attacker.victims_worker) {
            refused(attacker, what, client.post_update(run, &notice)).await;
        }
    }
}
