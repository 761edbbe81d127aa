//! Error feedback of a run that audits: beside the buffer lie two more of its size, what was
//! accumulated for the last update and for the one before it. The Merkle root of the newest
//! goes with its update; drawn chunks of both are opened when the coordinator asks.
//!
//! Which of the two is which is told by the assignments in the header. The older one is struck
//! out before it is written over, and named again after the update is in the journal.

use opengpu_merge::Layout;
use opengpu_merge::audit::{commitment, write_openings};
use opengpu_rounds::{AssignmentId, Commitment, Hash};

use super::{CLEAN, Feedback, Field, HEADER_BYTES, SENDING};

/// Most updates of which something is taken back between two updates.
const MOST_TAKEN_BACK: u64 = 128;
/// Where their names begin in the header's page.
const TAKEN_BACK: usize = 2048;

impl Feedback {
    /// Runs `accumulate`, which adds progress to the buffer, keeps what came of it, and runs
    /// `take`, which takes the update out of the buffer and journals it with the commitment.
    /// If either fails the caller must start a new buffer; the header says so to a later agent.
    pub(crate) fn send_committed<T>(
        &mut self,
        assignment: AssignmentId,
        layout: &Layout,
        accumulate: impl FnOnce(&mut [f32]) -> anyhow::Result<()>,
        take: impl FnOnce(&mut [f32], Commitment) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        anyhow::ensure!(self.is_audited(), "nothing can be kept for an audit here");
        let (previous, taken_back) = (self.previous(), self.taken_back());
        self.set(Field::Subject, assignment.0);
        self.set(Field::State, SENDING);
        accumulate(self.values_mut())?;
        let slot = self.older();
        self.set(slot, 0);
        let root = {
            let parameters = self.parameters();
            let (values, kept) =
                self.file.as_f32_mut()[HEADER_BYTES / 4..].split_at_mut(parameters);
            let from = place(slot) * parameters;
            kept[from..from + parameters].copy_from_slice(values);
            Hash(commitment(layout, values))
        };
        let claim = Commitment {
            root,
            previous,
            taken_back,
        };
        let taken = take(self.values_mut(), claim)?;
        self.sent(assignment);
        Ok(taken)
    }

    /// The drawn chunks of an update and of the one before it; None if it is neither of the
    /// last two in this life.
    pub(crate) fn openings(
        &self,
        layout: &Layout,
        assignment: AssignmentId,
        chunks: &[usize],
    ) -> Option<Vec<u8>> {
        let slots = [Field::KeptOne, Field::KeptTwo];
        let now = slots
            .into_iter()
            .find(|slot| self.get(*slot) == assignment.0 + 1)?;
        let before = slots
            .into_iter()
            .find(|slot| (1..=assignment.0).contains(&self.get(*slot)));
        let now = self.kept(now);
        Some(write_openings(
            layout,
            chunks,
            now,
            before.map(|slot| self.kept(slot)),
        ))
    }

    /// Whether what was accumulated is kept for audits.
    pub(crate) fn is_audited(&self) -> bool {
        self.file.bytes().len() > HEADER_BYTES + 4 * self.parameters()
    }

    /// The update is in the journal.
    pub(super) fn sent(&mut self, assignment: AssignmentId) {
        self.set(self.older(), assignment.0 + 1);
        self.set(Field::TakenBack, 0);
        self.set(Field::State, CLEAN);
    }

    /// Remembers that part of an update was put back. Without room for its name nothing would
    /// follow from what was committed to: the next update is refused, and the buffer started anew.
    pub(super) fn note_taken_back(&mut self, assignment: AssignmentId) {
        let count = self.get(Field::TakenBack);
        if self.is_audited() && count < MOST_TAKEN_BACK {
            self.set_at(TAKEN_BACK + 8 * count as usize, assignment.0);
            self.set(Field::TakenBack, count + 1);
        }
    }

    fn taken_back(&self) -> Vec<AssignmentId> {
        let count = self.get(Field::TakenBack).min(MOST_TAKEN_BACK) as usize;
        let names = (0..count).map(|index| self.get_at(TAKEN_BACK + 8 * index));
        names.map(AssignmentId).collect()
    }

    /// The last update in this life.
    fn previous(&self) -> Option<AssignmentId> {
        let newest = self.get(Field::KeptOne).max(self.get(Field::KeptTwo));
        newest.checked_sub(1).map(AssignmentId)
    }

    /// The one of the two that is written over next.
    fn older(&self) -> Field {
        match self.get(Field::KeptOne) <= self.get(Field::KeptTwo) {
            true => Field::KeptOne,
            false => Field::KeptTwo,
        }
    }

    fn parameters(&self) -> usize {
        self.get(Field::Parameters) as usize
    }

    fn kept(&self, slot: Field) -> &[f32] {
        let parameters = self.parameters();
        let from = HEADER_BYTES / 4 + (1 + place(slot)) * parameters;
        &self.file.as_f32()[from..from + parameters]
    }
}

