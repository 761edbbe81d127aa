//! Why an agent can't start or go on.

use std::path::PathBuf;

use opengpu_protocol::ClientError;
use opengpu_rounds::NodeId;

/// What ends an agent. All else (broken links, crashed trainers, refused updates) it mends
/// by itself or reports as status.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent holds the home folder.
    #[error(
        "{home} is in use by another agent; stop that one first, or give this one a folder of its own with --home"
    )]
    HomeInUse {
        /// The home folder.
        home: PathBuf,
    },
    /// There is no coordinator to talk to.
    #[error("{home} is enrolled nowhere yet; give the coordinator's address and a token")]
    NoServer {
        /// The home folder.
        home: PathBuf,
    },
    /// The first time needs a token there.
    #[error(
        "this machine is not enrolled at {server} yet; give the token from the coordinator: opengpu join {server} --token TOKEN"
    )]
    NoToken {
        /// The coordinator.
        server: String,
    },
    /// The coordinator forgot or never knew the node.
    #[error(
        "{server} does not know node {node} of this home (its data was lost or this is another coordinator); enrol again with a token: opengpu join {server} --token TOKEN"
    )]
    UnknownNode {
        /// The coordinator.
        server: String,
        /// As it is remembered here.
        node: NodeId,
    },
    /// The coordinator bars this node.
    #[error("{server} bars node {node}: {reason}")]
    Barred {
        /// The coordinator.
        server: String,
        /// This node.
        node: NodeId,
        /// The coordinator's words.
        reason: String,
    },
    /// The coordinator will not talk to this agent.
    #[error("{server} does not take this agent: {reason}")]
    Refused {
        /// The coordinator.
        server: String,
        /// The coordinator's words.
        reason: String,
    },
    /// The task of a device ended by a fault of this program.
    #[error(
        "a device's task ended unexpectedly: {problem}; start the agent again, and please report it"
    )]
    Device {
        /// How it ended.
        problem: String,
    },
    /// No device was given.
    #[error("no device is given; an agent needs at least one")]
    NoDevice,
    /// Talking to the coordinator failed for good.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file of the home failed.
    #[error("could not {operation} {path}")]
    File {
        /// What was done with it.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the home is not what it should be.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong and what mends it.
        problem: String,
    },
}
