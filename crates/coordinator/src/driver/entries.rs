//! What a run's events write into its ledger.

use anyhow::Context;
use opengpu_ledger::{Code, Entry, EntryKind, Finite};
use opengpu_rounds::{AssignmentId, AuditOutcome, Event, EventKind, Finding};

use super::LiveRun;
use crate::clock::unix_ms;
use crate::store::Store;

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
            _ => {}
        }
    }
    Ok(entries)
}

/// What an audit found; if the update was not what it should be, a correction takes its credit
/// back.
async fn audited(
    store: &Store,
    run: &LiveRun,
    assignment: AssignmentId,
    finding: &Finding,
) -> anyhow::Result<Vec<Entry>> {
    let lines = store.ledger_of(run.id, assignment).await?;
    let mut lines = lines.into_iter();
    let accepted = lines.find_map(|found| {
        let entry = opengpu_ledger::line::read(found.line.as_bytes()).ok()?;
        let is_credit = matches!(entry.kind, EntryKind::Accepted { .. });
        is_credit.then_some((found.number, entry))
    });
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
    if let EntryKind::Accepted {
        tokens, megaflops, ..
    } = accepted.kind
        && finding.outcome == AuditOutcome::Failed
    {
        let taken = |number: u64| i64::try_from(number).map_or(i64::MIN, |number| -number);
        let code = Code::new(&finding.code).context("an audit's code")?;
        let (tokens, megaflops) = (taken(tokens), taken(megaflops));
        let correction = Entry::correction(number, &accepted, unix_ms(), tokens, megaflops, code)?;
        entries.push(correction);
    }
    Ok(entries)
}
