//! The list of runs, and what to do when there is none.

use askama::Template;
use opengpu_protocol::wire::RunView;

use super::Frame;
use super::summary::{Done, explanation, phase_kind, phase_word};
use crate::humanize;

/// The whole page.
#[derive(Template)]
#[template(path = "runs.html")]
pub struct RunListPage {
    /// Around the page.
    pub frame: Frame,
    /// The list.
    pub list: RunList,
}

/// The list alone.
#[derive(Template)]
#[template(path = "run_list.html")]
pub struct RunList {
    /// One entry for each run.
    pub runs: Vec<RunEntry>,
}

/// A run in the list.
pub struct RunEntry {
    /// Its number.
    pub run: u64,
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: String,
    /// Colour of the phase.
    pub phase_kind: &'static str,
    /// Why it is in that phase.
    pub explanation: String,
    /// How much is done.
    pub done: Done,
    /// Latest training loss.
    pub loss: String,
    /// Accepted tokens.
    pub tokens: String,
    /// Workers that take part.
    pub workers: usize,
}

impl RunList {
    /// The list of these runs.
    pub fn new(runs: &[RunView]) -> Self {
        let entry = |view: &RunView| RunEntry {
            run: view.run.0,
            name: view.spec.name.clone(),
            phase: phase_word(&view.phase),
            phase_kind: phase_kind(&view.phase),
            explanation: explanation(view),
            done: Done::of(view),
            loss: view.training_loss.map_or("–".into(), humanize::loss),
            tokens: humanize::count(view.tokens),
            workers: view.workers.len(),
        };
        Self {
            runs: runs.iter().map(entry).collect(),
        }
    }
}

impl RunListPage {
    /// The page with these runs.
    pub fn new(runs: &[RunView]) -> Self {
        Self {
            frame: Frame::live("Runs"),
            list: RunList::new(runs),
        }
    }
}

#[cfg(test)]
impl super::Sample for RunListPage {
    fn samples() -> Vec<Self> {
        vec![Self::new(&[]), Self::new(&crate::sample::runs())]
    }
}

#[cfg(test)]
impl super::Sample for RunList {
    fn samples() -> Vec<Self> {
        vec![Self::new(&[]), Self::new(&crate::sample::runs())]
    }
}
