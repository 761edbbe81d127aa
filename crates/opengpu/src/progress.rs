//! Following a run: a progress bar on a terminal, a line a round elsewhere.

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use opengpu_protocol::{
    Client,
    wire::{Activity, Evaluation, RunView},
};
use opengpu_rounds::RunId;

use crate::output::{bytes, count};

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// After so many rounds' time without a merge, and this at least, it is told what holds a run up.
const LONG_ROUNDS: u32 = 3;
const LONG: Duration = Duration::from_secs(20);
/// Different troubles that are told: some name numbers that change.
const MOST_TOLD: usize = 20;

/// Follows a run until it is finished and evaluated, and returns its last view. `check` is
/// called at each look; its error ends the following.
pub async fn follow(
    client: &Client,
    run: RunId,
    quiet: bool,
    mut check: impl FnMut() -> Result<()>,
) -> Result<RunView> {
    let mut reporter = Reporter::new(quiet);
    loop {
        check()?;
        let view = client.run(run).await?;
        reporter.look(&view);
        match view.phase.as_str() {
            "finished" if is_evaluated(&view) => return Ok(view),
            "failed" => bail!("run {run} failed: {}", view.explanation),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Whether the newest revision has its full held-out loss, or will have none.
fn is_evaluated(view: &RunView) -> bool {
    let of_newest = |evaluation: &Evaluation| {
        evaluation.revision == view.revision && evaluation.bits_per_byte.is_some()
    };
    let nothing_held_out = view.dataset.held_out.tokens == 0;
    nothing_held_out || view.evaluation_problem.is_some() || view.evaluations.iter().any(of_newest)
}

/// A bar for `bytes` bytes; hidden where nobody looks.
pub fn bytes_bar(quiet: bool, bytes: u64) -> ProgressBar {
    styled_bar(
        quiet,
        bytes,
        "{msg:24} {bar:30.cyan/blue} {bytes} of {total_bytes}, {eta} to go",
    )
}

/// A bar for `entries` entries of a ledger; hidden where nobody looks.
pub fn entries_bar(quiet: bool, entries: u64) -> ProgressBar {
    styled_bar(
        quiet,
        entries,
        "{bar:30.cyan/blue} {pos} of {len} entries, {eta} to go",
    )
}

fn styled_bar(quiet: bool, len: u64, template: &str) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style)
}

struct Reporter {
    bar: Option<ProgressBar>,
    quiet: bool,
    rounds_shown: u64,
    phase: String,
    /// What was told of a run that does not get on.
    told: BTreeSet<String>,
    moved: Instant,
}

impl Reporter {
    fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stdout().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(
                "{bar:30.cyan/blue} {prefix}  {elapsed} elapsed, {eta} to go\n{wide_msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        Self {
            bar,
            quiet,
            rounds_shown: 0,
            phase: String::new(),
            told: BTreeSet::new(),
            moved: Instant::now(),
        }
    }

    fn look(&mut self, view: &RunView) {
        let line = summary(view);
        let advanced = view.revision.number > self.rounds_shown;
        if advanced {
            self.rounds_shown = view.revision.number;
            self.moved = Instant::now();
        }
        if let Some(bar) = &self.bar {
            let (done, whole) = view.done();
            bar.set_length(whole);
            bar.set_position(done);
            bar.set_prefix(format!("round {}", rounds(view)));
            bar.set_message(format!("{}: {}\n{line}", view.phase, view.explanation));
            if view.phase == "finished" {
                bar.finish_and_clear();
                println!("{line}");
            }
        } else if !self.quiet {
            // Only until the first merge: after it, each round has its own line.
            if view.revision.number == 0 && view.phase != self.phase {
                println!("{}: {}", view.phase, view.explanation);
                self.phase.clone_from(&view.phase);
            }
            if advanced {
                println!("{line}");
            }
        }
        if !self.quiet {
            self.tell_trouble(view);
        }
    }

    /// What holds the run up, each thing once: what failed at the coordinator, and, if nothing
    /// was merged for long, what the nodes are busy with.
    fn tell_trouble(&mut self, view: &RunView) {
        let mut troubles: Vec<String> = view.trouble.iter().cloned().collect();
        let long = LONG_ROUNDS * Duration::from_millis(view.spec.round.duration_ms);
        if self.moved.elapsed() > long.max(LONG) && view.phase != "finished" {
            for worker in &view.workers {
                if let Some(Activity::Preparing { what }) = &worker.activity {
                    troubles.push(format!("{}: {what}", worker.name));
                }
            }
        }
        for trouble in troubles {
            if self.told.len() < MOST_TOLD && self.told.insert(trouble.clone()) {
                match &self.bar {
                    Some(bar) => bar.println(trouble),
                    None => println!("{trouble}"),
                }
            }
        }
    }
}

/// Rounds merged, of how many; in a run of so many tokens, with the part of them that is done.
pub fn rounds(view: &RunView) -> String {
    let merged = view.revision.number;
    match (view.spec.round.total_tokens, view.done()) {
        (0, (_, rounds)) => format!("{merged}/{rounds}"),
        (_, (counted, tokens)) => {
            let percent = 100.0 * counted as f64 / tokens as f64;
            format!(
                "{merged}, {:.0} % of {} tokens",
                percent.floor().min(100.0),
                count(tokens as f64)
            )
        }
    }
}

fn summary(view: &RunView) -> String {
    let loss = view
        .training_loss
        .map_or("-".to_owned(), |loss| format!("{loss:.3}"));
    let busy = view
        .workers
        .iter()
        .filter(|worker| worker.silent_ms < 10_000)
        .count();
    format!(
        "round {}  loss {loss}  {} tokens  {} tokens/s  {} up  {} down  {busy} workers",
        rounds(view),
        count(view.tokens as f64),
        count(view.tokens_per_second),
        bytes(view.upload_bytes),
        bytes(view.download_bytes),
    )
}
