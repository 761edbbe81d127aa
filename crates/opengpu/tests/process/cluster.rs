//! A coordinator and its nodes as child processes on homes of their own, in a folder that is
//! removed at the end.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use opengpu_protocol::{Client, wire::RunView};
use opengpu_rounds::RunId;

/// The binary under test.
pub const OPENGPU: &str = env!("CARGO_BIN_EXE_opengpu");

/// The bundled corpus, in the repository.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/shakespeare.txt")
}

/// The first `bytes` of the bundled corpus, as a file in `folder`.
pub fn small_corpus(folder: &Path, bytes: usize) -> PathBuf {
    let text = std::fs::read(corpus()).unwrap();
    let file = folder.join("small.txt");
    std::fs::write(&file, &text[..bytes]).unwrap();
    file
}

/// Runs a command of the binary to its end and returns what it printed; panics with its
/// standard error if it failed.
pub fn opengpu(home: &Path, arguments: &[&str]) -> String {
    let output = Command::new(OPENGPU)
        .args(arguments)
        .arg("--home")
        .arg(home)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "opengpu {arguments:?} failed ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A child that is killed when the test ends, however it ends.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guarded {
    /// kill -9, and wait until it is gone.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The trainer child of an agent or a coordinator, if it has one at the moment.
pub fn trainer_of(process: &Guarded) -> Option<u32> {
    let owner = process.0.id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The parent is the second field after the name, which may hold spaces.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (parent == owner).then_some(pid)
    })
}

/// Sends a signal; false if there is no such process.
pub fn signal(pid: u32, name: &str) -> bool {
    let kill = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    kill.unwrap().success()
}

/// Processes that were killed could not give back their shared memory.
impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.coordinator.0.kill();
        let _ = self.coordinator.0.wait();
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index].0;
            let _ = node.kill();
            let _ = node.wait();
            let _ = opengpu_agent::forget(&self.node_home(index));
        }
        give_back_shared_memory(&self.home());
    }
}

/// Removes what a coordinator's home keeps in shared memory.
pub fn give_back_shared_memory(home: &Path) {
    if let Ok(folder) = opengpu_trainer_protocol::SharedFolder::of(home) {
        let _ = folder.remove_all();
    }
}

/// Coordinator and nodes.
pub struct Cluster {
    pub folder: tempfile::TempDir,
    port: u16,
    pub coordinator: Guarded,
    pub nodes: Vec<Guarded>,
}

impl Cluster {
    /// Starts a coordinator and waits until it answers.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The port must be the same after a restart, so it is chosen before the first start.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let coordinator = spawn_coordinator(folder.path(), port);
        let mut cluster = Self {
            folder,
            port,
            coordinator,
            nodes: Vec::new(),
        };
        cluster.wait_until_ready().await;
        cluster
    }

    /// Starts a coordinator and so many nodes.
    pub async fn with_nodes(nodes: usize) -> Self {
        let mut cluster = Self::start().await;
        for _ in 0..nodes {
            cluster.add_node(&[]);
        }
        cluster
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("coordinator")
    }

    pub fn node_home(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("node-{index}"))
    }

    /// What a process has logged so far, over all its lives.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    pub fn client(&self) -> Client {
        let token = std::fs::read_to_string(self.home().join("operator.token")).unwrap();
        Client::operator(&self.url(), &token).unwrap()
    }

    /// Starts one more node and returns its index.
    pub fn add_node(&mut self, more: &[&str]) -> usize {
        let index = self.nodes.len();
        let node = self.spawn_node(index, more);
        self.nodes.push(node);
        index
    }

    fn spawn_node(&self, index: usize, more: &[&str]) -> Guarded {
        let token = std::fs::read_to_string(self.home().join("join.token")).unwrap();
        let name = format!("node-{index}");
        let mut arguments = vec!["join".to_owned(), self.url()];
        arguments.extend([
            "--token".into(),
            token.trim().into(),
            "--name".into(),
            name.clone(),
        ]);
        arguments.extend(["--threads".into(), "1".into()]);
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        spawn(
            self.folder.path(),
            &name,
            &self.node_home(index),
            &arguments,
        )
    }

    pub fn restart_coordinator(&mut self) {
        self.coordinator.kill();
        self.coordinator = spawn_coordinator(self.folder.path(), self.port);
    }

    pub fn restart_node(&mut self, index: usize) {
        self.nodes[index].kill();
        self.nodes[index] = self.spawn_node(index, &[]);
    }

    pub async fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while !(self.home().join("operator.token").exists() && self.client().is_ready().await) {
            if let Some(status) = self.coordinator.0.try_wait().unwrap() {
                panic!(
                    "the coordinator ended ({status}):\n{}",
                    self.log("coordinator")
                );
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the coordinator never got ready"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Hands the coordinator a small dataset and starts a run on it.
    pub fn submit(&self, rounds: u64, min_workers: u32, more: &str) -> RunId {
        let text = small_corpus(self.folder.path(), 300_000);
        let home = self.home();
        opengpu(
            &home,
            &[
                "dataset",
                "add",
                "small",
                text.to_str().unwrap(),
                "--vocab",
                "512",
                "--url",
                &self.url(),
            ],
        );
        let file = self.folder.path().join("run.toml");
        std::fs::write(
            &file,
            format!(
                "name = \"test\"\ndataset = \"small\"\npreset = \"pico\"\nseed = 3\ncheckpoint_every = 4\n{more}\n\
                 [round]\nrounds = {rounds}\nmin_workers = {min_workers}\nmax_workers = 8\nquorum = 1\n\
                 duration_ms = 700\ngrace_ms = 700\nforming_ms = 0\nmax_blocks = 40\nsilence_ms = 6000\n"
            ),
        )
        .unwrap();
        let printed = opengpu(
            &home,
            &[
                "run",
                "submit",
                file.to_str().unwrap(),
                "--json",
                "--url",
                &self.url(),
            ],
        );
        let view: RunView = serde_json::from_str(&printed).unwrap();
        view.run
    }

    /// Waits until the run has finished and every node has reported the final digest.
    pub async fn wait_until_settled(&mut self, run: RunId, patience: Duration) -> RunView {
        let started = Instant::now();
        let client = self.client();
        loop {
            let view = client.run(run).await.unwrap();
            assert_ne!(view.phase, "failed", "{}", view.explanation);
            let agree = view
                .workers
                .iter()
                .all(|worker| worker.digest == Some(view.digest));
            if view.phase == "finished" && agree {
                return view;
            }
            assert!(
                started.elapsed() < patience,
                "run {run} is {} ({}) at revision {} after {patience:?}; workers: {:#?}\n{}",
                view.phase,
                view.explanation,
                view.revision,
                view.workers,
                tail(&self.log("coordinator"))
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn spawn_coordinator(folder: &Path, port: u16) -> Guarded {
    let listen = format!("127.0.0.1:{port}");
    let arguments = ["serve".to_owned(), "--listen".into(), listen];
    spawn(
        folder,
        "coordinator",
        &folder.join("coordinator"),
        &arguments,
    )
}

fn spawn(folder: &Path, name: &str, home: &Path, arguments: &[String]) -> Guarded {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(format!("{name}.log")))
        .unwrap();
    let child = Command::new(OPENGPU)
        .args(arguments)
        .arg("--home")
        .arg(home)
        .env("OPENGPU_LOG", "info")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Guarded(child)
}
