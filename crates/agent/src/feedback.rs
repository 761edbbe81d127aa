//! A worker's error feedback in shared memory, with a header that tells whether it can be
//! trusted after the process that wrote it died.
//!
//! The buffer is changed by two operations, sending and settling. Before one starts the
//! header says so ("dirty"), and afterwards it says that it is over and for which assignment.
//! Found dirty, the buffer is torn: it is lost and starts at zero under a new feedback id.
//! With one exception: a send whose update is in the journal was complete, as the journal is
//! written last. The header also names the boot of the machine, as after a power cut pages of
//! a file on disk may be of different ages.

mod committed;

use std::io;
use std::sync::atomic::{Ordering, compiler_fence};

use opengpu_merge::Layout;
use opengpu_rounds::{AssignmentId, FeedbackId, RunId};
use opengpu_trainer_protocol::{SharedFile, SharedFolder};

const MAGIC: u64 = u64::from_le_bytes(*b"OGPUFB01");
/// The header has a page of its own, so that the numbers start on one.
const HEADER_BYTES: usize = 4096;

/// Positions of the header's 64-bit fields.
#[derive(Clone, Copy)]
enum Field {
    Magic,
    Boot,
    Run,
    Lineage,
    Parameters,
    Feedback,
    State,
    /// The assignment that `State` is about.
    Subject,
    /// One past the last settled assignment (0: none).
    Settled,
    /// One past the assignment of each of the two kept buffers of a run that audits (0: none).
    KeptOne,
    KeptTwo,
    /// How many updates were put back in part since the last one was sent.
    TakenBack,
}

const CLEAN: u64 = 0;
const SENDING: u64 = 1;
const SETTLING: u64 = 2;

/// The buffer of one worker for one lineage of one run.
#[derive(Debug)]
pub(crate) struct Feedback {
    file: SharedFile,
}

/// What a buffer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) run: RunId,
    pub(crate) lineage: u32,
    pub(crate) parameters: usize,
    /// Whether what was accumulated is kept for audits.
    pub(crate) audited: bool,
}

impl Owner {
    fn bytes(&self) -> usize {
        let buffers = if self.audited { 3 } else { 1 };
        HEADER_BYTES + 4 * self.parameters * buffers
    }
}

impl Feedback {
    /// Takes up the buffer that an earlier agent left if it is this owner's and whole, else
    /// starts one at zero. `journaled`: whether an update is in the journal. The second value
    /// says why it was started anew.
    pub(crate) fn open(
        folder: &SharedFolder,
        name: &str,
        owner: Owner,
        journaled: impl Fn(AssignmentId) -> bool,
    ) -> io::Result<(Self, Option<&'static str>)> {
        // One that can't be opened is as lost as one that is not there.
        let found = folder.open(name).unwrap_or_default();
        let reason = match found {
            None => "there is none yet",
            Some(file) => {
                let mut found = Self { file };
                match found.distrust(owner, journaled) {
                    None => {
                        if owner.audited && found.get(Field::State) == SENDING {
                            found.sent(AssignmentId(found.get(Field::Subject)));
                        }
                        found.set(Field::State, CLEAN);
                        return Ok((found, None));
                    }
                    Some(reason) => reason,
                }
            }
        };
        Ok((Self::start(folder, name, owner)?, Some(reason)))
    }

    /// A buffer at zero under a new feedback id.
    pub(crate) fn start(folder: &SharedFolder, name: &str, owner: Owner) -> io::Result<Self> {
        let mut new = Self {
            file: folder.create(name, owner.bytes() as u64)?,
        };
        // Never 0, and exact in every JSON reader.
        let id = rand::random_range(1..opengpu_protocol::signing::INTEGER_LIMIT);
        new.set(Field::Boot, boot());
        new.set(Field::Run, owner.run.0);
        new.set(Field::Lineage, owner.lineage.into());
        new.set(Field::Parameters, owner.parameters as u64);
        new.set(Field::Feedback, id);
        new.set(Field::Magic, MAGIC);
        Ok(new)
    }

    pub(crate) fn id(&self) -> FeedbackId {
        FeedbackId(self.get(Field::Feedback))
    }

    /// Runs `take`, which takes an update out of the buffer and journals it. If it fails
    /// after it may have changed the buffer, the caller must start a new one; the header
    /// says so to a later agent.
    pub(crate) fn send<T, E>(
        &mut self,
        assignment: AssignmentId,
        take: impl FnOnce(&mut [f32]) -> Result<T, E>,
    ) -> Result<T, E> {
        self.set(Field::Subject, assignment.0);
        self.set(Field::State, SENDING);
        let taken = take(self.values_mut())?;
        self.set(Field::State, CLEAN);
        Ok(taken)
    }

