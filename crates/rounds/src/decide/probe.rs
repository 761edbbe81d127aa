//! What follows from updates that were tried alone: a note at each that hurts, by which its
//! worker's next ones are audited. Never a refusal: the update is in the weights already.

use super::{Deciding, Granted};
use crate::probe::Trial;
use crate::{EventKind, Phase, Revision};

impl Deciding<'_> {
    pub(super) fn probed(&mut self, revision: Revision, trials: &[Trial]) -> Granted {
        let run = self.run();
        let over = matches!(run.phase, Phase::Draft | Phase::Finished | Phase::Failed);
        let hurt = run.new_harm(trials);
        if over || !run.is_live(revision) || hurt.is_empty() {
            self.explain("no update that was tried alone is held against anybody");
            return Ok(());
        }
        let found: Vec<String> = hurt.iter().map(Trial::explanation).collect();
        self.explain(found.join("; "));
        self.emit(EventKind::Probed { revision, hurt });
        Ok(())
    }
}
