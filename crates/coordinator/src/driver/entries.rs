//! What a run's events write into its ledger.

use anyhow::Context;
use opengpu_ledger::{AUDIT_REVERSED, Code, Entry, EntryKind, Finite};
use opengpu_rounds::{AssignmentId, AuditOutcome, Event, EventKind, Finding, WorkerId};

use super::LiveRun;
use crate::clock::unix_ms;
use crate::store::{LedgerLine, Store};

/// The entries of these events, which are not folded into the run yet.
pub async fn entries(store: &Store, run: &LiveRun, events: &[Event]) -> anyhow::Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for event in events {
        match &event.kind {
            EventKind::UpdateAccepted {
                assignment,
                blocks_completed,
                payload,
                tokens,
                ..
            } => {
                let state = run.state();
                let Some(lease) = state.lease(*assignment) else {
                    continue;
                };
                let Some(member) = state.member(lease.worker) else {
                    continue;
                };
                entries.push(Entry {
                    at_unix_ms: unix_ms(),
                    node: member.node,
                    worker: lease.worker,
                    assignment: *assignment,
                    round: lease.round,
                    kind: EntryKind::Accepted {
                        blocks: *blocks_completed,
                        tokens: *tokens,
                        megaflops: run.megaflops(*tokens),
                        payload: *payload,
                    },
                });
            }
            EventKind::Audited {
                assignment,
                finding,
                ..
            } => entries.extend(audited(store, run, *assignment, finding).await?),
            EventKind::CreditReturned { assignment, .. } => {
                let taken = taken(store, run, *assignment).await?;
                if let Some(taken) = taken {
                    entries.push(taken.returned()?);
                }
            }
            _ => {}
        }
    }
    Ok(entries)
}

/// What an audit found, and credit for the nodes that trained it again; if the update was not what
/// it should be, a correction takes its credit back.
async fn audited(
    store: &Store,
    run: &LiveRun,
    assignment: AssignmentId,
    finding: &Finding,
) -> anyhow::Result<Vec<Entry>> {
    let accepted = credit(&read(store, run, assignment).await?);
    // Updates from before there was a ledger are not audited.
    let Some((number, accepted)) = accepted else {
        return Ok(Vec::new());
    };
    let finite = |number: Option<f64>| number.and_then(|number| Finite::new(number).ok());
    let mut entries = vec![Entry {
        at_unix_ms: unix_ms(),
        kind: EntryKind::Audited {
            outcome: finding.outcome,
            by: finding.decided_by(),
            measured: finite(finding.measured),
            allowed: finite(finding.allowed),
        },
        ..accepted.clone()
    }];
    let EntryKind::Accepted {
        blocks,
        tokens,
        megaflops,
        payload: _,
    } = accepted.kind
    else {
        return Ok(entries);
    };
    for (node, worker) in finding.credited() {
        entries.push(Entry {
            at_unix_ms: unix_ms(),
            node,
            worker,
            kind: EntryKind::TrainedAgain {
                blocks,
                tokens,
                megaflops,
            },
            ..accepted.clone()
        });
    }
    if finding.outcome == AuditOutcome::Failed {
        let taken = |number: u64| i64::try_from(number).map_or(i64::MIN, |number| -number);
        let code = Code::new(&finding.code).context("an audit's code")?;
        let (tokens, megaflops) = (taken(tokens), taken(megaflops));
        let correction = Entry::correction(number, &accepted, unix_ms(), tokens, megaflops, code)?;
        entries.push(correction);
    }
    Ok(entries)
}

/// What a failed audit took of an update's credit, and nobody gave back yet.
pub struct Taken {
    number: u64,
    accepted: Entry,
    /// Tokens.
    pub tokens: u64,
    megaflops: u64,
}

impl Taken {
    /// Whose it was.
    pub fn worker(&self) -> WorkerId {
        self.accepted.worker
    }

    /// The entry that gives it back.
    fn returned(&self) -> anyhow::Result<Entry> {
        let code = Code::new(AUDIT_REVERSED).context("a reversal's code")?;
        let (tokens, megaflops) = (i64::try_from(self.tokens)?, i64::try_from(self.megaflops)?);
        let entry = Entry::correction(
            self.number,
            &self.accepted,
            unix_ms(),
            tokens,
            megaflops,
            code,
        )?;
        Ok(entry)
    }
}

/// What of an update's credit could be given back: what its corrections come to, if that is a
/// loss. The ledger knows it for ever, and this driver alone writes there.
pub async fn taken(
    store: &Store,
    run: &LiveRun,
    assignment: AssignmentId,
) -> anyhow::Result<Option<Taken>> {
    let lines = read(store, run, assignment).await?;
    let Some((number, accepted)) = credit(&lines) else {
        return Ok(None);
    };
    let (mut tokens, mut megaflops) = (0i64, 0i64);
    for (_, entry) in &lines {
        if let EntryKind::Corrected {
            tokens: more,
            megaflops: more_megaflops,
            ..
        } = entry.kind
        {
            tokens = tokens.saturating_add(more);
            megaflops = megaflops.saturating_add(more_megaflops);
        }
    }
    Ok((tokens < 0).then(|| Taken {
        number,
        accepted,
        tokens: tokens.unsigned_abs(),
        megaflops: megaflops.min(0).unsigned_abs(),
    }))
}

/// The entries about an update, with their numbers.
async fn read(
    store: &Store,
    run: &LiveRun,
    assignment: AssignmentId,
) -> anyhow::Result<Vec<(u64, Entry)>> {
    let lines = store.ledger_of(run.id, assignment).await?;
    let entry = |found: LedgerLine| {
        let entry = opengpu_ledger::line::read(found.line.as_bytes()).ok()?;
        Some((found.number, entry))
    };
    Ok(lines.into_iter().filter_map(entry).collect())
}

/// The entry with which an update was credited.
fn credit(lines: &[(u64, Entry)]) -> Option<(u64, Entry)> {
    let is_credit = |entry: &Entry| matches!(entry.kind, EntryKind::Accepted { .. });
    lines.iter().find(|(_, entry)| is_credit(entry)).cloned()
}
