//! Updates that were taken from the error feedback and have no verdict yet.
//!
//! An update is written here, durably, before its first byte is sent: after a crash it is
//! sent again under the same assignment (which the coordinator takes once), and on a verdict
//! what was not merged is added back to the feedback from here. A file never changes; it is
//! removed when its verdict has been carried out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use opengpu_protocol::wire::UpdateNotice;
use opengpu_rounds::{AssignmentId, Hash, RunId};
use serde::{Deserialize, Serialize};

use crate::AgentError;
use crate::home::{NodeHome, failed, sync_folder};

const MAGIC: &[u8; 8] = b"OGPUJNL1";
/// Longest description that is read.
const META_LIMIT: usize = 64 << 10;

/// What is known of a journaled update, without its payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Which run.
    pub(crate) run: RunId,
    /// What the coordinator is told.
    pub(crate) notice: UpdateNotice,
}

/// The journal of one device.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    home: NodeHome,
    folder: PathBuf,
    entries: BTreeMap<(RunId, AssignmentId), Entry>,
}

impl Journal {
    /// Reads what an earlier agent left. Torn and damaged files are set aside: their bytes
    /// were never sent.
    pub(crate) fn open(home: &NodeHome, device: u32) -> Result<Self, AgentError> {
        let folder = home.journal(device);
        std::fs::create_dir_all(&folder).map_err(|e| failed("make the folder", &folder, e))?;
        let mut entries = BTreeMap::new();
        let files = std::fs::read_dir(&folder).map_err(|e| failed("list", &folder, e))?;
        for file in files.flatten() {
            let path = file.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "update")
            {
                let _ = std::fs::remove_file(&path);
                continue;
            }
            match read(&path) {
                Ok((entry, _)) => {
                    entries.insert((entry.run, entry.notice.assignment), entry);
                }
                Err(problem) => {
                    tracing::warn!(path = %path.display(), problem, "a journaled update is damaged and is given up");
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(Self {
            home: home.clone(),
            folder,
            entries,
        })
    }

    /// Writes an update; it is on the disk when this returns.
    pub(crate) fn write(&mut self, entry: Entry, payload: &[u8]) -> Result<(), AgentError> {
        // The entry is a struct of numbers and strings, which always serialises.
        let meta = serde_json::to_vec(&entry).unwrap_or_default();
        let length = (meta.len() as u32).to_le_bytes();
        let check = check(&meta, payload);
        let path = self.path(entry.run, entry.notice.assignment);
        self.home
            .replace(&path, &[MAGIC, &length, &check, &meta, payload], true)?;
        self.entries
            .insert((entry.run, entry.notice.assignment), entry);
        Ok(())
    }

    /// All updates without a verdict, by run and assignment.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn contains(&self, run: RunId, assignment: AssignmentId) -> bool {
        self.entries.contains_key(&(run, assignment))
    }

    pub(crate) fn get(&self, run: RunId, assignment: AssignmentId) -> Option<&Entry> {
        self.entries.get(&(run, assignment))
    }

    /// Where an update's file is, for [`payload`].
    pub(crate) fn path(&self, run: RunId, assignment: AssignmentId) -> PathBuf {
        self.folder.join(format!("{run}-{assignment}.update"))
    }

    /// Forgets an update whose verdict was carried out.
    pub(crate) fn remove(
        &mut self,
        run: RunId,
        assignment: AssignmentId,
    ) -> Result<(), AgentError> {
        if self.entries.remove(&(run, assignment)).is_none() {
            return Ok(());
        }
        let path = self.path(run, assignment);
        std::fs::remove_file(&path)
            .and_then(|()| sync_folder(&path))
            .map_err(|e| failed("remove", &path, e))
    }
}

/// The payload of a journaled update.
pub(crate) fn payload(path: &Path) -> Result<Vec<u8>, AgentError> {
    let damaged = |problem| AgentError::Damaged {
        path: path.to_owned(),
        problem,
    };
    read(path).map(|(_, payload)| payload).map_err(damaged)
}

fn read(path: &Path) -> Result<(Entry, Vec<u8>), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let head = bytes.split_at_checked(44).ok_or("it is too short")?;
    let (magic, length, expected) = (&head.0[..8], &head.0[8..12], &head.0[12..]);
    if magic != MAGIC {
        return Err("it is no journaled update".to_owned());
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if length > META_LIMIT {
        return Err(format!("its description has {length} bytes"));
    }
    let (meta, payload) = head.1.split_at_checked(length).ok_or("it is too short")?;
    if check(meta, payload) != expected {
        return Err("its bytes are not what was written".to_owned());
    }
    let entry: Entry = serde_json::from_slice(meta).map_err(|error| error.to_string())?;
    Ok((entry, payload.to_vec()))
}

fn check(meta: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(meta.len() as u64).to_le_bytes());
    hasher.update(meta);
    hasher.update(payload);
    Hash(*hasher.finalize().as_bytes()).0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_rounds::{FeedbackId, Revision, WorkerId};

    use super::*;

    fn entry(assignment: u64, payload: &[u8]) -> Entry {
        Entry {
            run: RunId(1),
            notice: UpdateNotice {
                worker: WorkerId(2),
                assignment: AssignmentId(assignment),
                base: Revision {
                    lineage: 0,
                    number: 3,
                },
                blocks_completed: 4,
                payload: Hash::of(payload),
                payload_bytes: payload.len() as u64,
                feedback: FeedbackId(5),
                loss: 6.5,
                train_seconds: 7.5,
                commitment: None,
                numerics_class: None,
            },
        }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let home = NodeHome::open(folder.path()).unwrap();
        let mut journal = Journal::open(&home, 0).unwrap();
        journal.write(entry(1, b"one"), b"one").unwrap();
        journal.write(entry(2, b"two"), b"two").unwrap();
        drop(journal);

        let mut journal = Journal::open(&home, 0).unwrap();
        let entries: Vec<_> = journal.entries().cloned().collect();
        assert_eq!(entries, [entry(1, b"one"), entry(2, b"two")]);
        assert_eq!(
            payload(&journal.path(RunId(1), AssignmentId(2))).unwrap(),
            b"two"
        );
        journal.remove(RunId(1), AssignmentId(1)).unwrap();
        journal.remove(RunId(1), AssignmentId(1)).unwrap();
        drop(journal);

        let journal = Journal::open(&home, 0).unwrap();
        assert!(!journal.contains(RunId(1), AssignmentId(1)));
        assert!(journal.contains(RunId(1), AssignmentId(2)));
        assert_eq!(Journal::open(&home, 1).unwrap().entries().count(), 0);
    }

    #[test]
    fn an_update_torn_anywhere_is_given_up_without_panic() {
        let folder = tempfile::tempdir().unwrap();
        let home = NodeHome::open(folder.path()).unwrap();
        let mut journal = Journal::open(&home, 0).unwrap();
        journal.write(entry(1, b"payload"), b"payload").unwrap();
        let path = journal.path(RunId(1), AssignmentId(1));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path).is_err(), "cut to {length}");
        }
        for index in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[index] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(read(&path).is_err(), "byte {index} flipped");
        }
        assert_eq!(Journal::open(&home, 0).unwrap().entries().count(), 0);
        assert!(!path.exists());
    }
}
