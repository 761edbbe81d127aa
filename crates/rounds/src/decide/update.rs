//! Updates: accepted, accepted as late, or refused with the number that decided it.

use super::{Deciding, Granted, comparing, refuse};
use crate::explain::count;
use crate::reputation::trust;
use crate::{
    AssignmentId, Compared, EventKind, Hash, Input, Lease, Outcome, Refusal, Revision, WorkerId,
};

impl Deciding<'_> {
    pub(super) fn update(&mut self, input: &Input) -> Granted {
        let &Input::Update {
            assignment,
            worker,
            base,
            blocks_completed,
            payload,
            payload_bytes,
            tokens_per_block,
            feedback,
            ref commitment,
            draw,
        } = input
        else {
            return Ok(());
        };
        let run = self.run();
        let Some(member) = run.members.get(&worker) else {
            return refuse(
                "unknown_worker",
                format!("worker {worker} has not joined the run"),
            );
        };
        let Some(lease) = run.leases.get(&assignment) else {
            return self.settled(assignment, worker, payload);
        };
        check_lease(assignment, lease, worker, base, blocks_completed)?;
        if member.feedback != Some(feedback) {
            let now = match member.feedback {
                Some(current) => format!("worker {worker} has error feedback {current} now"),
                None => format!("worker {worker} has not named its error feedback"),
            };
            return refuse(
                "wrong_feedback",
                format!("the update was taken from error feedback {feedback}; {now}"),
            );
        }
        if let Some(of) = run.assignment_of_payload(payload) {
            return refuse(
                "payload_taken",
                format!(
                    "payload {payload} is the update of assignment {of}; each assignment is trained and sent by itself"
                ),
            );
        }
        self.check_commitment(member, commitment.as_ref())?;
        if blocks_completed == 0 {
            let reason = "none of its blocks was completed".to_owned();
            self.emit(EventKind::LeaseReturned { assignment, reason });
            return refuse(
                "nothing_completed",
                format!("assignment {assignment} has no completed block; it was returned"),
            )
            .map_err(comparing(Compared {
                measured: 0,
                allowed: 1,
            }));
        }
        let (mergeable, round) = (member.proven, lease.round);
        let late = run.round().saturating_sub(round);
        let rules = run.settings.audit;
        let sight = self.fleet.get(&worker);
        let audit = rules
            .picks(sight, member.hurt_lately(), run.trusted_audits(), draw)
            .then_some(draw);
        let held = rules.enabled && !sight.is_some_and(|sight| sight.trusted);
        let trust = match sight {
            Some(sight) if rules.enabled => trust(sight.reputation),
            _ => 1.0,
        };
        let commitment = commitment.clone().filter(|_| rules.enabled);
        self.explain(match (mergeable, late) {
            (true, _) if held => "accepted; it waits for its audit, and then for its merge".into(),
            (false, _) => "accepted and credited; a joiner's first update is not merged".into(),
            (true, 0) => "accepted; it waits for its merge".into(),
            (true, late) => format!(
                "accepted {} late; it waits for the next merge",
                count(late as usize, "round")
            ),
        });
        self.emit(EventKind::UpdateAccepted {
            assignment,
            blocks_completed,
            payload,
            payload_bytes,
            tokens: blocks_completed.saturating_mul(tokens_per_block),
            mergeable,
            commitment,
            audit,
            held,
            trust,
        });
        Ok(())
    }

    /// An update for an assignment that is no longer leased.
    fn settled(&mut self, assignment: AssignmentId, worker: WorkerId, payload: Hash) -> Granted {
        let run = self.run();
        let own = run.members.get(&worker).and_then(|m| m.verdict(assignment));
        let Some(verdict) = own else {
            if run.verdict(assignment).is_some() {
                return refuse(
                    "wrong_worker",
                    format!("assignment {assignment} was not given to worker {worker}"),
                );
            }
            return refuse(
                "unknown_assignment",
                format!("assignment {assignment} is not known, or too old to be remembered"),
            );
        };
        match (verdict.payload, &verdict.outcome) {
            (Some(accepted), _) if accepted == payload => {
                self.explain("accepted before; nothing changes");
                Ok(())
            }
            (Some(accepted), _) => refuse(
                "another_payload",
                format!("assignment {assignment} has its update already: payload {accepted}"),
            ),
            (None, Outcome::NotMerged { reason }) => refuse(
                "lease_returned",
                format!("the blocks of assignment {assignment} were given back: {reason}"),
            )
            .map_err(|refusal| Refusal {
                compared: run.lateness(verdict),
                ..refusal
            }),
            (None, _) => refuse("lease_returned", "the lease was returned"),
        }
    }
}

fn check_lease(
    assignment: AssignmentId,
    lease: &Lease,
    worker: WorkerId,
    base: Revision,
    blocks_completed: u64,
) -> Result<(), Refusal> {
    if lease.worker != worker {
        return refuse(
            "wrong_worker",
            format!("assignment {assignment} was not given to worker {worker}"),
        );
    }
    if lease.base.lineage != base.lineage {
        let (theirs, ours) = (base.lineage, lease.base.lineage);
        return refuse(
            "wrong_lineage",
            format!("the update is of lineage {theirs}, assignment {assignment} of {ours}"),
        )
        .map_err(comparing(Compared {
            measured: theirs.into(),
            allowed: ours.into(),
        }));
    }
    if lease.base != base {
        let expected = lease.base;
        return refuse(
            "wrong_base",
            format!("assignment {assignment} starts from revision {expected}, not from {base}"),
        )
        .map_err(comparing(Compared {
            measured: base.number,
            allowed: expected.number,
        }));
    }
    let blocks = lease.block_count();
    if blocks_completed > blocks {
        return refuse(
            "too_many_blocks",
            format!("assignment {assignment} has {blocks} blocks, not {blocks_completed}"),
        )
        .map_err(comparing(Compared {
            measured: blocks_completed,
            allowed: blocks,
        }));
    }
    Ok(())
}