    /// A send that failed before it changed anything.
    pub(crate) fn nothing_sent(&mut self) {
        self.set(Field::State, CLEAN);
    }

    /// Puts the part of an update that was not merged back. Doing it again for the same
    /// assignment, because an agent died before the journal forgot it, changes nothing.
    pub(crate) fn settle(
        &mut self,
        assignment: AssignmentId,
        payload: &[u8],
        layout: &Layout,
        part_not_merged: f32,
    ) -> Result<(), opengpu_merge::DecodeError> {
        if self.get(Field::Settled) == assignment.0 + 1 {
            return Ok(());
        }
        self.set(Field::Subject, assignment.0);
        self.set(Field::State, SETTLING);
        let values = self.values_mut();
        let settled = opengpu_merge::feedback::restore(layout, payload, part_not_merged, values);
        // On an error the buffer was not changed.
        if settled.is_ok() {
            self.note_taken_back(assignment);
            self.set(Field::Settled, assignment.0 + 1);
        }
        self.set(Field::State, CLEAN);
        settled
    }

    /// The last assignment that was settled. Should the journal still have it, the agent died
    /// before the journal forgot it.
    pub(crate) fn settled(&self) -> Option<AssignmentId> {
        self.get(Field::Settled).checked_sub(1).map(AssignmentId)
    }

    /// The numbers.
    #[cfg(test)]
    fn values(&self) -> &[f32] {
        let parameters = self.get(Field::Parameters) as usize;
        &self.file.as_f32()[HEADER_BYTES / 4..][..parameters]
    }

    fn values_mut(&mut self) -> &mut [f32] {
        let parameters = self.get(Field::Parameters) as usize;
        &mut self.file.as_f32_mut()[HEADER_BYTES / 4..][..parameters]
    }

    /// Why this buffer must not be used.
    fn distrust(
        &self,
        owner: Owner,
        journaled: impl Fn(AssignmentId) -> bool,
    ) -> Option<&'static str> {
        if self.file.bytes().len() != owner.bytes() {
            return Some("the one found has another size");
        }
        let fits = [
            (Field::Magic, MAGIC, "the one found is none"),
            (Field::Boot, boot(), "the machine was started anew"),
            (
                Field::Run,
                owner.run.0,
                "the one found belongs to another run",
            ),
            (
                Field::Lineage,
                owner.lineage.into(),
                "the one found belongs to another lineage",
            ),
            (
                Field::Parameters,
                owner.parameters as u64,
                "the one found belongs to another model",
            ),
        ];
        if let Some(wrong) = fits
            .iter()
            .find(|(field, value, _)| self.get(*field) != *value)
        {
            return Some(wrong.2);
        }
        let subject = AssignmentId(self.get(Field::Subject));
        match self.get(Field::State) {
            CLEAN => None,
            SENDING if journaled(subject) => None,
            _ => Some("the one found is torn: the agent died while it was written"),
        }
    }

    fn get(&self, field: Field) -> u64 {
        self.get_at(field as usize * 8)
    }

    fn get_at(&self, at: usize) -> u64 {
        let bytes = &self.file.bytes()[at..at + 8];
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Writes a field between fences: a process that is killed at any instruction leaves the
    /// header and the numbers as the program's order has them.
    fn set(&mut self, field: Field, value: u64) {
        self.set_at(field as usize * 8, value);
    }

    fn set_at(&mut self, at: usize, value: u64) {
        compiler_fence(Ordering::SeqCst);
        for (index, byte) in value.to_le_bytes().into_iter().enumerate() {
            let target = &mut self.file.bytes_mut()[at + index];
            // SAFETY: a valid, exclusively borrowed byte. Volatile, so that the write is
            // neither dropped nor moved.
            unsafe { std::ptr::write_volatile(target, byte) };
        }
        compiler_fence(Ordering::SeqCst);
    }
}