fn place(slot: Field) -> usize {
    match slot {
        Field::KeptTwo => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use opengpu_merge::audit::{Before, Claim, check_openings};
    use opengpu_merge::{Codec, encode, feedback};
    use opengpu_rounds::RunId;
    use opengpu_trainer_protocol::SharedFolder;

    use super::super::Owner;
    use super::*;

    const CODEC: Codec = Codec::Sparse { k: 16 };
    const PARAMETERS: usize = 9000;
    const OWNER: Owner = Owner {
        run: RunId(3),
        lineage: 0,
        parameters: PARAMETERS,
        audited: true,
    };

    struct Story {
        _home: tempfile::TempDir,
        folder: SharedFolder,
        layout: Layout,
    }

    struct Sent {
        payload: Vec<u8>,
        commitment: Commitment,
    }

    impl Story {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let folder = SharedFolder::on_disk(home.path()).unwrap();
            let layout = Layout::new([PARAMETERS]);
            Self {
                _home: home,
                folder,
                layout,
            }
        }

        fn open(&self, journaled: &[u64]) -> Feedback {
            let contains = |id: AssignmentId| journaled.contains(&id.0);
            let opened = Feedback::open(&self.folder, "feedback", OWNER, contains);
            opened.unwrap().0
        }

        fn send(&self, buffer: &mut Feedback, assignment: u64) -> Sent {
            self.send_and(buffer, assignment, |_| Ok(())).unwrap()
        }

        fn send_and(
            &self,
            buffer: &mut Feedback,
            assignment: u64,
            journal: impl FnOnce(&Sent) -> anyhow::Result<()>,
        ) -> anyhow::Result<Sent> {
            let global = vec![0.0; PARAMETERS];
            let phase = assignment as f32;
            let local: Vec<f32> = (0..PARAMETERS)
                .map(|i| (i as f32 * 0.7 + phase).sin())
                .collect();
            let layout = &self.layout;
            buffer.send_committed(
                AssignmentId(assignment),
                layout,
                |e| {
                    Ok(feedback::accumulate(
                        CODEC, layout, 0.9, e, &global, &local,
                    )?)
                },
                |e, commitment| {
                    let sent = Sent {
                        payload: encode(CODEC, layout, e)?,
                        commitment,
                    };
                    journal(&sent)?;
                    Ok(sent)
                },
            )
        }

        fn proves(&self, buffer: &Feedback, last: (u64, &Sent), first: &Sent, part: f32) -> bool {
            let chunks = [0, 2];
            let openings = buffer.openings(&self.layout, AssignmentId(last.0), &chunks);
            let claim = Claim {
                codec: CODEC,
                decay: 0.9,
                payload: &last.1.payload,
                root: last.1.commitment.root.0,
                before: Some(Before {
                    root: first.commitment.root.0,
                    payload: &first.payload,
                    given_back: vec![(&first.payload, part)],
                }),
                chunks: &chunks,
            };
            check_openings(&self.layout, &claim, &openings.unwrap()).is_ok()
        }
    }

    #[test]
    fn each_update_names_the_one_before_and_what_was_taken_back_since() {
        let story = Story::new();
        let mut buffer = story.open(&[]);
        let first = story.send(&mut buffer, 4);
        assert_eq!(first.commitment.previous, None);
        buffer
            .settle(AssignmentId(4), &first.payload, &story.layout, 0.5)
            .unwrap();
        let second = story.send(&mut buffer, 9);
        assert_eq!(second.commitment.previous, Some(AssignmentId(4)));
        assert_eq!(second.commitment.taken_back, [AssignmentId(4)]);
        assert!(story.proves(&buffer, (9, &second), &first, 0.5));
        let third = story.send(&mut buffer, 10);
        assert_eq!(third.commitment.previous, Some(AssignmentId(9)));
        assert!(third.commitment.taken_back.is_empty());
        // Only the last two can be opened.
        assert!(
            buffer
                .openings(&story.layout, AssignmentId(9), &[0])
                .is_some()
        );
        assert!(
            buffer
                .openings(&story.layout, AssignmentId(4), &[0])
                .is_none()
        );
    }

    #[test]
    fn an_agent_that_died_after_the_journal_opens_what_it_sent() {
        let story = Story::new();
        let mut buffer = story.open(&[]);
        let first = story.send(&mut buffer, 1);
        buffer
            .settle(AssignmentId(1), &first.payload, &story.layout, 1.0)
            .unwrap();
        // As it is found when the agent dies between the journal and the header.
        let second = story.send(&mut buffer, 2);
        let slot = match buffer.get(Field::KeptOne) {
            3 => Field::KeptOne,
            _ => Field::KeptTwo,
        };
        buffer.set(slot, 0);
        buffer.set(Field::State, SENDING);
        let id = buffer.id();
        drop(buffer);
        let buffer = story.open(&[2]);
        assert_eq!(buffer.id(), id);
        assert!(story.proves(&buffer, (2, &second), &first, 1.0));
    }

    #[test]
    fn one_whose_journal_could_not_be_written_is_lost() {
        let story = Story::new();
        let mut buffer = story.open(&[]);
        let id = buffer.id();
        let failed = story.send_and(&mut buffer, 1, |_| anyhow::bail!("the disk is full"));
        assert!(failed.is_err());
        drop(buffer);
        assert_ne!(story.open(&[]).id(), id);
    }
}
