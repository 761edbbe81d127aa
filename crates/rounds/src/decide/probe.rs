//! What follows from updates that were tried alone: a note at each that hurts, and suspicion of
//! who hurts again. Never a refusal: the update is in the weights already.

use std::collections::BTreeSet;

use super::{Deciding, Granted};
use crate::probe::Trial;
use crate::{EventKind, Phase, Revision, WorkerId};

impl Deciding<'_> {
    pub(super) fn probed(&mut self, revision: Revision, trials: &[Trial]) -> Granted {
        let run = self.run();
        let over = matches!(run.phase, Phase::Draft | Phase::Finished | Phase::Failed);
        let hurt = run.new_harm(trials);
        if over || !run.is_live(revision) || hurt.is_empty() {
            self.explain("no update that was tried alone is held against anybody");
            return Ok(());
        }
        let again = |trial: &&Trial| {
            let member = run.members.get(&trial.worker);
            member.is_some_and(|member| member.hurt_before(trial.assignment))
        };
        let suspects: BTreeSet<WorkerId> = hurt
            .iter()
            .filter(again)
            .map(|trial| trial.worker)
            .collect();
        let found: Vec<String> = hurt.iter().map(Trial::explanation).collect();
        self.explain(found.join("; "));
        self.emit(EventKind::Probed {
            revision,
            hurt,
            suspects: suspects.into_iter().collect(),
        });
        Ok(())
    }
}
