//! What `up` tells at the end of a run.

use opengpu_protocol::wire::{Evaluation, RunView};
use opengpu_rounds::{Hash, RunId};
use serde::Serialize;

use crate::output::{bytes, count, short};

/// The result of a run, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub run: RunId,
    pub rounds: u64,
    pub tokens: u64,
    pub upload_bytes: u64,
    pub download_bytes: u64,
    pub held_out_before: Option<Evaluation>,
    pub held_out_after: Option<Evaluation>,
    /// Why there is none of the last weights, if it could not be measured.
    pub held_out_problem: Option<String>,
    /// `xz -9e` on the held-out text alone; None if the text is gone.
    pub xz_bits_per_byte: Option<f64>,
    pub sample_before: String,
    pub sample_after: String,
    pub digest: Hash,
    pub nodes: Vec<NodeDigest>,
    pub export: String,
    pub page: String,
    pub seconds: f64,
}

/// The weights that a node holds at the end.
#[derive(Debug, Serialize)]
pub struct NodeDigest {
    pub node: String,
    pub digest: Option<Hash>,
}

/// The newest full evaluation of the first or of the newest revision.
pub fn evaluation_of(view: &RunView, number: u64) -> Option<Evaluation> {
    let full = view.evaluations.iter().rev();
    full.filter(|evaluation| evaluation.bits_per_byte.is_some())
        .find(|evaluation| evaluation.revision.number == number)
        .copied()
}

impl Outcome {
    /// Prints it for a person.
    pub fn print(&self) {
        println!();
        println!(
            "{} rounds, {} tokens in {:.0} s; {} sent up, {} down",
            self.rounds,
            count(self.tokens as f64),
            self.seconds,
            bytes(self.upload_bytes),
            bytes(self.download_bytes)
        );
        println!();
        println!("held-out text, never trained on     nats per token   bits per byte");
        let row = |what: &str, evaluation: &Option<Evaluation>| {
            if let Some(evaluation) = evaluation {
                let bits = evaluation.bits_per_byte.unwrap_or(f64::NAN);
                println!(
                    "  {what:<34}{:>14.4}{bits:>16.3}",
                    evaluation.nats_per_token
                );
            }
        };
        row("before", &self.held_out_before);
        row("after", &self.held_out_after);
        if let Some(problem) = &self.held_out_problem {
            println!("  {:<34}{problem}", "after");
        }
        if let Some(bits) = self.xz_bits_per_byte {
            println!("  {:<34}{:>14}{bits:>16.3}", "xz -9e", "");
        }
        println!();
        println!("sample before: {}", quoted(&self.sample_before));
        println!("sample after:  {}", quoted(&self.sample_after));
        println!();
        println!("weights {}", self.digest);
        for node in &self.nodes {
            let verdict = match node.digest {
                Some(digest) if digest == self.digest => "the same",
                Some(_) => "DIFFERENT",
                None => "not reported",
            };
            let digest = node.digest.map_or("-".to_owned(), short);
            println!("  {:<16} {digest:<10} {verdict}", node.node);
        }
        println!();
        println!("exported to {}", self.export);
        println!("next:");
        println!(
            "  opengpu generate --model {} --prompt \"To be, or\"",
            self.export
        );
        println!("  opengpu up --help          other texts, larger models, more nodes");
        println!("  {}   the run's page", self.page);
    }
}

fn quoted(text: &str) -> String {
    let mut lines = text.trim().lines().take(8);
    let first = lines.next().unwrap_or("").to_owned();
    lines.fold(first, |all, line| format!("{all}\n               {line}"))
}
