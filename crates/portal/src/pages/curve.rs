//! The loss curve: points for the chart, a drawing for browsers without scripts, and a
//! sentence for those who cannot see either.

use std::collections::BTreeMap;

use askama::Template;
use opengpu_protocol::wire::RunView;
use opengpu_rounds::Revision;
use serde::Serialize;

use crate::humanize;

/// The chart's data: columns over the number of merges done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Points {
    /// Merges done.
    pub x: Vec<u64>,
    /// Mean training loss of the round that made this revision, nats per token.
    pub training: Vec<Option<f64>>,
    /// Held-out loss of this revision, nats per token.
    pub held_out: Vec<Option<f64>>,
}

impl Points {
    /// Of this run, without what a rollback threw away.
    pub fn new(view: &RunView) -> Self {
        let training = live_lineage(
            view.rounds
                .iter()
                .filter_map(|round| Some((round.revision?, round.loss?))),
        );
        let held_out = live_lineage(
            view.evaluations
                .iter()
                .map(|evaluation| (evaluation.revision, evaluation.nats_per_token)),
        );
        let mut x: Vec<u64> = training.keys().chain(held_out.keys()).copied().collect();
        x.sort_unstable();
        x.dedup();
        let column =
            |points: &BTreeMap<u64, f64>| x.iter().map(|x| points.get(x).copied()).collect();
        Self {
            training: column(&training),
            held_out: column(&held_out),
            x,
        }
    }
}

/// Values by revision number. Where a later lineage begins, the earlier one ends.
fn live_lineage(points: impl Iterator<Item = (Revision, f64)>) -> BTreeMap<u64, f64> {
    let mut points: Vec<(Revision, f64)> = points.filter(|(_, value)| value.is_finite()).collect();
    points.sort_by_key(|(revision, _)| *revision);
    let mut kept: BTreeMap<u64, f64> = BTreeMap::new();
    let mut lineage = 0;
    for (revision, value) in points {
        if revision.lineage != lineage {
            lineage = revision.lineage;
            kept.split_off(&revision.number);
        }
        kept.insert(revision.number, value);
    }
    kept
}

/// Width and height of the drawing, in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 240.0;

/// The drawing: two lines and the range of its axes.
#[derive(Template)]
#[template(path = "run/curve.html")]
pub struct Curve {
    /// Points of the training line, `x,y x,y`.
    pub training: String,
    /// Points of the held-out line.
    pub held_out: String,
    /// Largest loss.
    pub top: String,
    /// Smallest loss.
    pub bottom: String,
    /// First and last revision number.
    pub first: u64,
    /// Last revision number.
    pub last: u64,
    /// The curve in words.
    pub words: String,
}

impl Curve {
    /// Of this run.
    pub fn new(view: &RunView) -> Self {
        let points = Points::new(view);
        let values = || {
            points
                .training
                .iter()
                .chain(&points.held_out)
                .flatten()
                .copied()
        };
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        let first = points.x.first().copied().unwrap_or(0);
        let last = points.x.last().copied().unwrap_or(0);
        let span = (last - first).max(1) as f64;
        let line = |column: &[Option<f64>]| {
            let mut drawn = String::new();
            for (x, value) in points.x.iter().zip(column) {
                let Some(value) = value else { continue };
                let right = (x - first) as f64 / span * WIDTH;
                let down = (high - value) / (high - low).max(1e-9) * HEIGHT;
                drawn.push_str(&format!("{right:.1},{down:.1} "));
            }
            drawn.trim_end().to_string()
        };
        Self {
            training: line(&points.training),
            held_out: line(&points.held_out),
            top: humanize::loss(high),
            bottom: humanize::loss(low),
            first,
            last,
            words: words(&points),
        }
    }
}

impl Curve {
    /// Whether there is nothing to draw yet.
    pub fn is_blank(&self) -> bool {
        self.training.is_empty() && self.held_out.is_empty()
    }
}

/// The curve as a sentence.
pub fn words(points: &Points) -> String {
    let ends = |column: &[Option<f64>]| {
        let mut values = column.iter().flatten();
        let first = values.next().copied()?;
        Some((first, values.next_back().copied().unwrap_or(first)))
    };
    let sentence = |name: &str, (first, last): (f64, f64)| {
        format!(
            "{name} loss went from {} to {}",
            humanize::loss(first),
            humanize::loss(last)
        )
    };
    let sentences: Vec<String> = [
        ends(&points.training).map(|ends| sentence("training", ends)),
        ends(&points.held_out).map(|ends| sentence("held-out", ends)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if sentences.is_empty() {
        return "No round has been merged yet; the curve begins with the first one.".into();
    }
    let first = points.x.first().copied().unwrap_or(0);
    let last = points.x.last().copied().unwrap_or(0);
    format!(
        "From revision {first} to {last}, {}, in nats per token.",
        sentences.join(" and ")
    )
}

#[cfg(test)]
impl super::Sample for Curve {
    fn samples() -> Vec<Self> {
        crate::sample::runs().iter().map(Self::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(lineage: u32, number: u64) -> Revision {
        Revision { lineage, number }
    }

    #[test]
    fn a_rollback_cuts_the_abandoned_rounds_off() {
        let points = [
            (revision(0, 1), 5.0),
            (revision(0, 2), 4.0),
            (revision(0, 3), 9.0),
            (revision(0, 4), 9.5),
            (revision(1, 3), 3.5),
        ];
        let kept = live_lineage(points.into_iter());
        assert_eq!(
            kept.into_iter().collect::<Vec<_>>(),
            vec![(1, 5.0), (2, 4.0), (3, 3.5)]
        );
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_left_out() {
        let kept = live_lineage([(revision(0, 1), f64::NAN), (revision(0, 2), 1.0)].into_iter());
        assert_eq!(kept.len(), 1);
    }

    #[test]
    fn columns_are_as_long_as_their_axis() {
        let points = Points::new(&crate::sample::training_run(17));
        assert_eq!(points.x.len(), points.training.len());
        assert_eq!(points.x.len(), points.held_out.len());
        assert!(points.x.is_sorted_by(|a, b| a < b), "{:?}", points.x);
        assert!(
            points.held_out[0].is_some(),
            "the evaluation before training is missing"
        );
    }

    #[test]
    fn a_run_without_rounds_says_so() {
        assert!(words(&Points::default()).starts_with("No round"));
    }
}
