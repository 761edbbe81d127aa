//! Nodes that came with a token of their own, whose trainers may be told something else than the
//! coordinator said.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use opengpu_agent::{AgentSettings, DeviceSettings};
use opengpu_protocol::wire::NodeView;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, OPENGPU, opengpu};

/// An agent in this process that was given a token of its own, and its trainer.
pub struct Stranger {
    pub name: &'static str,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), opengpu_agent::AgentError>>,
    home: PathBuf,
}

/// A program that runs the trainer, with what it is told changed by a script of `sed`.
pub fn altered_trainer(cluster: &Cluster, script: &str) -> PathBuf {
    let path = cluster.folder.path().join("altered-trainer");
    let program = format!("#!/bin/sh\nsed -u '{script}' | {OPENGPU} \"$@\"\n");
    std::fs::write(&path, program).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

impl Stranger {
    pub fn join(cluster: &Cluster, name: &'static str, program: PathBuf) -> Self {
        let url = cluster.url();
        let token = ["node", "token", "--label", name, "--uses", "1", "--json"];
        let token = opengpu(&cluster.home(), &[&token[..], &["--url", &url]].concat());
        let token: serde_json::Value = serde_json::from_str(&token).unwrap();
        let home = cluster.folder.path().join(name);
        let shutdown = CancellationToken::new();
        let settings = AgentSettings {
            home: home.clone(),
            server: Some(url),
            token: Some(token["token"].as_str().unwrap().to_owned()),
            name: name.to_owned(),
            devices: vec![DeviceSettings {
                program,
                args: vec!["trainer".into()],
                threads: Some(1),
                memory_bytes: None,
                device: Some("cpu".into()),
                slowdown: 1.0,
            }],
            shutdown: shutdown.clone(),
        };
        let running = tokio::spawn(opengpu_agent::run(settings));
        Self {
            name,
            shutdown,
            running,
            home,
        }
    }

    pub async fn leave(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        opengpu_agent::forget(&self.home).unwrap();
    }
}

/// The node of this name, once it came.
pub async fn node(cluster: &Cluster, name: &str) -> Option<NodeView> {
    let nodes = cluster.client().nodes().await.unwrap();
    nodes.into_iter().find(|node| node.name == name)
}
