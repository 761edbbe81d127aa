//! What a run is: its model, data and rules, and the digest of its weights.

use askama::Template;
use opengpu_protocol::Codec;
use opengpu_protocol::wire::{RunView, WorkerView};

use crate::humanize;

/// The facts below the tables.
#[derive(Template)]
#[template(path = "run/about.html")]
pub struct About {
    /// Newest revision and its digest, whole; None before the first weights.
    pub weights: Option<(String, String)>,
    /// Workers that hold it, and how many there are.
    pub agreeing: String,
    /// Name and value.
    pub facts: Vec<(&'static str, String)>,
}

impl About {
    /// Of this run.
    pub fn new(view: &RunView) -> Self {
        let Some(digest) = humanize::of_weights(view.digest) else {
            return Self {
                weights: None,
                agreeing: "The first weights are not made yet.".into(),
                facts: facts(view),
            };
        };
        let holds_it = |worker: &&WorkerView| worker.digest == Some(digest);
        let agreeing = view.workers.iter().filter(holds_it).count();
        Self {
            weights: Some((view.revision.to_string(), digest.to_string())),
            agreeing: match view.workers.len() {
                0 => "No worker has reported its weights yet.".into(),
                1 if agreeing == 1 => "The one worker holds exactly these weights.".into(),
                total if total == agreeing => {
                    format!("All {total} workers hold exactly these weights.")
                }
                total => format!("{agreeing} of {total} workers hold exactly these weights now."),
            },
            facts: facts(view),
        }
    }
}

fn facts(view: &RunView) -> Vec<(&'static str, String)> {
    let spec = &view.spec;
    let mut facts = Vec::new();
    if let Some(model) = &spec.model {
        let preset = spec
            .preset
            .as_deref()
            .map(|preset| format!("{preset}, "))
            .unwrap_or_default();
        let parameters = humanize::count(model.parameters() as u64);
        facts.push((
            "Model",
            format!(
                "{preset}{parameters} parameters, {} layers, {} wide, {} tokens of context",
                model.num_hidden_layers, model.hidden_size, model.max_position_embeddings
            ),
        ));
    }
    facts.push((
        "Data",
        format!(
            "{}: {} tokens to train on, {} held out, vocabulary {}",
            spec.dataset,
            humanize::count(view.dataset.training.tokens),
            humanize::count(view.dataset.held_out.tokens),
            view.dataset.vocab_size
        ),
    ));
    facts.push((
        "Exchange",
        format!(
            "up {}, down {}",
            codec_words(spec.sync.up),
            codec_words(spec.sync.down)
        ),
    ));
    facts.push((
        "Rounds",
        format!(
            "{} of {} and {} of grace, quorum {}, seed {}",
            match spec.round.total_tokens {
                0 => spec.round.rounds.to_string(),
                tokens => format!("as many as {} tokens take,", humanize::count(tokens)),
            },
            humanize::duration(spec.round.duration_ms),
            humanize::duration(spec.round.grace_ms),
            spec.round.quorum,
            spec.seed
        ),
    ));
    facts
}

fn codec_words(codec: Codec) -> String {
    match codec {
        Codec::Sparse { k } => format!("the {k} largest of every 4096 weights, 2 bits each"),
        Codec::Int8 => "every weight in 8 bits".into(),
        Codec::Int4 => "every weight in 4 bits".into(),
        Codec::Int2 => "every weight in 2 bits".into(),
        Codec::Float32 => "every weight exactly".into(),
    }
}

#[cfg(test)]
impl super::Sample for About {
    fn samples() -> Vec<Self> {
        crate::sample::runs().iter().map(Self::new).collect()
    }
}
