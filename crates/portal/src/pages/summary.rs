//! Where a run stands: phase, progress and the numbers that matter.

use std::collections::BTreeSet;

use askama::Template;
use opengpu_protocol::wire::{Activity, Evaluation, RoundView, RunView, WorkerView};

use crate::humanize;

/// Rounds over which means are taken.
const RECENT_ROUNDS: usize = 10;

/// Phase, progress bar and tiles.
#[derive(Template)]
#[template(path = "run/summary.html")]
pub struct Summary {
    /// Phase, first letter large.
    pub phase: String,
    /// Colour of the phase.
    pub phase_kind: &'static str,
    /// Why it is in that phase.
    pub explanation: String,
    /// What those who hear the page are told when it changes: seldom, for a fast run changes
    /// its phase every second.
    pub announcement: &'static str,
    /// How much is done.
    pub done: Done,
    /// The same in percent.
    pub percent: u64,
    /// Time yet to come, while the run goes on.
    pub remaining: Option<String>,
    /// The numbers.
    pub tiles: Vec<Tile>,
}

/// One number.
pub struct Tile {
    /// What it is.
    pub label: &'static str,
    /// The number.
    pub value: String,
    /// Its unit.
    pub unit: String,
    /// A line below.
    pub note: String,
}

impl Summary {
    /// Of this run.
    pub fn new(view: &RunView) -> Self {
        let done = Done::of(view);
        Self {
            phase: phase_word(&view.phase),
            phase_kind: phase_kind(&view.phase),
            explanation: explanation(view),
            announcement: announcement(&view.phase),
            percent: (done.now.min(done.whole) * 100)
                .checked_div(done.whole)
                .unwrap_or(0),
            remaining: remaining(view, &done),
            done,
            tiles: vec![
                training_loss(view),
                held_out(view),
                tokens(view),
                speed(view),
                upload(view),
                download(view),
                workers(view),
            ],
        }
    }
}

/// How much of a run is done: rounds, that in progress not among them, or tokens.
pub struct Done {
    /// So much.
    pub now: u64,
    /// Of so much.
    pub whole: u64,
    /// The first in words, such as `41`.
    pub now_words: String,
    /// The second in words with what is counted, such as `120 rounds`.
    pub whole_words: String,
}

impl Done {
    /// Of this run.
    pub fn of(view: &RunView) -> Self {
        let (counted, whole) = view.done();
        match view.spec.round.total_tokens {
            0 => Self {
                now: view.round,
                whole,
                now_words: view.round.to_string(),
                whole_words: format!("{whole} rounds"),
            },
            _ => Self {
                now: counted,
                whole,
                now_words: humanize::count(counted),
                whole_words: format!("{} tokens", humanize::count(whole)),
            },
        }
    }
}

/// A phase for people: `training` becomes `Training`.
pub fn phase_word(phase: &str) -> String {
    let spaced = phase.replace('_', " ");
    let mut letters = spaced.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// Why a run is in its phase, as a line of its own beside the phase's word.
pub fn explanation(view: &RunView) -> String {
    let text = view.explanation.trim();
    let text = text
        .strip_prefix(&format!("{}: ", view.phase))
        .unwrap_or(text);
    let mut letters = text.chars();
    let sentence = letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    });
    match &view.trouble {
        Some(trouble) => format!("{sentence}; {trouble}"),
        None => sentence,
    }
}

fn announcement(phase: &str) -> &'static str {
    match phase_kind(phase) {
        "going" => "The run is training.",
        "done" => "The run is finished.",
        "bad" => "The run has failed.",
        "held" => "The run is held.",
        _ => "The run is waiting.",
    }
}

/// The class that gives a phase its colour: one of a fixed few, whatever the phase's name.
pub fn phase_kind(phase: &str) -> &'static str {
    match phase.to_ascii_lowercase().as_str() {
        "training" | "collecting" | "merging" => "going",
        "finished" => "done",
        "failed" => "bad",
        "paused" | "rolling_back" | "rollingback" => "held",
        _ => "waiting",
    }
}

fn merged_rounds(view: &RunView) -> impl DoubleEndedIterator<Item = &RoundView> {
    view.rounds
        .iter()
        .filter(|round| round.revision.is_some() && round.merged > 0)
}

