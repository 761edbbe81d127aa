//! Coordinator and nodes of `up`, as child processes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use opengpu_protocol::Client;

use super::children::Process;
use crate::home::{Home, read_line};

/// How long the coordinator may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the processes of an earlier `up` on this home may take to stop.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(15);

/// The processes of one `up`.
pub struct Fleet {
    coordinator: Process,
    nodes: Vec<Process>,
    address: String,
    client: Client,
}

impl Fleet {
    /// Starts the coordinator and waits until it answers.
    pub async fn start(home: &Home, listen: SocketAddr) -> Result<Self> {
        wait_until_free(home).await?;
        // The address of an earlier coordinator must not be taken for this one's.
        let _ = std::fs::remove_file(home.address_file());
        let mut coordinator = Process::start(
            home,
            "coordinator",
            &[
                "serve".into(),
                "--home".into(),
                home.path().display().to_string(),
                "--listen".into(),
                listen.to_string(),
                "--until-stdin-closes".into(),
            ],
            &[],
        )?;
        let started = std::time::Instant::now();
        loop {
            coordinator.check()?;
            if home.address_file().exists() {
                let address = read_line(&home.address_file(), "the address", "try again")?;
                let token = read_line(
                    &home.operator_token_file(),
                    "the operator's token",
                    "try again",
                )?;
                let client = Client::operator(&address, &token)?;
                if client.is_ready().await {
                    return Ok(Self {
                        coordinator,
                        nodes: Vec::new(),
                        address,
                        client,
                    });
                }
            }
            if started.elapsed() > START_PATIENCE {
                bail!(
                    "the coordinator did not answer within {START_PATIENCE:?}; its log is in {}",
                    home.logs().display()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the local nodes, the machine's cores shared among them.
    pub fn start_nodes(&mut self, home: &Home, nodes: u32) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let threads = (cores / nodes).max(1);
        let token = read_line(&home.join_token_file(), "the enrolment token", "try again")?;
        for index in 1..=nodes {
            let name = format!("local-{index}");
            let node_home = home.local_node(index);
            std::fs::create_dir_all(&node_home)
                .with_context(|| format!("cannot make the folder {}", node_home.display()))?;
            let process = Process::start(
                home,
                &name,
                &[
                    "join".into(),
                    self.address.clone(),
                    "--home".into(),
                    node_home.display().to_string(),
                    "--name".into(),
                    name.clone(),
                    "--threads".into(),
                    threads.to_string(),
                    "--until-stdin-closes".into(),
                ],
                &[("OPENGPU_TOKEN", &token)],
            )?;
            self.nodes.push(process);
        }
        Ok(())
    }

    /// As the operator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the coordinator and its pages are.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// An error if a process has ended.
    pub fn check(&mut self) -> Result<()> {
        self.coordinator.check()?;
        self.nodes.iter_mut().try_for_each(Process::check)
    }

    /// Stops the nodes, then the coordinator.
    pub async fn stop(self) -> Result<()> {
        futures::future::try_join_all(self.nodes.into_iter().map(Process::stop)).await?;
        self.coordinator.stop().await
    }
}

/// Waits while the processes of an `up` that was killed are still stopping. They hold the
/// locks of their folders until they have.
async fn wait_until_free(home: &Home) -> Result<()> {
    let started = std::time::Instant::now();
    let mut locks = vec![home.path().join("serve.lock")];
    locks.extend(
        home.local_nodes()
            .map(|node| node.join("node").join("lock")),
    );
    while let Some(held) = locks.iter().find(|lock| is_held(lock)) {
        if started.elapsed() > FAREWELL_PATIENCE {
            bail!(
                "the home folder {} is in use ({} is locked); stop that `opengpu up` or `opengpu serve`, or choose another folder with --home",
                home.path().display(),
                held.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn is_held(lock: &std::path::Path) -> bool {
    std::fs::File::open(lock)
        .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
