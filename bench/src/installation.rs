//! A real installation on this machine: `opengpu serve` and several `opengpu join`, each a
//! process with a home of its own, each node behind a relay that counts its bytes.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use opengpu_protocol::Client;
use opengpu_protocol::wire::RunView;

use crate::relay::Relay;

/// Coordinator and nodes; all are ended when it is dropped.
pub struct Installation {
    program: PathBuf,
    folder: tempfile::TempDir,
    address: SocketAddr,
    coordinator: Process,
    /// The nodes, in the order in which they were added.
    pub nodes: Vec<Node>,
}

/// A node's agent.
pub struct Node {
    /// Its home.
    pub home: PathBuf,
    /// How many times as long as it could it takes.
    pub slowdown: f64,
    /// Its link.
    pub relay: Relay,
    process: Process,
    log: PathBuf,
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Largest resident set so far, shared memory included.
    pub peak_bytes: u64,
    /// Written to disks so far; shared memory is none.
    pub disk_bytes: u64,
}

/// A line of a process's log.
pub struct Said {
    /// When, by the clock of this machine.
    pub at: SystemTime,
    /// Its fields, the message among them.
    pub fields: serde_json::Value,
}

impl Said {
    /// What it says.
    pub fn message(&self) -> &str {
        self.fields["message"].as_str().unwrap_or_default()
    }
}

fn said(log: &Path) -> Result<Vec<Said>> {
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).ok()?;
        let at = humantime::parse_rfc3339(line["timestamp"].as_str()?).ok()?;
        let fields = line["fields"].take();
        Some(Said { at, fields })
    };
    Ok(fs::read_to_string(log)?.lines().filter_map(line).collect())
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first, so that it gives back shared memory and ends its children.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Installation {
    /// Starts a coordinator and waits until it is ready.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// The same, with the text of its `config.toml`.
    pub async fn start_with(config: &str) -> Result<Self> {
        // A test's own program lies one folder deeper than the product's.
        let own = std::env::current_exe()?;
        let folders = own.ancestors().skip(1).take(2);
        let mut programs = folders.map(|folder| folder.join("opengpu"));
        let program = programs
            .find(|program| program.is_file())
            .with_context(|| {
                format!(
                    "no program opengpu near {}; build it first: cargo build --release --workspace",
                    own.display()
                )
            })?;
        let folder = tempfile::tempdir()?;
        let home = folder.path().join("coordinator");
        fs::create_dir(&home)?;
        fs::write(home.join("config.toml"), config)?;
        let log = folder.path().join("coordinator.log");
        let coordinator = spawn(&program, &log, &home, &["serve", "--listen", "127.0.0.1:0"])?;
        let address = home.join("address");
        let started = Instant::now();
        let address = loop {
            if let Ok(text) = fs::read_to_string(&address) {
                break text.trim().trim_start_matches("http://").parse()?;
            }
            if started.elapsed() > Duration::from_secs(60) {
                bail!(
                    "the coordinator did not start:\n{}",
                    fs::read_to_string(&log)?
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Ok(Self {
            program,
            folder,
            address,
            coordinator,
            nodes: Vec::new(),
        })
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("coordinator")
    }

    /// The coordinator's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same, for a socket.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A secret of the coordinator's home, by the name of its file.
    pub fn secret(&self, file: &str) -> Result<String> {
        let file = self.home().join(file);
        let secret = fs::read_to_string(&file);
        let secret = secret.with_context(|| format!("reading {}", file.display()))?;
        Ok(secret.trim().to_owned())
    }

    /// What the coordinator has logged so far.
    pub fn said(&self) -> Result<Vec<Said>> {
        said(&self.folder.path().join("coordinator.log"))
    }

    /// All that the coordinator and its trainer have logged so far.
    pub fn logs(&self) -> Result<Vec<PathBuf>> {
        let mut logs = vec![self.folder.path().join("coordinator.log")];
        let folder = self.home().join("logs");
        if folder.exists() {
            for entry in fs::read_dir(folder)? {
                logs.push(entry?.path());
            }
        }
        Ok(logs)
    }

    /// The coordinator, as its operator sees it.
    pub fn client(&self) -> Result<Client> {
        let token = fs::read_to_string(self.home().join("operator.token"))?;
        Ok(Client::operator(&self.url(), &token)?)
    }

    /// Starts one more node, with one training thread.
    pub async fn join(&mut self, slowdown: f64) -> Result<()> {
        let relay = Relay::start(self.address).await?;
        let name = format!("node-{}", self.nodes.len());
        let home = self.folder.path().join(&name);
        let log = self.folder.path().join(format!("{name}.log"));
        let token = fs::read_to_string(self.home().join("join.token"))?;
        let (url, slowdown_text) = (format!("http://{}", relay.address), slowdown.to_string());
        let arguments = [
            "join",
            &url,
            "--token",
            token.trim(),
            "--name",
            &name,
            "--threads",
            "1",
            "--slowdown",
            &slowdown_text,
        ];
        let process = spawn(&self.program, &log, &home, &arguments)?;
        self.nodes.push(Node {
            home,
            slowdown,
            relay,
            process,
            log,
        });
        Ok(())
    }

    /// Adds the bundled corpus as the dataset `corpus`, with a vocabulary.
    pub fn add_corpus(&self, vocabulary: usize) -> Result<()> {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/shakespeare.txt");
        let vocabulary = vocabulary.to_string();
        self.command(&["dataset", "add", "corpus", corpus, "--vocab", &vocabulary])?;
        Ok(())
    }

    /// Submits a run file's text.
    pub fn submit(&self, text: &str) -> Result<RunView> {
        let file = self.folder.path().join("run.toml");
        fs::write(&file, text)?;
        let file = file.to_str().context("the temporary folder's name")?;
        let printed = self.command(&["run", "submit", file, "--json"])?;
        Ok(serde_json::from_str(&printed)?)
    }

    fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--home")
            .arg(self.home())
            .args(["--url", &self.url()])
            .output()?;
        ensure!(
            output.status.success(),
            "opengpu {arguments:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Of the coordinator's process.
    pub fn usage(&self) -> Result<Usage> {
        self.coordinator.usage()
    }
}

impl Node {
    /// Of the agent's process, without its trainer.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// What its agent has logged so far.
    pub fn said(&self) -> Result<Vec<Said>> {
        said(&self.log)
    }

    /// Round and seconds of each assignment that its trainer has trained, from its log.
    pub fn trained(&self) -> Result<Vec<(u64, f64)>> {
        let all = self.said()?.into_iter();
        let trained = all.filter(|said| said.message() == "trained");
        Ok(trained
            .filter_map(|said| {
                let fields = &said.fields;
                Some((fields["round"].as_u64()?, fields["seconds"].as_f64()?))
            })
            .collect())
    }
}

impl Process {
    fn usage(&self) -> Result<Usage> {
        let folder = PathBuf::from(format!("/proc/{}", self.0.id()));
        let number = |file: &str, name: &str| -> Result<u64> {
            let text = fs::read_to_string(folder.join(file))?;
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            Ok(number
                .with_context(|| format!("no {name} in {file} of the process"))?
                .parse()?)
        };
        Ok(Usage {
            peak_bytes: number("status", "VmHWM:")? * 1024,
            disk_bytes: number("io", "write_bytes:")?,
        })
    }
}

fn spawn(program: &Path, log: &Path, home: &Path, arguments: &[&str]) -> Result<Process> {
    let log = File::create(log)?;
    let child = Command::new(program)
        .args(arguments)
        .arg("--home")
        .arg(home)
        .env("OPENGPU_LOG", "info")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Process(child))
}