/// A number that differs after the machine was started anew.
fn boot() -> u64 {
    static BOOT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read("/proc/sys/kernel/random/boot_id");
        let id = id.unwrap_or_else(|_| {
            // To the hour: elsewhere it is computed from a clock that may be adjusted.
            (sysinfo::System::boot_time().unwrap_or(0) / 3600)
                .to_le_bytes()
                .to_vec()
        });
        let hash = *blake3::hash(&id).as_bytes();
        hash[..8]
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_merge::Codec;

    use super::*;

    const PARAMETERS: usize = 5000;
    const OWNER: Owner = Owner {
        run: RunId(3),
        lineage: 0,
        parameters: PARAMETERS,
        audited: false,
    };
    const CODEC: Codec = Codec::Sparse { k: 16 };

    struct Story {
        _home: tempfile::TempDir,
        folder: SharedFolder,
        layout: Layout,
    }

    fn story() -> Story {
        let home = tempfile::tempdir().unwrap();
        let folder = SharedFolder::on_disk(home.path()).unwrap();
        Story {
            _home: home,
            folder,
            layout: Layout::new([PARAMETERS]),
        }
    }

    impl Story {
        fn open(&self, owner: Owner, journaled: &[u64]) -> (Feedback, Option<&'static str>) {
            let contains = |id: AssignmentId| journaled.contains(&id.0);
            Feedback::open(&self.folder, "feedback", owner, contains).unwrap()
        }

        fn send(&self, feedback: &mut Feedback, assignment: u64) -> Vec<u8> {
            let global = vec![0.0; PARAMETERS];
            let local: Vec<f32> = (0..PARAMETERS).map(|i| (i as f32 * 0.7).sin()).collect();
            feedback
                .send(AssignmentId(assignment), |values| {
                    opengpu_merge::feedback::send(CODEC, &self.layout, 1.0, values, &global, &local)
                })
                .unwrap()
        }
    }

    #[test]
    fn a_clean_buffer_goes_on_under_its_id_after_a_restart() {
        let story = story();
        let (mut feedback, reason) = story.open(OWNER, &[]);
        assert_eq!(reason, Some("there is none yet"));
        story.send(&mut feedback, 1);
        let (id, values) = (feedback.id(), feedback.values().to_vec());
        assert!(values.iter().any(|value| *value != 0.0));
        drop(feedback);
        let (feedback, reason) = story.open(OWNER, &[]);
        assert_eq!((feedback.id(), reason), (id, None));
        assert_eq!(feedback.values(), values);
    }

    #[test]
    fn one_torn_while_sending_is_lost_unless_its_update_is_in_the_journal() {
        let story = story();
        let (mut feedback, _) = story.open(OWNER, &[]);
        story.send(&mut feedback, 1);
        let id = feedback.id();
        let torn = feedback.send(AssignmentId(2), |_| Err::<(), _>("killed"));
        assert_eq!(torn, Err("killed"));
        drop(feedback);

        let (kept, reason) = story.open(OWNER, &[2]);
        assert_eq!((kept.id(), reason), (id, None));
        drop(kept);

        let (mut feedback, _) = story.open(OWNER, &[]);
        let _ = feedback.send(AssignmentId(3), |_| Err::<(), _>("killed"));
        drop(feedback);
        let (lost, reason) = story.open(OWNER, &[2]);
        assert_ne!(lost.id(), id);
        assert!(reason.unwrap().contains("torn"));
        assert!(lost.values().iter().all(|value| *value == 0.0));
    }

    #[test]
    fn one_torn_while_settling_is_lost_even_if_the_update_is_in_the_journal() {
        let story = story();
        let (mut feedback, _) = story.open(OWNER, &[]);
        let id = feedback.id();
        feedback.set(Field::Subject, 1);
        feedback.set(Field::State, SETTLING);
        drop(feedback);
        assert_ne!(story.open(OWNER, &[1]).0.id(), id);
    }

    #[test]
    fn settling_twice_adds_back_once() {
        let story = story();
        let (mut feedback, _) = story.open(OWNER, &[]);
        let before = {
            let payload = story.send(&mut feedback, 1);
            feedback
                .settle(AssignmentId(1), &payload, &story.layout, 1.0)
                .unwrap();
            let once = feedback.values().to_vec();
            feedback
                .settle(AssignmentId(1), &payload, &story.layout, 1.0)
                .unwrap();
            assert_eq!(feedback.values(), once);
            once
        };
        // What was sent and added back is all of the progress again.
        let progress = (0..PARAMETERS).map(|i| -(i as f32 * 0.7).sin());
        for (value, expected) in before.iter().zip(progress) {
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    #[test]
    fn another_run_lineage_model_or_size_starts_at_zero() {
        let story = story();
        for other in [
            Owner {
                run: RunId(4),
                ..OWNER
            },
            Owner {
                lineage: 1,
                ..OWNER
            },
            Owner {
                parameters: PARAMETERS + 1,
                ..OWNER
            },
        ] {
            let (mut feedback, _) = story.open(OWNER, &[]);
            let id = feedback.id();
            story.send(&mut feedback, 1);
            drop(feedback);
            let (new, reason) = story.open(other, &[]);
            assert_ne!(new.id(), id, "{other:?}");
            assert!(reason.is_some());
            assert!(new.values().iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn a_file_of_garbage_is_replaced() {
        let story = story();
        story.folder.create("feedback", 100).unwrap();
        assert!(story.open(OWNER, &[]).1.is_some());
        let bytes = HEADER_BYTES + PARAMETERS * 4;
        story
            .folder
            .create("feedback", bytes as u64)
            .unwrap()
            .bytes_mut()
            .fill(0xA5);
        assert!(story.open(OWNER, &[]).1.is_some());
    }
}
