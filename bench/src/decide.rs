//! A run's decisions where nothing is stored.

use anyhow::{Result, bail};
use opengpu_rounds::{Fleet, Input, Refusal, Run};

/// Decides and folds what follows; says what was refused.
pub(crate) fn offer(run: &mut Run, clock: u64, input: &Input, fleet: &Fleet) -> Option<Refusal> {
    let decision = run.decide(clock, input, fleet);
    for event in &decision.events {
        run.fold(event);
    }
    decision.refusal
}

/// The same where nothing should be refused: a refusal is an error.
pub(crate) fn decide(run: &mut Run, clock: u64, input: &Input, fleet: &Fleet) -> Result<()> {
    match offer(run, clock, input, fleet) {
        Some(refusal) => bail!("{}", refusal.message),
        None => Ok(()),
    }
}
