//! Runs and nodes as people and agents see them.

use opengpu_protocol::wire::{NodeView, RoundView, RunView, WorkerView};
use opengpu_rounds::{Hash, Member, NodeId, Outcome, RoundSummary, Run, WorkerId};

use crate::Coordinator;
use crate::clock::unix_ms;
use crate::driver::{LiveRun, Losses, sight};
use crate::fleet::Memory;

/// Rounds over which the speed is averaged.
const SPEED_ROUNDS: usize = 5;

/// A run.
pub fn run_view(coordinator: &Coordinator, run: &LiveRun) -> RunView {
    let now_ms = coordinator.clock().now_ms();
    let memory = coordinator.fleet().lock();
    let fleet = sight(run, &memory);
    let losses = run.losses();
    let state = run.state();
    let mut workers: Vec<WorkerView> = state
        .members()
        .map(|(worker, member)| {
            worker_view(&memory, worker, member.node, Some(member), run, now_ms)
        })
        .collect();
    // Those that were given to the run and still fetch its weights.
    for (worker, known) in &memory.workers {
        if known.run == Some(run.id) && state.member(*worker).is_none() {
            workers.push(worker_view(&memory, *worker, known.node, None, run, now_ms));
        }
    }
    workers.sort_by_key(|worker| worker.worker);
    let totals = state.totals();
    RunView {
        run: run.id,
        spec: run.spec.clone(),
        dataset: run.dataset.clone(),
        phase: state.phase().as_str().to_owned(),
        explanation: state.explanation(now_ms, &fleet),
        trouble: run.trouble(),
        round: state.round(),
        revision: state.revision(),
        // All zeros until the first weights are there.
        digest: state.digest().unwrap_or(Hash([0; 32])),
        tokens: totals.tokens,
        counted_tokens: state.counted_tokens(),
        tokens_per_second: tokens_per_second(&state, now_ms),
        upload_bytes: totals.upload_bytes,
        download_bytes: totals.download_bytes,
        training_loss: losses.rounds.last_key_value().map(|(_, loss)| *loss),
        evaluations: losses.evaluations.values().copied().collect(),
        evaluation_problem: losses.unmeasured.get(&state.revision()).cloned(),
        workers,
        rounds: state
            .rounds()
            .map(|round| round_view(round, &losses, now_ms))
            .collect(),
    }
}

fn worker_view(
    memory: &Memory,
    worker: WorkerId,
    node: NodeId,
    member: Option<&Member>,
    run: &LiveRun,
    now_ms: u64,
) -> WorkerView {
    let known = memory.workers.get(&worker);
    let report = known
        .and_then(|known| known.report.as_ref())
        .filter(|report| report.run == run.id);
    WorkerView {
        worker,
        node,
        name: memory
            .nodes
            .get(&node)
            .map(|node| node.name.clone())
            .unwrap_or_default(),
        device: known
            .map(|known| known.offer.device.clone())
            .unwrap_or_default(),
        activity: report.map(|report| report.activity.clone()),
        revision: report.map(|report| report.revision),
        digest: report.map(|report| report.digest),
        blocks_per_second: report.map_or(0.0, |report| report.blocks_per_second),
        credited_tokens: member.map_or(0, |member| member.credited_tokens),
        accepted: member.map_or(0, |member| member.accepted),
        refused: known.map_or(0, |known| known.refused),
        last_refusal: known.and_then(|known| known.last_refusal.clone()),
        record: member.and_then(|member| member.record).map(f64::from),
        counted_less: member.and_then(counted_less),
        silent_ms: known.map_or(now_ms, |known| now_ms.saturating_sub(known.heard_ms)),
    }
}

/// Why the worker's newest merged update counted less than its weight.
fn counted_less(member: &Member) -> Option<String> {
    let regard = member.verdicts.iter().rev().find_map(|verdict| {
        let Outcome::Merged { regard, .. } = &verdict.outcome else {
            return None;
        };
        Some(*regard)
    });
    regard??.explanation()
}

fn round_view(round: &RoundSummary, losses: &Losses, now_ms: u64) -> RoundView {
    let until = round
        .merged_ms
        .or(round.closed_ms.filter(|_| round.merged == 0))
        .unwrap_or(now_ms);
    RoundView {
        round: round.round,
        revision: round.revision,
        assigned: round.assigned,
        merged: round.merged,
        tokens: round.tokens,
        loss: losses.rounds.get(&round.round).copied(),
        probe_loss: losses.probes.get(&round.round).copied(),
        upload_bytes: round.upload_bytes,
        merge_bytes: round.merge_bytes,
        duration_ms: until.saturating_sub(round.opened_ms),
        reason: round.reason.clone(),
    }
}

/// Over the last rounds that were merged, merges and waits included.
fn tokens_per_second(state: &Run, now_ms: u64) -> f64 {
    let merged: Vec<&RoundSummary> = state
        .rounds()
        .rev()
        .filter(|round| round.merged_ms.is_some())
        .take(SPEED_ROUNDS)
        .collect();
    let (Some(newest), Some(oldest)) = (merged.first(), merged.last()) else {
        return 0.0;
    };
    let until = newest.merged_ms.unwrap_or(now_ms);
    let milliseconds = until.saturating_sub(oldest.opened_ms).max(1);
    let tokens: u64 = merged.iter().map(|round| round.tokens).sum();
    tokens as f64 * 1000.0 / milliseconds as f64
}

/// A node; None: there is no such node.
pub fn node_view(coordinator: &Coordinator, node: NodeId) -> Option<NodeView> {
    let (known, workers) = {
        let memory = coordinator.fleet().lock();
        (memory.nodes.get(&node)?.clone(), memory.workers_of(node))
    };
    let credited = |run: &LiveRun| -> u64 {
        let state = run.state();
        let mine = state.members().filter(|(_, member)| member.node == node);
        mine.map(|(_, member)| member.credited_tokens).sum()
    };
    let standing = known.standing.level_at(unix_ms());
    Some(NodeView {
        node,
        name: known.name,
        state: known.state.as_str().to_owned(),
        standing,
        reason: known
            .against
            .filter(|_| standing.is_held_against())
            .map(|against| against.reason),
        appeals: known.appeals,
        approved: known.approved || known.standing.vouched,
        vouched: known.standing.vouched,
        audits_passed: known.standing.passed,
        audits_failed: known.standing.failed,
        connected: known.connected,
        account: known.account.map(|owner| owner.name),
        machine: known.machine,
        workers,
        credited_tokens: coordinator
            .live_runs()
            .iter()
            .map(|run| credited(run))
            .sum(),
    })
}
