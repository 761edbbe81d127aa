//! The line to the coordinator: greet, hold the directive stream open, come back when it
//! breaks. What is read is handed on as the newest plan; nothing is decided here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opengpu_protocol::client::full_jitter;
use opengpu_protocol::wire::Plan;
use opengpu_protocol::{Client, ClientError};
use opengpu_rounds::NodeId;
use tokio::sync::watch;

use crate::AgentError;
use crate::status::{AgentStatus, Board};

/// The stream counts as broken after this long without a byte; the coordinator sends a sign
/// of life every few seconds.
const SILENCE: Duration = Duration::from_secs(20);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// The newest that is known of the line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Counts the streams on which there was work to be had: those that were opened, but for
    /// the time before an operator approved this node. Devices are offered anew with each.
    pub(crate) epoch: u64,
    /// The newest plan and when it came.
    pub(crate) plan: Option<(Arc<Plan>, Instant)>,
}

/// Holds the line until the coordinator ends it for good; says why it did.
pub(crate) async fn hold(
    client: Client,
    node: NodeId,
    line: watch::Sender<Line>,
    board: Board,
) -> AgentError {
    let mut attempt = 0;
    let mut ever = false;
    loop {
        let before = line.borrow().epoch;
        let ended = session(&client, &line, &board).await;
        if line.borrow().epoch != before {
            (attempt, ever) = (0, true);
        }
        attempt += 1;
        let why = match ended {
            Ok(()) => "the coordinator closed the stream".to_owned(),
            Err(error) => match for_good(&client, node, &error, ever) {
                Some(end) => {
                    if error.code() == Some("banned") {
                        board.update(AgentStatus::ban);
                    }
                    return end;
                }
                None => chain(&error),
            },
        };
        tracing::info!(why, attempt, "not connected");
        board.update(|status| {
            status.connected = false;
            status.connection_problem = Some(why);
        });
        tokio::time::sleep(full_jitter(attempt, FIRST_WAIT, LONGEST_WAIT)).await;
    }
}

async fn session(
    client: &Client,
    line: &watch::Sender<Line>,
    board: &Board,
) -> Result<(), ClientError> {
    client.hello(crate::SOFTWARE).await?;
    let mut directives = client.directives(SILENCE).await?;
    board.update(|status| {
        status.connected = true;
        status.connection_problem = None;
    });
    tracing::info!(server = client.server(), "connected");
    let (mut waits, mut works) = (false, false);
    while let Some(plan) = directives.next().await? {
        board.update(|status| {
            status.draining = plan.draining;
            status.pending = plan.pending;
            status.standing.clone_from(&plan.standing);
            status.no_work.clone_from(&plan.no_work);
        });
        if plan.pending {
            if !waits {
                let node = plan.node.0;
                tracing::info!(
                    node,
                    "waiting for the operator's approval (opengpu node approve {node}); work begins by itself then"
                );
            }
            waits = true;
            continue;
        }
        if !works {
            if waits {
                tracing::info!(node = plan.node.0, "the operator has approved this node");
            }
            works = true;
            line.send_modify(|line| line.epoch += 1);
        }
        line.send_modify(|line| line.plan = Some((Arc::new(plan), Instant::now())));
    }
    Ok(())
}

/// What no waiting mends.
fn for_good(client: &Client, node: NodeId, error: &ClientError, ever: bool) -> Option<AgentError> {
    let server = client.server().to_owned();
    match error {
        ClientError::Refused { code, message, .. } => match code.as_str() {
            "unknown_node" | "bad_signature" => Some(AgentError::UnknownNode { server, node }),
            "banned" | "key_revoked" => Some(AgentError::Barred {
                server,
                node,
                reason: message.clone(),
            }),
            _ if !ever && error.is_final() => Some(AgentError::Refused {
                server,
                reason: error.to_string(),
            }),
            _ => None,
        },
        _ => None,
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
