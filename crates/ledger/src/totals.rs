//! Sums over entries. They are derived: whatever is stored of them can be made again from
//! the ledger, and must be equal.

use opengpu_rounds::AuditOutcome;

use crate::{Entry, EntryKind};

/// What some entries come to. Sums have 128 bits, so that no file, however made, overflows
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens credited: of accepted updates and of trainings again, with corrections.
    pub tokens: i128,
    /// Millions of floating-point operations credited, as the tokens are; may pass 2^53.
    pub megaflops: i128,
    /// Updates accepted.
    pub accepted: u64,
    /// Updates rejected.
    pub rejected: u64,
    /// Audits passed.
    pub audits_passed: u64,
    /// Audits failed.
    pub audits_failed: u64,
    /// Audits that could not tell.
    pub audits_undecided: u64,
    /// Corrections.
    pub corrections: u64,
    /// Trainings again for audits.
    pub trained_again: u64,
}

impl Totals {
    /// Adds one entry.
    pub fn add(&mut self, entry: &Entry) {
        match &entry.kind {
            EntryKind::Accepted {
                tokens, megaflops, ..
            } => {
                self.tokens += i128::from(*tokens);
                self.megaflops += i128::from(*megaflops);
                self.accepted += 1;
            }
            EntryKind::Rejected { .. } => self.rejected += 1,
            EntryKind::Audited { outcome, .. } => match outcome {
                AuditOutcome::Passed => self.audits_passed += 1,
                AuditOutcome::Failed => self.audits_failed += 1,
                AuditOutcome::Undecided => self.audits_undecided += 1,
            },
            EntryKind::Corrected {
                tokens, megaflops, ..
            } => {
                self.tokens += i128::from(*tokens);
                self.megaflops += i128::from(*megaflops);
                self.corrections += 1;
            }
            EntryKind::TrainedAgain {
                tokens, megaflops, ..
            } => {
                self.tokens += i128::from(*tokens);
                self.megaflops += i128::from(*megaflops);
                self.trained_again += 1;
            }
        }
    }

    /// How many entries these are.
    pub fn entries(&self) -> u64 {
        let audits = self.audits_passed + self.audits_failed + self.audits_undecided;
        self.accepted + self.rejected + audits + self.corrections + self.trained_again
    }

    /// Adds the totals of other entries.
    pub fn merge(&mut self, other: &Totals) {
        self.tokens += other.tokens;
        self.megaflops += other.megaflops;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.audits_passed += other.audits_passed;
        self.audits_failed += other.audits_failed;
        self.audits_undecided += other.audits_undecided;
        self.corrections += other.corrections;
        self.trained_again += other.trained_again;
    }
}