fn remaining(view: &RunView, done: &Done) -> Option<String> {
    let recent: Vec<u64> = merged_rounds(view)
        .rev()
        .take(RECENT_ROUNDS)
        .map(|round| round.duration_ms)
        .collect();
    let to_do = done.whole.saturating_sub(done.now);
    let left = match view.spec.round.total_tokens {
        0 => to_do,
        _ if done.now == 0 => 0,
        // As many merges for each token as before.
        _ => to_do
            .saturating_mul(view.revision.number)
            .div_ceil(done.now),
    };
    if recent.is_empty() || left == 0 || phase_kind(&view.phase) != "going" {
        return None;
    }
    let mean = recent.iter().sum::<u64>() / recent.len() as u64;
    Some(humanize::about(mean.saturating_mul(left)))
}

fn training_loss(view: &RunView) -> Tile {
    let mut losses = merged_rounds(view).rev().filter_map(|round| round.loss);
    let latest = view.training_loss.or_else(|| losses.next());
    // The loss of ten rounds ago: one round's difference is mostly noise.
    let earlier = losses.nth(RECENT_ROUNDS - 1);
    let note = match (latest, earlier) {
        (Some(latest), Some(earlier)) if (latest - earlier).is_finite() => {
            format!("{:+.3} in {RECENT_ROUNDS} rounds", latest - earlier).replace('-', "−")
        }
        _ => "mean of the latest round".into(),
    };
    Tile {
        label: "Training loss",
        value: latest.map_or("–".into(), humanize::loss),
        unit: "nats/token".into(),
        note,
    }
}

/// Bits per byte of held-out text; measured, or worked out from a quick look at part of it.
fn bits_per_byte(view: &RunView, evaluation: &Evaluation) -> Option<(f64, bool)> {
    if let Some(bits) = evaluation.bits_per_byte {
        return Some((bits, true));
    }
    let held_out = &view.dataset.held_out;
    if held_out.text_bytes == 0 {
        return None;
    }
    let tokens_per_byte = held_out.tokens as f64 / held_out.text_bytes as f64;
    Some((
        evaluation.nats_per_token * tokens_per_byte / std::f64::consts::LN_2,
        false,
    ))
}

fn held_out(view: &RunView) -> Tile {
    let latest = view
        .evaluations
        .last()
        .and_then(|latest| bits_per_byte(view, latest));
    let first = view
        .evaluations
        .first()
        .and_then(|first| bits_per_byte(view, first));
    let value = match latest {
        Some((bits, true)) => humanize::significant(bits),
        Some((bits, false)) => format!("≈\u{a0}{}", humanize::significant(bits)),
        None => "–".into(),
    };
    let note = match (first, view.evaluations.len()) {
        _ if view.evaluation_problem.is_some() => "could not be measured".into(),
        (_, 0) | (None, _) => "not evaluated yet".into(),
        (Some(_), 1) => "before training".into(),
        (Some((bits, _)), _) => format!("{} at the start", humanize::significant(bits)),
    };
    Tile {
        label: "Held-out text",
        value,
        unit: "bits/byte".into(),
        note,
    }
}

fn tokens(view: &RunView) -> Tile {
    let epoch = view.dataset.training.tokens;
    let note = if epoch == 0 {
        "accepted so far".into()
    } else {
        format!(
            "{} times the data",
            humanize::significant(view.tokens as f64 / epoch as f64)
        )
    };
    Tile {
        label: "Trained on",
        value: humanize::count(view.tokens),
        unit: "tokens".into(),
        note,
    }
}

fn speed(view: &RunView) -> Tile {
    Tile {
        label: "Speed",
        value: humanize::rate(view.tokens_per_second),
        unit: "tokens/s".into(),
        note: "over the last rounds".into(),
    }
}

fn parameters(view: &RunView) -> Option<f64> {
    let parameters = view.spec.model.as_ref()?.parameters();
    (parameters > 0).then_some(parameters as f64)
}

fn upload(view: &RunView) -> Tile {
    // A round's bytes are of accepted payloads; in a round without late updates these are
    // the merged ones. Only such sums over many rounds are shown, so the few others even out.
    let (bytes, updates) = merged_rounds(view).fold((0, 0), |(bytes, updates), round| {
        (
            bytes + round.upload_bytes,
            updates + u64::from(round.merged),
        )
    });
    let value = parameters(view)
        .filter(|_| updates > 0)
        .map(|parameters| humanize::significant(bytes as f64 / updates as f64 / parameters));
    Tile {
        label: "Upload",
        value: value.unwrap_or("–".into()),
        unit: "B/parameter/round".into(),
        note: format!("{} from all nodes", humanize::bytes(view.upload_bytes)),
    }
}

