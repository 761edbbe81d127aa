//! A run's weights as they can be made again from the disk: a base checkpoint and the merges
//! since. A restart or a rollback is then a local replay, not a download.
//!
//! Every byte is verified when it is read (files are named by their hash), so nothing here
//! has to be synced to the disk: what a power cut tears is downloaded again.
//!
//! To spare disks, less than 2 bytes a parameter are written in a round: merges that are
//! larger than [`MERGE_LIMIT`] of a byte a parameter are not kept, and a new base (4 bytes a
//! parameter) is written only after [`REBASE_MERGES`] merges.

use std::io::Read;
use std::path::{Path, PathBuf};

use opengpu_merge::Layout;
use opengpu_protocol::wire::{CheckpointRef, MergeRef};
use opengpu_rounds::{Hash, Revision};
use serde::{Deserialize, Serialize};

use crate::AgentError;
use crate::home::{NodeHome, failed};

/// Merges after which the base is moved forward.
const REBASE_MERGES: usize = 32;
/// Largest merge that is kept, in bytes a parameter.
const MERGE_LIMIT: f64 = 0.75;

/// What is on the disk: the base, and the merges that follow it without a gap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Index {
    base: Option<CheckpointRef>,
    merges: Vec<MergeRef>,
}

/// The copy on disk of one run for one device.
#[derive(Debug)]
pub(crate) struct Mirror {
    home: NodeHome,
    folder: PathBuf,
    index: Index,
}

impl Mirror {
    pub(crate) fn open(home: &NodeHome, folder: PathBuf) -> Result<Self, AgentError> {
        std::fs::create_dir_all(&folder).map_err(|e| failed("make the folder", &folder, e))?;
        let index = std::fs::read(folder.join("index.json"));
        // A torn index is as good as none: all of it can be fetched again.
        let index = index
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        Ok(Self {
            home: home.clone(),
            folder,
            index: index.unwrap_or_default(),
        })
    }

    /// Where a base checkpoint is downloaded to.
    pub(crate) fn base_path(&self, weights: Hash) -> PathBuf {
        self.folder.join(format!("{weights}.weights"))
    }

    fn merge_path(&self, merge: Hash) -> PathBuf {
        self.folder.join(format!("{merge}.merge"))
    }

