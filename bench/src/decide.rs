//! A run's decisions where nothing is stored.

use anyhow::{Result, bail};
use opengpu_rounds::{Fleet, Input, Run};

/// Decides and folds what follows. A refusal is an error: nothing here should be refused.
pub(crate) fn decide(run: &mut Run, clock: u64, input: &Input, fleet: &Fleet) -> Result<()> {
    let decision = run.decide(clock, input, fleet);
    if let Some(refusal) = decision.refusal {
        bail!("{}", refusal.message);
    }
    for event in &decision.events {
        run.fold(event);
    }
    Ok(())
}
