//! The processes that `up` starts: the same commands a person would start on several
//! machines, with their logs in the home folder. Each stops when its standard input closes,
//! so that none outlives `up`, however that ends.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, ChildStdin, Command};

use crate::home::Home;

/// How long a child may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Bytes of a log that is put aside at the next start.
const LONGEST_LOG: u64 = 16 << 20;

/// A child process of `up`.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts this program again with `arguments`, logging to `HOME/logs/NAME.log`. Secrets
    /// go into its environment: arguments are for every user of the machine to read.
    pub fn start(
        home: &Home,
        name: &str,
        arguments: &[String],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let logs = home.logs();
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make the folder {}", logs.display()))?;
        let log = logs.join(format!("{name}.log"));
        // So that many starts on one home do not fill a disk.
        if std::fs::metadata(&log).is_ok_and(|log| log.len() > LONGEST_LOG) {
            std::fs::rename(&log, logs.join(format!("{name}.log.old")))
                .with_context(|| format!("cannot put the log {} aside", log.display()))?;
        }
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(file.try_clone().context("cannot share the log file")?)
            .stderr(file)
            .kill_on_drop(true);
        // Ctrl-C reaches the whole process group of a terminal; the children must stop in
        // the order that `up` chooses, so they get a group of their own.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            log,
        })
    }

    /// An error, with the end of its log, if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended ({status}); its log {} ends:\n{}",
                self.name,
                self.log.display(),
                self.log_end()
            );
        }
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }

    /// Closes its standard input, waits for it to stop, and ends it if it does not.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stdin.take());
        match tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(status) => {
                status?;
            }
            Err(_) => {
                tracing::warn!(
                    name = self.name,
                    "did not stop within {STOP_PATIENCE:?}; it is killed"
                );
                self.child.kill().await?;
            }
        }
        Ok(())
    }
}
