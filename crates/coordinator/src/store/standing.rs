//! How far each node is trusted: audits passed and failed, whether an operator vouches for it,
//! and where that puts it. Written in the transaction of the events that it follows from, so that
//! it always agrees with the ledgers. Each step is kept ([`super::changes`]).

use opengpu_protocol::operator::NodeAction;
use opengpu_protocol::standing::Evidence;
use opengpu_rounds::standing::{Cause, Level, PROBATION_AUDITS};
use opengpu_rounds::{
    AssignmentId, AuditOutcome, Event, EventKind, Finding, NodeId, Reputation, RunId, WorkerId,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, TransactionTrait,
    sea_query::Expr,
};

use super::changes::{Held, Why};
use super::entities::{node, standing, worker};
use super::nodes::{Admitted, NodeState};
use super::{Result, Store, StoreError, from_db, to_db, unix_ms};

/// Failures without a proof (chunks that were not opened) after which a node is put in
/// quarantine: a machine may be switched off at the wrong moment, but not each time.
const UNPROVEN_FAILURES: u64 = 3;

/// Parts of an audit as integers: every database sums and compares those alike.
pub(super) const MILLION: f64 = 1e6;

/// How far a node is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// Where it stands.
    pub level: Level,
    /// An operator vouches for it: its updates are audited as those of a trusted node.
    pub vouched: bool,
    /// Audits passed since the last one that it failed.
    pub passed: u64,
    /// Audits failed, without those that were found to be none.
    pub failed: u64,
    /// What those passed are still worth.
    pub reputation: Reputation,
}

/// What an audit did to a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    /// Whose update it was.
    pub node: NodeId,
    /// Which update.
    pub assignment: AssignmentId,
    /// Of which round.
    pub round: u64,
    /// What was found.
    pub finding: Finding,
    /// The entry of the ledger that says so.
    pub entry: u64,
}