    /// The revisions that can be made, newest first, with their digests.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = (Revision, Hash)> {
        let base = self.index.base.map(|base| (base.revision, base.weights));
        let merges = self
            .index
            .merges
            .iter()
            .rev()
            .map(|merge| (merge.revision, merge.digest));
        merges.chain(base)
    }

    /// Makes the weights of this digest into `weights`. False if it can't: some of it is not
    /// here or damaged.
    pub(crate) fn replay(&self, digest: Hash, layout: &Layout, weights: &mut [f32]) -> bool {
        let Some(base) = self.index.base else {
            return false;
        };
        let steps = if base.weights == digest {
            0
        } else {
            match self
                .index
                .merges
                .iter()
                .position(|merge| merge.digest == digest)
            {
                Some(position) => position + 1,
                None => return false,
            }
        };
        if let Err(error) = read_weights(&self.base_path(base.weights), weights) {
            tracing::debug!(%error, "the base checkpoint on disk can't be read");
            return false;
        }
        for merge in &self.index.merges[..steps] {
            let Ok(bytes) = std::fs::read(self.merge_path(merge.merge)) else {
                return false;
            };
            if Hash::of(&bytes) != merge.merge
                || opengpu_merge::subtract(layout, &bytes, weights).is_err()
            {
                return false;
            }
        }
        Hash(opengpu_merge::digest(weights)) == digest
    }

    /// Starts at a base that was downloaded to its path.
    pub(crate) fn restart_at(&mut self, base: CheckpointRef) -> Result<(), AgentError> {
        self.index = Index {
            base: Some(base),
            merges: Vec::new(),
        };
        self.write_index()?;
        self.prune();
        Ok(())
    }

    /// Continues a new lineage from the revision of this digest, which [`Self::replay`] made.
    pub(crate) fn cut_after(&mut self, digest: Hash) -> Result<(), AgentError> {
        let keep = match self
            .index
            .merges
            .iter()
            .position(|merge| merge.digest == digest)
        {
            Some(position) => position + 1,
            None => 0,
        };
        self.index.merges.truncate(keep);
        self.write_index()?;
        self.prune();
        Ok(())
    }

    /// Keeps a merge that was applied to the newest revision here and made `weights`. From
    /// time to time `weights` themselves become the new base.
    pub(crate) fn add(
        &mut self,
        merge: MergeRef,
        bytes: &[u8],
        weights: &[f32],
    ) -> Result<(), AgentError> {
        let newest = self.revisions().next();
        let follows = newest.is_some_and(|newest| newest.0.number + 1 == merge.revision.number);
        let small = bytes.len() as f64 <= MERGE_LIMIT * weights.len() as f64;
        if !follows || !small {
            // A gap: what follows can't be made from here; the base may serve a rollback.
            return Ok(());
        }
        if self.index.merges.len() + 1 >= REBASE_MERGES {
            let path = self.base_path(merge.digest);
            self.home.replace(&path, &[bytes_of(weights)], false)?;
            let (revision, weights) = (merge.revision, merge.digest);
            return self.restart_at(CheckpointRef { revision, weights });
        }
        self.home
            .replace(&self.merge_path(merge.merge), &[bytes], false)?;
        self.index.merges.push(merge);
        self.write_index()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> Result<(), AgentError> {
        self.index = Index::default();
        self.write_index()?;
        self.prune();
        Ok(())
    }

    fn write_index(&self) -> Result<(), AgentError> {
        // Numbers and hashes always serialise.
        let text = serde_json::to_vec(&self.index).unwrap_or_default();
        self.home
            .replace(&self.folder.join("index.json"), &[&text], false)
    }

    /// Removes files that the index does not name.
    fn prune(&self) {
        let mut named: Vec<PathBuf> = self
            .index
            .merges
            .iter()
            .map(|merge| self.merge_path(merge.merge))
            .collect();
        named.extend(self.index.base.map(|base| self.base_path(base.weights)));
        named.push(self.folder.join("index.json"));
        let Ok(files) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for path in files.flatten().map(|file| file.path()) {
            // What is being downloaded stays, so that it can be resumed.
            let partial = path
                .extension()
                .is_some_and(|extension| extension == "partial");
            if !partial && !named.contains(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Reads flat weights into a buffer of exactly their size.
pub(crate) fn read_weights(path: &Path, weights: &mut [f32]) -> Result<(), AgentError> {
    let mut file = std::fs::File::open(path).map_err(|e| failed("open", path, e))?;
    let metadata = file.metadata().map_err(|e| failed("look at", path, e))?;
    let expected = weights.len() as u64 * 4;
    if metadata.len() != expected {
        let problem = format!(
            "it has {} bytes, the model's weights {expected}",
            metadata.len()
        );
        return Err(AgentError::Damaged {
            path: path.to_owned(),
            problem,
        });
    }
    file.read_exact(bytes_of_mut(weights))
        .map_err(|e| failed("read", path, e))
}

/// The bytes of weights; the project is built for little-endian targets only.
pub(crate) fn bytes_of(weights: &[f32]) -> &[u8] {
    // SAFETY: floats have no padding, and any byte is a valid byte.
    unsafe { std::slice::from_raw_parts(weights.as_ptr().cast(), size_of_val(weights)) }
}

fn bytes_of_mut(weights: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above, borrowed for writing; every bit pattern is a float.
    unsafe { std::slice::from_raw_parts_mut(weights.as_mut_ptr().cast(), size_of_val(weights)) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_merge::Codec;

    use super::*;

    const PARAMETERS: usize = 6000;

    struct Story {
        _folder: tempfile::TempDir,
        home: NodeHome,
        mirror: Mirror,
        layout: Layout,
        weights: Vec<f32>,
        number: u64,
        digests: Vec<Hash>,
    }

    impl Story {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let home = NodeHome::open(folder.path()).unwrap();
            let mut mirror = Mirror::open(&home, folder.path().join("mirror")).unwrap();
            let weights: Vec<f32> = (0..PARAMETERS).map(|i| (i as f32).cos()).collect();
            let digest = Hash(opengpu_merge::digest(&weights));
            std::fs::write(mirror.base_path(digest), bytes_of(&weights)).unwrap();
            let revision = Revision {
                lineage: 0,
                number: 0,
            };
            mirror
                .restart_at(CheckpointRef {
                    revision,
                    weights: digest,
                })
                .unwrap();
            let layout = Layout::new([PARAMETERS]);
            let digests = vec![digest];
            Self {
                _folder: folder,
                home,
                mirror,
                layout,
                weights,
                number: 0,
                digests,
            }
        }

        fn merge(&mut self) {
            self.number += 1;
            let mut step: Vec<f32> = (0..PARAMETERS)
                .map(|i| ((i as u64 * 31 + self.number) as f32).sin())
                .collect();
            let codec = Codec::Sparse { k: 32 };
            let bytes = opengpu_merge::encode(codec, &self.layout, &mut step).unwrap();
            opengpu_merge::subtract(&self.layout, &bytes, &mut self.weights).unwrap();
            let digest = Hash(opengpu_merge::digest(&self.weights));
            let merge = MergeRef {
                revision: Revision {
                    lineage: 0,
                    number: self.number,
                },
                merge: Hash::of(&bytes),
                bytes: bytes.len() as u64,
                digest,
            };
            self.mirror.add(merge, &bytes, &self.weights).unwrap();
            self.digests.push(digest);
        }

        fn makes(&self, digest: Hash) -> bool {
            let mut weights = vec![0.0; PARAMETERS];
            self.mirror.replay(digest, &self.layout, &mut weights)
                && Hash(opengpu_merge::digest(&weights)) == digest
        }
    }

    #[test]
    fn every_revision_since_the_base_can_be_made_again_after_a_restart() {
        let mut story = Story::new();
        (0..5).for_each(|_| story.merge());
        story.mirror = Mirror::open(&story.home, story.mirror.folder.clone()).unwrap();
        for digest in story.digests.clone() {
            assert!(story.makes(digest));
        }
        assert_eq!(story.mirror.revisions().next().unwrap().0.number, 5);
        assert!(!story.makes(Hash([1; 32])));
    }

    #[test]
    fn damage_on_disk_is_noticed() {
        let mut story = Story::new();
        (0..3).for_each(|_| story.merge());
        let path = story.mirror.merge_path(story.mirror.index.merges[1].merge);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(story.makes(story.digests[1]));
        assert!(!story.makes(story.digests[2]));
        assert!(!story.makes(story.digests[3]));
    }

    #[test]
    fn a_rollback_keeps_what_leads_to_its_revision() {
        let mut story = Story::new();
        (0..4).for_each(|_| story.merge());
        story.mirror.cut_after(story.digests[2]).unwrap();
        assert!(story.makes(story.digests[2]));
        assert!(!story.makes(story.digests[3]));
        assert_eq!(std::fs::read_dir(&story.mirror.folder).unwrap().count(), 4);
    }

    #[test]
    fn less_than_two_bytes_a_parameter_are_written_in_a_round() {
        let mut story = Story::new();
        let before = story.home.written();
        let rounds = 3 * REBASE_MERGES;
        (0..rounds).for_each(|_| story.merge());
        let written = (story.home.written() - before) as f64;
        let each = written / rounds as f64 / PARAMETERS as f64;
        // The index is a fixed cost that only such a tiny model feels.
        assert!(each < 2.0, "{each} bytes a parameter and round");
        assert!(story.makes(*story.digests.last().unwrap()));
        assert!(story.mirror.index.merges.len() < REBASE_MERGES);
    }

    #[test]
    fn a_large_merge_is_not_kept() {
        let mut story = Story::new();
        story.merge();
        let newest = story.mirror.revisions().next();
        let merge = MergeRef {
            revision: Revision {
                lineage: 0,
                number: 2,
            },
            merge: Hash([2; 32]),
            bytes: 4 * PARAMETERS as u64,
            digest: Hash([3; 32]),
        };
        story
            .mirror
            .add(merge, &vec![0; 4 * PARAMETERS], &story.weights)
            .unwrap();
        assert_eq!(story.mirror.revisions().next(), newest);
    }
}
