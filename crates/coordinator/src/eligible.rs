//! Which runs a node may join: decided here and nowhere else, from what the run's file says and
//! what is known of the node.

use std::collections::BTreeSet;

use opengpu_protocol::standing::NoWork;
use opengpu_protocol::{Nodes, RunSpec};
use opengpu_rounds::{NodeId, RunId, WorkerId};
use opengpu_trainer_protocol::InnerState;

use crate::fleet::{Memory, NodeMemory};

/// The run takes only nodes that an operator vouches for.
const VOUCHED_ONLY: &str = "vouched_only";
/// The run takes only nodes that are trusted.
const TRUSTED_ONLY: &str = "trusted_only";
/// Nothing of the run can be audited, so that it takes only nodes that an operator let in.
const CARRY_NEEDS_APPROVAL: &str = "carry_needs_approval";

/// What is known of a node as far as runs ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// Whether an operator let it in, by a token or by approval.
    pub approved: bool,
    /// Whether an operator vouches for it.
    pub vouched: bool,
    /// Whether it is out of the run's probation, and not suspected.
    pub trusted: bool,
}

/// Why a run does not take a node; None: it does.
pub fn barred(
    (run, spec): (RunId, &RunSpec),
    (node, known): (NodeId, Applicant),
) -> Option<NoWork> {
    let Applicant {
        approved,
        vouched,
        trusted,
    } = known;
    let carries = spec.inner.state == InnerState::Carry;
    let (code, message) = match spec.trust.nodes {
        Nodes::Vouched if !vouched => (
            VOUCHED_ONLY,
            format!(
                "run {run} takes only nodes that the operator vouches for, with `opengpu node vouch {node}`"
            ),
        ),
        Nodes::Trusted if !trusted => (
            TRUSTED_ONLY,
            format!(
                "run {run} takes only nodes that passed {} audits lately, in other runs, or that the operator vouches for; node {node} is not one of them now",
                spec.trust.probation_audits
            ),
        ),
        _ if carries && !approved && !vouched => (
            CARRY_NEEDS_APPROVAL,
            format!(
                "the work of run {run} can't be audited (its optimiser carries state), so it takes only nodes that the operator let in; node {node} came in unasked, and he approves it with `opengpu node approve {node}`"
            ),
        ),
        _ => return None,
    };
    Some(NoWork {
        code: code.to_owned(),
        message,
    })
}

impl NodeMemory {
    /// Why a run does not take this node; None: it does.
    pub fn barred_from(
        &self,
        node: NodeId,
        run: RunId,
        spec: &RunSpec,
        now_unix_ms: u64,
    ) -> Option<NoWork> {
        let probation = spec.trust.probation_audits;
        let known = Applicant {
            approved: self.approved,
            vouched: self.standing.vouched,
            trusted: self.standing.is_trusted(probation, now_unix_ms),
        };
        barred((run, spec), (node, known))
    }
}

impl Memory {
    /// Workers whose nodes a run does not take.
    pub fn barred_from(&self, run: RunId, spec: &RunSpec, now_unix_ms: u64) -> Vec<WorkerId> {
        let workers = self.workers.iter().filter(|(_, worker)| {
            let node = self.nodes.get(&worker.node);
            node.is_none_or(|known| {
                let barred = known.barred_from(worker.node, run, spec, now_unix_ms);
                barred.is_some()
            })
        });
        workers.map(|(id, _)| *id).collect()
    }

    /// Workers whose nodes are past the run's probation.
    pub fn trusted_in(&self, spec: &RunSpec, now_unix_ms: u64) -> BTreeSet<WorkerId> {
        let probation = spec.trust.probation_audits;
        let workers = self.workers.iter().filter(|(_, worker)| {
            let node = self.nodes.get(&worker.node);
            node.is_some_and(|known| known.standing.is_trusted(probation, now_unix_ms))
        });
        workers.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use opengpu_protocol::{SyncSettings, TrustSettings};
    use opengpu_rounds::RoundSettings;
    use opengpu_trainer_protocol::InnerSettings;

    use super::*;

    fn spec(nodes: Nodes, state: InnerState) -> RunSpec {
        RunSpec {
            name: "first".into(),
            dataset: "books".into(),
            seed: 1,
            preset: Some("nano".into()),
            model: None,
            block_sequences: 8,
            round: RoundSettings::default(),
            inner: InnerSettings {
                state,
                ..InnerSettings::default()
            },
            sync: SyncSettings::default(),
            trust: TrustSettings {
                nodes,
                ..TrustSettings::default()
            },
            evaluate_every: 5,
            checkpoint_every: 10,
        }
    }

    fn code(nodes: Nodes, state: InnerState, known: Applicant) -> Option<String> {
        let spec = spec(nodes, state);
        barred((RunId(4), &spec), (NodeId(7), known)).map(|why| {
            assert!(why.message.contains("run 4"), "{}", why.message);
            assert!(why.message.contains('7'), "{}", why.message);
            why.code
        })
    }

    #[test]
    fn each_run_takes_whom_its_file_names_and_one_that_carries_only_whom_an_operator_let_in() {
        use InnerState::{Carry, Reset};
        use Nodes::{Anyone, Trusted, Vouched};
        let stranger = Applicant {
            approved: false,
            vouched: false,
            trusted: false,
        };
        let invited = Applicant {
            approved: true,
            ..stranger
        };
        let proven = Applicant {
            trusted: true,
            ..stranger
        };
        let vouched = Applicant {
            vouched: true,
            trusted: true,
            ..stranger
        };
        let suspected = Applicant {
            trusted: false,
            ..vouched
        };
        let carry = Some(CARRY_NEEDS_APPROVAL);
        for (nodes, state, known, why) in [
            (Anyone, Reset, stranger, None),
            (Anyone, Carry, stranger, carry),
            (Anyone, Carry, proven, carry),
            (Anyone, Carry, invited, None),
            (Anyone, Carry, vouched, None),
            (Trusted, Reset, stranger, Some(TRUSTED_ONLY)),
            (Trusted, Reset, invited, Some(TRUSTED_ONLY)),
            (Trusted, Reset, proven, None),
            (Trusted, Carry, proven, carry),
            (Trusted, Reset, suspected, Some(TRUSTED_ONLY)),
            (Vouched, Reset, proven, Some(VOUCHED_ONLY)),
            (Vouched, Reset, invited, Some(VOUCHED_ONLY)),
            (Vouched, Carry, vouched, None),
            (Vouched, Carry, suspected, None),
        ] {
            assert_eq!(
                code(nodes, state, known).as_deref(),
                why,
                "{nodes:?} {state:?} {known:?}"
            );
        }
    }
}
