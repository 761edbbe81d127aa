//! What is looked after on a timer, safe to repeat: who belongs where, and what may go.

use std::time::Duration;

use opengpu_rounds::{Input, NodeId, WorkerId};

use crate::Coordinator;
use crate::clock::unix_ms;
use crate::driver::LiveRun;
use crate::fleet::Memory;
use crate::retention;
use crate::standing::learn_standing;
use crate::store::NodeState;

/// How often workers are looked after.
const WORKERS_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whose reputation has decayed.
const DECAY_EVERY: Duration = Duration::from_secs(3600);
/// How often blobs are collected.
const BLOBS_EVERY: Duration = Duration::from_secs(300);

/// Gives workers to runs, and takes out of runs those that may not or need not be in them.
pub async fn look_after_workers(coordinator: Coordinator) {
    let shutdown = coordinator.shutdown_token();
    loop {
        coordinator.reallocate();
        send_away_all(&coordinator).await;
        coordinator.trainer().rest().await;
        coordinator.auditing().rest().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(WORKERS_EVERY) => {}
        }
    }
}

/// Takes workers out of runs that they may not or need not be in.
pub async fn send_away_all(coordinator: &Coordinator) {
    for run in coordinator.live_runs() {
        send_away(coordinator, &run).await;
    }
}

/// Workers that leave a run: those of nodes that were stopped, with all that waits of theirs, those
/// of draining nodes that hold nothing any more, and those that another run has.
async fn send_away(coordinator: &Coordinator, run: &LiveRun) {
    let leaving: Vec<(WorkerId, Input)> = {
        let memory = coordinator.fleet().lock();
        let state = run.state();
        let members = state.members();
        members
            .filter_map(|(worker, member)| {
                let known = memory.workers.get(&worker)?;
                let shut_out = match memory.state_of(known) {
                    NodeState::Banned => Some("was banned"),
                    NodeState::Quarantined => Some("was put in quarantine"),
                    _ => None,
                };
                if let Some(what) = shut_out {
                    let reason = format!("node {} {what}", member.node);
                    let concerned = member.present || state.waiting_of(worker).next().is_some();
                    return concerned.then_some((worker, Input::Expel { worker, reason }));
                }
                let holds_nothing = state.assignment_of(worker).is_none();
                let elsewhere = known.run.filter(|other| *other != run.id);
                let reason = match memory.state_of(known) {
                    _ if !member.present => return None,
                    NodeState::Draining if holds_nothing => {
                        format!("node {} is being drained", member.node)
                    }
                    _ => match (barred(&memory, member.node, run), elsewhere) {
                        (Some(why), _) => format!("it is not taken any more: {why}"),
                        (None, Some(other)) if holds_nothing => {
                            format!("it was given to run {other}")
                        }
                        _ => return None,
                    },
                };
                Some((worker, Input::Leave { worker, reason }))
            })
            .collect()
    };
    for (worker, input) in leaving {
        if let Err(error) = run.ask(input, None).await {
            tracing::debug!(run = %run.id, %worker, %error, "a worker could not be sent away yet");
        }
    }
}

/// Why a run does not take a node any more.
fn barred(memory: &Memory, node: NodeId, run: &LiveRun) -> Option<String> {
    let known = memory.nodes.get(&node)?;
    let barred = known.barred_from(node, run.id, &run.spec, unix_ms());
    barred.map(|why| why.message)
}

/// Takes note of nodes that proved nothing for so long that they are no longer trusted.
pub async fn note_decay(coordinator: Coordinator) {
    let shutdown = coordinator.shutdown_token();
    loop {
        match coordinator.store().note_decay().await {
            Ok(decayed) => {
                for node in decayed {
                    if let Err(error) = learn_standing(&coordinator, node).await {
                        tracing::warn!(%node, error = format!("{error:#}"), "a node's standing can't be read");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "no decay of reputations is noted this time"
                );
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(DECAY_EVERY) => {}
        }
    }
}

/// Deletes blobs that nothing needs.
pub async fn collect_blobs(coordinator: Coordinator) {
    let shutdown = coordinator.shutdown_token();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(BLOBS_EVERY) => {}
        }
        let datasets = match coordinator.store().datasets().await {
            Ok(datasets) => datasets,
            Err(error) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "no blobs are collected this time"
                );
                continue;
            }
        };
        let runs = coordinator.live_runs();
        let needed = retention::needed(
            &datasets,
            runs.iter().map(|run| retention::RunNeeds {
                dataset: &run.dataset,
                over: run.is_over(),
                blobs: run.state().blobs_needed(),
            }),
        );
        if let Err(error) = retention::collect(coordinator.blobs(), &needed, retention::GRACE).await
        {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "blobs could not be collected"
            );
        }
    }
}