fn download(view: &RunView) -> Tile {
    let (bytes, merges) = merged_rounds(view).fold((0, 0u64), |(bytes, merges), round| {
        (bytes + round.merge_bytes, merges + 1)
    });
    let value = parameters(view)
        .filter(|_| merges > 0)
        .map(|parameters| humanize::significant(bytes as f64 / merges as f64 / parameters));
    Tile {
        label: "Download",
        value: value.unwrap_or("–".into()),
        unit: "B/parameter/round".into(),
        note: format!("{} to all nodes", humanize::bytes(view.download_bytes)),
    }
}

fn workers(view: &RunView) -> Tile {
    let nodes: BTreeSet<_> = view.workers.iter().map(|worker| worker.node).collect();
    let is_training = |worker: &&WorkerView| {
        matches!(worker.activity, Some(Activity::Training { .. }))
            && worker.silent_ms <= view.spec.round.silence_ms
    };
    let training = view.workers.iter().filter(is_training).count();
    Tile {
        label: "Workers",
        value: view.workers.len().to_string(),
        unit: if nodes.len() == 1 {
            "on 1 node".into()
        } else {
            format!("on {} nodes", nodes.len())
        },
        note: if view.workers.is_empty() {
            "waiting for the first".into()
        } else {
            format!("{training} training now")
        },
    }
}

#[cfg(test)]
impl super::Sample for Summary {
    fn samples() -> Vec<Self> {
        crate::sample::runs().iter().map(Self::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn bytes_per_parameter_are_of_one_worker_and_one_round() {
        let mut view = sample::training_run(3);
        let parameters = parameters(&view).expect("the sample has a model");
        for round in &mut view.rounds {
            round.upload_bytes = u64::from(round.merged) * (parameters * 0.05) as u64;
            round.merge_bytes = (parameters * 0.2) as u64;
        }
        assert_eq!(upload(&view).value, "0.0500");
        assert_eq!(download(&view).value, "0.200");
    }

    #[test]
    fn a_run_of_so_many_tokens_is_told_in_tokens() {
        let mut view = sample::training_run(41);
        view.spec.round.total_tokens = 2_000_000;
        view.counted_tokens = 500_000;
        let summary = Summary::new(&view);
        assert_eq!(
            (summary.done.now, summary.done.whole, summary.percent),
            (500_000, 2_000_000, 25)
        );
        assert_eq!(
            summary.done.whole_words,
            format!("{} tokens", humanize::count(2_000_000))
        );
        // A quarter in 41 merges: 123 more of three seconds each.
        for round in &mut view.rounds {
            round.duration_ms = 3_000;
        }
        assert_eq!(
            Summary::new(&view).remaining,
            Some(humanize::about(123 * 3_000))
        );
    }

    #[test]
    fn a_quick_look_is_marked_as_an_estimate() {
        let mut view = sample::training_run(3);
        let last = view.evaluations.len() - 1;
        view.evaluations[last].nats_per_token = 2.0;
        view.evaluations[last].bits_per_byte = None;
        view.dataset.held_out.tokens = 1000;
        view.dataset.held_out.text_bytes = 2000;
        assert_eq!(held_out(&view).value, "≈\u{a0}1.44");
        view.evaluations[last].bits_per_byte = Some(1.5);
        assert_eq!(held_out(&view).value, "1.50");
    }

    #[test]
    fn time_left_is_told_only_while_the_run_goes_on() {
        let mut view = sample::training_run(3);
        assert!(Summary::new(&view).remaining.is_some());
        view.phase = "paused".into();
        assert!(Summary::new(&view).remaining.is_none());
    }

    #[test]
    fn an_explanation_begins_large_and_does_not_repeat_the_phase() {
        let mut view = sample::paused_run();
        view.explanation = "paused: until the evening".into();
        assert_eq!(explanation(&view), "Until the evening");
        view.explanation = "round 3 waits for 1 more worker".into();
        assert_eq!(explanation(&view), "Round 3 waits for 1 more worker");
    }

    #[test]
    fn an_unknown_phase_gets_a_known_colour() {
        assert_eq!(phase_kind("\"><script>"), "waiting");
        assert_eq!(phase_word("rolling_back"), "Rolling back");
        assert_eq!(phase_word(""), "");
    }
}
