//! The table of workers.

use askama::Template;
use opengpu_protocol::wire::{Activity, RunView, WorkerView};

use crate::humanize;

/// Workers of a run.
#[derive(Template)]
#[template(path = "run/workers.html")]
pub struct Workers {
    /// The run's number.
    pub run: u64,
    /// The rows.
    pub rows: Vec<WorkerRow>,
    /// How many there are to show.
    pub total: usize,
}

/// A worker.
pub struct WorkerRow {
    /// Its number.
    pub worker: u64,
    /// Its node's name.
    pub name: String,
    /// Its device.
    pub device: String,
    /// What it does, in a word.
    pub activity: &'static str,
    /// Colour of the activity.
    pub activity_kind: &'static str,
    /// More about what it does.
    pub detail: String,
    /// What it holds.
    pub revision: String,
    /// First digits of its digest.
    pub digest: String,
    /// How its weights compare with the coordinator's.
    pub agreement: Agreement,
    /// Speed.
    pub speed: String,
    /// Updates accepted.
    pub accepted: u64,
    /// Updates refused.
    pub refused: u64,
    /// Why the last one was refused.
    pub last_refusal: String,
    /// Why the newest one that was merged counted less than its weight.
    pub counted_less: String,
    /// Credited tokens.
    pub credited: String,
    /// When it was last heard of.
    pub heard: String,
}

/// How a worker's weights compare with the coordinator's newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The same bytes.
    Same,
    /// An older revision, which it will bring up to date.
    Behind,
    /// The newest revision with other bytes: it must fetch them again.
    Differs,
    /// It has not said.
    Unknown,
}

impl Agreement {
    fn of(view: &RunView, worker: &WorkerView) -> Self {
        match (
            worker.digest.and_then(humanize::of_weights),
            worker.revision,
        ) {
            (Some(digest), _) if digest == view.digest => Self::Same,
            (Some(_), Some(revision)) if revision != view.revision => Self::Behind,
            (Some(_), _) => Self::Differs,
            (None, _) => Self::Unknown,
        }
    }

    /// The class that gives it its colour.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Behind => "behind",
            Self::Differs => "differs",
            Self::Unknown => "unknown",
        }
    }

    /// A sign before the digest.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Same => "✓",
            Self::Behind => "↓",
            Self::Differs => "≠",
            Self::Unknown => "",
        }
    }

    /// The sign in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Same => "equals the coordinator's",
            Self::Behind => "catching up",
            Self::Differs => "differs from the coordinator's; it will fetch the weights again",
            Self::Unknown => "not reported yet",
        }
    }
}

impl Workers {
    /// The first `limit` workers of this run.
    pub fn new(view: &RunView, limit: usize) -> Self {
        let row = |worker: &WorkerView| WorkerRow::new(view, worker);
        Self {
            run: view.run.0,
            rows: view.workers.iter().take(limit).map(row).collect(),
            total: view.workers.len(),
        }
    }
}

impl WorkerRow {
    fn new(view: &RunView, worker: &WorkerView) -> Self {
        let digest = worker.digest.and_then(humanize::of_weights);
        let silent = worker.silent_ms > view.spec.round.silence_ms;
        let (activity, activity_kind, detail) = describe(worker, silent);
        Self {
            worker: worker.worker.0,
            name: worker.name.clone(),
            device: worker.device.clone(),
            activity,
            activity_kind,
            detail,
            revision: match (digest, worker.revision) {
                (Some(_), Some(revision)) => format!("revision {revision}"),
                _ => "none yet".into(),
            },
            digest: digest.map_or("–".into(), humanize::short_hash),
            agreement: Agreement::of(view, worker),
            speed: speed(view, worker),
            accepted: worker.accepted,
            refused: worker.refused,
            last_refusal: worker.last_refusal.clone().unwrap_or_default(),
            counted_less: worker.counted_less.clone().unwrap_or_default(),
            credited: humanize::count(worker.credited_tokens),
            heard: humanize::ago(worker.silent_ms),
        }
    }
}

fn describe(worker: &WorkerView, silent: bool) -> (&'static str, &'static str, String) {
    if silent {
        return ("Silent", "silent", "its work goes to others".into());
    }
    match &worker.activity {
        None => ("Starting", "idle", String::new()),
        Some(Activity::Idle) => ("Waiting", "idle", "for work".into()),
        Some(Activity::Preparing { what }) => ("Preparing", "idle", what.clone()),
        Some(Activity::Training {
            blocks_done, loss, ..
        }) => {
            let blocks = if *blocks_done == 1 { "block" } else { "blocks" };
            let detail = format!(
                "{blocks_done} {blocks} done, loss {}",
                humanize::loss(*loss)
            );
            ("Training", "busy", detail)
        }
        Some(Activity::Sending { .. }) => ("Sending", "busy", "its update".into()),
    }
}

/// Tokens a second: as it says itself while training, else from its measured blocks.
fn speed(view: &RunView, worker: &WorkerView) -> String {
    if let Some(Activity::Training {
        tokens_per_second, ..
    }) = worker.activity
        && tokens_per_second > 0.0
    {
        return humanize::token_rate(tokens_per_second);
    }
    let block_tokens = view
        .spec
        .model
        .as_ref()
        .map_or(0, |model| model.max_position_embeddings)
        * view.spec.block_sequences;
    humanize::token_rate(worker.blocks_per_second * block_tokens as f64)
}

#[cfg(test)]
impl super::Sample for Workers {
    fn samples() -> Vec<Self> {
        crate::sample::runs()
            .iter()
            .map(|view| Self::new(view, 24))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use opengpu_rounds::{Hash, Revision};

    use super::*;

    #[test]
    fn a_digest_is_compared_with_the_coordinators() {
        let view = crate::sample::training_run(9);
        let mut worker = view.workers[0].clone();
        worker.digest = Some(view.digest);
        assert_eq!(Agreement::of(&view, &worker), Agreement::Same);
        worker.digest = Some(Hash::of(b"other"));
        worker.revision = Some(view.revision);
        assert_eq!(Agreement::of(&view, &worker), Agreement::Differs);
        worker.revision = Some(Revision {
            number: view.revision.number - 1,
            ..view.revision
        });
        assert_eq!(Agreement::of(&view, &worker), Agreement::Behind);
        // All zeros stand for no weights, on either side.
        worker.digest = Some(Hash([0; 32]));
        assert_eq!(Agreement::of(&view, &worker), Agreement::Unknown);
        let unmade = RunView {
            digest: Hash([0; 32]),
            ..view.clone()
        };
        assert_eq!(Agreement::of(&unmade, &worker), Agreement::Unknown);
        worker.digest = None;
        assert_eq!(Agreement::of(&view, &worker), Agreement::Unknown);
    }

    #[test]
    fn a_worker_silent_for_too_long_says_so_whatever_it_did_last() {
        let mut view = crate::sample::training_run(9);
        view.workers[0].silent_ms = view.spec.round.silence_ms + 1;
        assert_eq!(Workers::new(&view, 1).rows[0].activity, "Silent");
    }
}
