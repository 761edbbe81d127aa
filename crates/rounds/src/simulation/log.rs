//! The log in memory, guarded as the database guards it: an append names its owner's epoch
//! and the length it expects, and nothing is appended if either is not the present one.

use super::invariants::Invariants;
use crate::{Event, Run};

/// A log, and who may append to it.
pub(super) struct Log {
    epoch: u64,
    events: Vec<Event>,
    /// States at some lengths, as a coordinator would store them.
    snapshots: Vec<(usize, String)>,
    pub invariants: Invariants,
    pub refused_appends: u64,
}

/// The caller is no longer the owner.
pub(super) struct Deposed;

impl Log {
    pub fn new(first: Event, invariants: Invariants) -> Self {
        let mut log = Self {
            epoch: 0,
            events: Vec::new(),
            snapshots: Vec::new(),
            invariants,
            refused_appends: 0,
        };
        log.invariants.observe(&first, 0);
        log.events.push(first);
        log
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether appends of `epoch` are taken.
    pub fn is_owner(&self, epoch: u64) -> bool {
        epoch == self.epoch
    }

    /// A new owner's epoch; from now on the owner before can append nothing.
    pub fn take_over(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    pub fn append(&mut self, epoch: u64, expected: usize, events: &[Event]) -> Result<(), Deposed> {
        if epoch != self.epoch || expected != self.events.len() {
            self.refused_appends += 1;
            return Err(Deposed);
        }
        for event in events {
            self.invariants.observe(event, epoch);
            self.events.push(event.clone());
        }
        Ok(())
    }

    /// Stores the state that its owner has after all events so far.
    pub fn store_snapshot(&mut self, run: &Run) -> Result<(), String> {
        let text = serde_json::to_string(run).map_err(|error| error.to_string())?;
        let read: Run = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if &read != run {
            return Err("a snapshot reads back as another state".into());
        }
        self.snapshots.push((self.events.len(), text));
        Ok(())
    }

    /// The state after all events, from the newest snapshot or from the first event.
    pub fn read(&self, from_snapshot: bool) -> Run {
        let snapshot = self.snapshots.last().filter(|_| from_snapshot);
        let read = snapshot.and_then(|(length, text)| {
            let run: Run = serde_json::from_str(text).ok()?;
            Some((*length, run))
        });
        let (length, mut run) = read.unwrap_or_default();
        for event in &self.events[length..] {
            run.fold(event);
        }
        run
    }

    /// Folds the whole log once more and compares it with every snapshot on the way.
    pub fn check_snapshots(&self) -> Result<(), String> {
        let mut run = Run::default();
        let mut snapshots = self.snapshots.iter().peekable();
        for (index, event) in self.events.iter().enumerate() {
            run.fold(event);
            while let Some((length, text)) = snapshots.next_if(|(length, _)| *length == index + 1) {
                let stored: Run = serde_json::from_str(text).map_err(|error| error.to_string())?;
                if stored != run {
                    return Err(format!(
                        "folding {length} events gives another state than was there"
                    ));
                }
            }
        }
        Ok(())
    }
}