/// Why an operator's word changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// There is no such node.
    #[error("there is no node {0}; `opengpu node list` shows those there are")]
    Unknown(NodeId),
    /// It waits for approval.
    #[error("node {0} waits for approval: `opengpu node approve {0}`, or ban it")]
    Pending(NodeId),
    /// It does not.
    #[error(
        "node {node} is {state}; approve is for nodes that wait for approval, or came in unasked"
    )]
    NotPending {
        /// Which.
        node: NodeId,
        /// What it may do.
        state: NodeState,
    },
    /// This does not lead anywhere from there.
    #[error("node {node} is {level}; `opengpu node restore {node}` comes before {}", action.as_str())]
    Illegal {
        /// Which.
        node: NodeId,
        /// Where it stands.
        level: Level,
        /// What was asked.
        action: NodeAction,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbErr> for TellError {
    fn from(error: DbErr) -> Self {
        Self::Store(error.into())
    }
}

impl Standing {
    /// Whether its updates are merged before they are audited, where a new node passes so
    /// many audits first.
    pub fn is_trusted(&self, probation_audits: u32, now_unix_ms: u64) -> bool {
        !self.level.is_held_against()
            && (self.vouched || self.reputation.is_trusted(now_unix_ms, probation_audits))
    }

    /// How far beyond probation it is, 0 to 1; who is vouched for has all of it.
    pub fn beyond_probation(&self, probation_audits: u32, now_unix_ms: u64) -> f64 {
        match (self.level.is_held_against(), self.vouched) {
            (true, _) => 0.0,
            (false, true) => 1.0,
            (false, false) => self
                .reputation
                .beyond_probation(now_unix_ms, probation_audits),
        }
    }

    /// Where it stands now: what it had proven may no longer count.
    pub fn level_at(&self, now_unix_ms: u64) -> Level {
        match self.has_decayed(now_unix_ms) {
            true => Level::Probation,
            false => self.level,
        }
    }

    /// Whether it would be trusted if nothing were held against it.
    pub(super) fn deserves_trust(&self, now_unix_ms: u64) -> bool {
        self.vouched || self.reputation.is_trusted(now_unix_ms, PROBATION_AUDITS)
    }

    pub(super) fn has_decayed(&self, now_unix_ms: u64) -> bool {
        self.level == Level::Trusted && !self.deserves_trust(now_unix_ms)
    }

    pub(super) fn read(row: standing::Model) -> Result<Self> {
        let unknown = || StoreError::Unreadable {
            what: format!("the standing of node {}", row.node),
            source: serde::de::Error::custom(format!("`{}` is no standing", row.level)),
        };
        Ok(Self {
            level: Level::read(&row.level).ok_or_else(unknown)?,
            vouched: row.vouched,
            passed: from_db(row.passed),
            failed: from_db(row.failed),
            reputation: Reputation {
                audits: from_db(row.audits_millionths) as f64 / MILLION,
                at_unix_ms: from_db(row.proven_ms),
            },
        })
    }
}

impl Store {
    /// What is known of each node that was audited or vouched for.
    pub async fn standings(&self) -> Result<Vec<(NodeId, Standing)>> {
        let rows = standing::Entity::find().all(&self.reader).await?;
        rows.into_iter()
            .map(|row| Ok((NodeId(from_db(row.node)), Standing::read(row)?)))
            .collect()
    }

    /// What is known of one node.
    pub async fn standing(&self, node: NodeId) -> Result<Standing> {
        let row = standing::Entity::find_by_id(to_db(node.0)?)
            .one(&self.reader)
            .await?;
        Ok(row.map(Standing::read).transpose()?.unwrap_or_default())
    }

    /// Does what an operator says about a node, all or nothing; what changes its standing is
    /// kept with the reason.
    pub async fn tell_node(
        &self,
        node: NodeId,
        action: NodeAction,
        reason: Option<&str>,
    ) -> Result<(), TellError> {
        let tx = self.writer.begin().await?;
        let held = Held::lock(&tx, to_db(node.0)?).await?;
        let mut held = held.ok_or(TellError::Unknown(node))?;
        held.decay(&tx).await?;
        if action == NodeAction::Approve {
            approve(&tx, node, &mut held).await?;
        } else {
            follow(node, &mut held, action)?;
        }
        if let Some((cause, by_default)) = cause_of(action) {
            let reason = reason.unwrap_or(by_default);
            held.step(&tx, Why::new(cause, cause.as_str(), reason))
                .await?;
        }
        held.save(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Takes note of nodes whose reputation no longer carries their standing; which they are.
    pub async fn note_decay(&self) -> Result<Vec<NodeId>> {
        let trusted = standing::Entity::find()
            .filter(standing::Column::Level.eq(Level::Trusted.as_str()))
            .all(&self.reader)
            .await?;
        let now_ms = from_db(unix_ms());
        let mut decayed = Vec::new();
        for row in trusted {
            let id = row.node;
            if !Standing::read(row)?.has_decayed(now_ms) {
                continue;
            }
            let tx = self.writer.begin().await?;
            if let Some(mut held) = Held::lock(&tx, id).await? {
                held.decay(&tx).await?;
                tx.commit().await?;
                decayed.push(NodeId(from_db(id)));
            }
        }
        Ok(decayed)
    }
}

/// Lets in a node that waits, or says of one that came in unasked that it may stay.
async fn approve(
    tx: &impl ConnectionTrait,
    node: NodeId,
    held: &mut Held,
) -> Result<(), TellError> {
    let stranger = held.admitted == Admitted::Open && held.state != NodeState::Banned;
    match held.state {
        NodeState::Pending => held.state = NodeState::Active,
        _ if stranger => {}
        state => return Err(TellError::NotPending { node, state }),
    }
    node::Entity::update_many()
        .col_expr(
            node::Column::Admitted,
            Expr::value(Admitted::Approval.as_str()),
        )
        .filter(node::Column::Id.eq(to_db(node.0)?))
        .exec(tx)
        .await?;
    Ok(())
}

/// What an operator's word does beside the standing, if it may be said to this node at all.
fn follow(node: NodeId, held: &mut Held, action: NodeAction) -> Result<(), TellError> {
    let level = held.standing.level;
    let shut_out = matches!(held.state, NodeState::Quarantined | NodeState::Banned);
    match action {
        // Whoever was not looked at yet is approved or banned, never let in by another word.
        NodeAction::Drain | NodeAction::Quarantine | NodeAction::Restore
            if held.state == NodeState::Pending =>
        {
            return Err(TellError::Pending(node));
        }
        NodeAction::Drain if shut_out => {
            return Err(TellError::Illegal {
                node,
                level,
                action,
            });
        }
        NodeAction::Quarantine if level == Level::Banned => {
            return Err(TellError::Illegal {
                node,
                level,
                action,
            });
        }
        NodeAction::Drain => held.state = NodeState::Draining,
        NodeAction::Restore if !shut_out => held.state = NodeState::Active,
        NodeAction::Vouch => held.standing.vouched = true,
        NodeAction::Distrust => held.standing.vouched = false,
        _ => {}
    }
    Ok(())
}

/// What an operator's word is for the standing, and its reason if he gave none.
fn cause_of(action: NodeAction) -> Option<(Cause, &'static str)> {
    match action {
        NodeAction::Approve | NodeAction::Drain => None,
        NodeAction::Quarantine => Some((Cause::Quarantine, "an operator put it in quarantine")),
        NodeAction::Ban => Some((Cause::Ban, "an operator banned it")),
        NodeAction::Restore => Some((Cause::Restore, "an operator restored it")),
        NodeAction::Vouch => Some((Cause::Vouch, "an operator vouches for it")),
        NodeAction::Distrust => Some((Cause::Distrust, "no operator vouches for it any more")),
    }
}

/// Counts audits, and moves the nodes that passed or failed them.
pub(super) async fn count_audits(
    tx: &impl ConnectionTrait,
    run: RunId,
    audits: &[Audited],
) -> Result<()> {
    for audit in audits {
        let finding = &audit.finding;
        let undecided = finding.outcome == AuditOutcome::Undecided;
        if undecided && Cause::of_audit(finding, 0, UNPROVEN_FAILURES).is_none() {
            continue;
        }
        let Some(mut held) = Held::lock(tx, to_db(audit.node.0)?).await? else {
            continue;
        };
        held.decay(tx).await?;
        if finding.outcome == AuditOutcome::Passed {
            passed(tx, &mut held).await?;
            continue;
        }
        let failed = finding.outcome == AuditOutcome::Failed;
        held.standing.failed += u64::from(failed);
        held.standing.lose();
        let Some(cause) = Cause::of_audit(finding, held.standing.failed, UNPROVEN_FAILURES) else {
            continue;
        };
        let evidence = Evidence {
            run,
            assignment: Some(audit.assignment),
            round: Some(audit.round),
            measured: finding.measured,
            allowed: finding.allowed,
            entry: Some(audit.entry),
        };
        let why = Why {
            evidence: Some(&evidence),
            counted: failed,
            ..Why::new(cause, &finding.code, &finding.reason)
        };
        held.step(tx, why).await?;
    }
    Ok(())
}

async fn passed(tx: &impl ConnectionTrait, held: &mut Held) -> Result<()> {
    let now_ms = from_db(unix_ms());
    held.standing.passed += 1;
    held.standing.reputation = held.standing.reputation.passed(now_ms);
    if held
        .standing
        .reputation
        .is_trusted(now_ms, PROBATION_AUDITS)
    {
        let reason = format!("it passed {} audits", held.standing.passed);
        held.step(tx, Why::new(Cause::Proven, "proven", &reason))
            .await?;
    }
    held.save(tx).await
}

/// Suspects the nodes of the workers that a run left out when it rolled back by itself.
pub(super) async fn suspect_left_out(
    tx: &impl ConnectionTrait,
    run: RunId,
    events: &[Event],
) -> Result<()> {
    for event in events {
        let EventKind::RolledBack {
            left_out, reason, ..
        } = &event.kind
        else {
            continue;
        };
        let evidence = Evidence {
            run,
            assignment: None,
            round: None,
            measured: None,
            allowed: None,
            entry: None,
        };
        let reason = format!("an update of it made the held-out loss of run {run} worse: {reason}");
        for node in nodes_of(tx, left_out).await? {
            let Some(mut held) = Held::lock(tx, node).await? else {
                continue;
            };
            held.decay(tx).await?;
            held.standing.lose();
            let why = Why {
                evidence: Some(&evidence),
                ..Why::new(Cause::Doubt, "left_out", &reason)
            };
            held.step(tx, why).await?;
        }
    }
    Ok(())
}

/// The nodes of these workers, each once.
async fn nodes_of(tx: &impl ConnectionTrait, workers: &[WorkerId]) -> Result<Vec<i64>> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Result<Vec<i64>> = workers.iter().map(|worker| to_db(worker.0)).collect();
    let rows = worker::Entity::find()
        .filter(worker::Column::Id.is_in(ids?))
        .all(tx)
        .await?;
    let nodes: std::collections::BTreeSet<i64> = rows.into_iter().map(|row| row.node).collect();
    Ok(nodes.into_iter().collect())
}

impl Standing {
    /// What it had proven is gone.
    fn lose(&mut self) {
        self.passed = 0;
        self.reputation = self.reputation.failed(from_db(unix_ms()));
    }
}
