//! Work that was refused, as its line in the ledger: which check, what it measured, what it
//! would have allowed.
//!
//! A refusal is no event: nothing of the run's state follows from it. So its line is appended
//! alone, on the condition of the owner's epoch and of the log's end like every append; what
//! was refused twice is looked for in the ledger before, where this driver alone writes.
//!
//! What a node can add is bounded by the work that it was given: a line only for an assignment
//! of its own, each code once, and [`MOST`] for each assignment. Who names assignments of
//! others writes nothing, and so does who names none and holds none, or several.

use opengpu_ledger::{Code, Entry, EntryKind, Finite, line};
use opengpu_rounds::{AssignmentId, Compared, Input, NodeId, Refusal, Run, WorkerId};

use crate::clock::unix_ms;
use crate::store::{LedgerLine, Store};

use super::LiveRun;

/// Lines of refused updates for one assignment.
const MOST: usize = 4;

/// The refusals that are verdicts on work. The others are on requests, on who asks, or pass by
/// themselves (`wrong_feedback`, `payload_missing`), and are in the log alone.
const VERDICTS: [&str; 14] = [
    // The payload's check.
    "bad_payload",
    "too_large",
    "wrong_hash",
    // The run's rules.
    "wrong_lineage",
    "wrong_base",
    "too_many_blocks",
    "nothing_completed",
    "payload_taken",
    ANOTHER_PAYLOAD,
    "no_commitment",
    "wrong_previous",
    "wrong_taken_back",
    // Too late.
    "lease_returned",
    NO_LEASE,
];

/// The one refusal that comes after an update of the assignment was accepted.
const ANOTHER_PAYLOAD: &str = "another_payload";
/// Said before it is known which assignment a payload is for.
const NO_LEASE: &str = "no_lease";

/// A refusal of work.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Whose.
    node: NodeId,
    /// Of which assignment.
    assignment: AssignmentId,
    /// Which check.
    code: Code,
    /// Its numbers.
    compared: Option<Compared>,
}

/// An assignment as a refusal finds it.
struct Held {
    worker: WorkerId,
    round: u64,
    accepted: bool,
    lateness: Option<Compared>,
}

impl Rejection {
    /// The refusal of an update that this node sent; None if its code is no verdict on work.
    pub fn new(
        node: NodeId,
        assignment: AssignmentId,
        code: &str,
        compared: Option<Compared>,
    ) -> Option<Self> {
        let verdict = VERDICTS.contains(&code);
        let code = Code::new(code).ok().filter(|_| verdict)?;
        Some(Self {
            node,
            assignment,
            code,
            compared,
        })
    }

    /// What a run refused, if it is an update.
    pub(super) fn of(run: &Run, input: &Input, refusal: &Refusal) -> Option<Self> {
        let Input::Update {
            assignment, worker, ..
        } = input
        else {
            return None;
        };
        let node = run.member(*worker)?.node;
        Self::new(node, *assignment, refusal.code, refusal.compared)
    }

    /// Its line, unless the ledger has it or is to have none.
    pub(super) async fn entry(
        &self,
        store: &Store,
        run: &LiveRun,
    ) -> anyhow::Result<Option<Entry>> {
        let Some(held) = self.held(&run.state()) else {
            return Ok(None);
        };
        if held.accepted && self.code.as_str() != ANOTHER_PAYLOAD {
            return Ok(None);
        }
        let before = store.ledger_of(run.id, self.assignment).await?;
        let before: Vec<Code> = before.iter().filter_map(rejected).collect();
        if before.len() >= MOST || before.contains(&self.code) {
            return Ok(None);
        }
        let compared = self.compared.or(match self.code.as_str() {
            NO_LEASE => held.lateness,
            _ => None,
        });
        let finite = |number: u64| Finite::new(number as f64).ok();
        Ok(Some(Entry {
            at_unix_ms: unix_ms(),
            node: self.node,
            worker: held.worker,
            assignment: self.assignment,
            round: held.round,
            kind: EntryKind::Rejected {
                code: self.code.clone(),
                measured: compared.and_then(|compared| finite(compared.measured)),
                allowed: compared.and_then(|compared| finite(compared.allowed)),
            },
        }))
    }

    /// The assignment, if it is, or was, the node's own.
    fn held(&self, run: &Run) -> Option<Held> {
        let own = |worker| {
            let member = run.member(worker);
            member.is_some_and(|member| member.node == self.node)
        };
        if let Some(lease) = run.lease(self.assignment) {
            return own(lease.worker).then_some(Held {
                worker: lease.worker,
                round: lease.round,
                accepted: false,
                lateness: None,
            });
        }
        let (worker, verdict) = run.verdict(self.assignment)?;
        own(worker).then_some(Held {
            worker,
            round: verdict.round?,
            accepted: verdict.payload.is_some(),
            lateness: run.lateness(verdict),
        })
    }
}

/// The code of a line about a refused update.
fn rejected(found: &LedgerLine) -> Option<Code> {
    match line::read(found.line.as_bytes()).ok()?.kind {
        EntryKind::Rejected { code, .. } => Some(code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn verdicts_on_work_are_codes_and_what_passes_by_itself_is_none_of_them() {
        let rejection = |code| Rejection::new(NodeId(1), AssignmentId(2), code, None);
        for code in VERDICTS {
            assert_eq!(rejection(code).unwrap().code.as_str(), code);
        }
        for code in ["wrong_worker", "unknown_assignment", "wrong_feedback"] {
            assert!(rejection(code).is_none(), "{code}");
        }
    }
}
