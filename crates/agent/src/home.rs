//! The agent's part of the home folder: where its files are, who may use them, and how many
//! bytes it has written to the disk.
//!
//! ```text
//! node/lock            held while an agent runs
//! node/key             the Ed25519 key, 64 hexadecimal digits, mode 0600
//! node/key.next, key.old  while the key is being changed
//! node/node.json       which node this is at which coordinator
//! node/status.json     what the agent is doing, for `opengpu status`
//! node/blobs/          dataset shards by hash
//! node/journal/D/      updates of device D that have no verdict yet
//! node/receipts/R/     proofs that accepted updates are in the ledger of run R, and its key
//! node/runs/R/D/       base checkpoint of run R and the merges since, for device D
//! node/shared/         what did not fit in shared memory
//! logs/                the trainers' logs
//! ```

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fs4::FileExt;
use opengpu_rounds::RunId;

use crate::AgentError;

/// The folder of one agent, locked for as long as this lives.
#[derive(Clone, Debug)]
pub(crate) struct NodeHome {
    folder: PathBuf,
    logs: PathBuf,
    written: Arc<AtomicU64>,
    _lock: Arc<File>,
}

impl NodeHome {
    /// Makes the folders and takes the lock.
    pub(crate) fn open(home: &Path) -> Result<Self, AgentError> {
        let folder = home.join("node");
        let logs = home.join("logs");
        for path in [home, &folder, &logs, &folder.join("blobs")] {
            std::fs::create_dir_all(path).map_err(|e| failed("make the folder", path, e))?;
        }
        let path = folder.join("lock");
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let lock = options.open(&path).map_err(|e| failed("open", &path, e))?;
        take(&lock, home, &path)?;
        Ok(Self {
            folder,
            logs,
            written: Arc::default(),
            _lock: Arc::new(lock),
        })
    }

    /// Whether an agent holds this home.
    pub(crate) fn is_in_use(home: &Path) -> bool {
        let Ok(lock) = File::open(home.join("node").join("lock")) else {
            return false;
        };
        matches!(FileExt::try_lock(&lock), Err(fs4::TryLockError::WouldBlock))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    pub(crate) fn blob(&self, hash: opengpu_rounds::Hash) -> PathBuf {
        self.blobs().join(hash.to_string())
    }

    pub(crate) fn journal(&self, device: u32) -> PathBuf {
        self.folder.join("journal").join(device.to_string())
    }

    pub(crate) fn run(&self, run: RunId, device: u32) -> PathBuf {
        self.folder
            .join("runs")
            .join(run.to_string())
            .join(device.to_string())
    }

    /// Receipts for what was accepted in a run.
    pub(crate) fn receipts(&self, run: RunId) -> PathBuf {
        self.folder.join("receipts").join(run.to_string())
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.folder.join("runs")
    }

    pub(crate) fn trainer_log(&self, device: u32) -> PathBuf {
        self.logs.join(format!("trainer-{device}.log"))
    }

    /// Where a device's trainer keeps what it compiled and measured, to start sooner next time.
    pub(crate) fn kernels(&self, device: u32) -> PathBuf {
        self.folder.join("kernels").join(device.to_string())
    }

    /// Counts bytes that went to the disk (not to shared memory).
    pub(crate) fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Replaces a file in one step; `durable`: and waits until the disk has it.
    pub(crate) fn replace(
        &self,
        path: &Path,
        parts: &[&[u8]],
        durable: bool,
    ) -> Result<(), AgentError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let write = || -> std::io::Result<()> {
            let mut file = private(&mut File::options()).open(&new)?;
            for part in parts {
                file.write_all(part)?;
                self.count_written(part.len() as u64);
            }
            if durable {
                file.sync_all()?;
            }
            std::fs::rename(&new, path)?;
            if durable { sync_folder(path) } else { Ok(()) }
        };
        write().map_err(|e| failed("write", path, e))
    }
}

/// Takes the lock. Tried a few times, as asking whether a home is in use holds it for a moment.
fn take(lock: &File, home: &Path, path: &Path) -> Result<(), AgentError> {
    for _ in 0..5 {
        match FileExt::try_lock(lock) {
            Ok(()) => return Ok(()),
            Err(fs4::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            Err(fs4::TryLockError::Error(source)) => return Err(failed("lock", path, source)),
        }
    }
    Err(AgentError::HomeInUse {
        home: home.to_owned(),
    })
}

/// Files that only their owner may read: they hold keys and private progress.
fn private(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true).create(true).truncate(true)
}

/// Makes a new or removed name durable, where folders can be synced.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

pub(crate) fn failed(operation: &'static str, path: &Path, source: std::io::Error) -> AgentError {
    AgentError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_home_has_one_agent_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!NodeHome::is_in_use(folder.path()));
        let home = NodeHome::open(folder.path()).unwrap();
        assert!(NodeHome::is_in_use(folder.path()));
        let error = NodeHome::open(folder.path()).unwrap_err();
        assert!(matches!(error, AgentError::HomeInUse { .. }), "{error}");
        drop(home);
        assert!(!NodeHome::is_in_use(folder.path()));
        NodeHome::open(folder.path()).unwrap();
    }
}
