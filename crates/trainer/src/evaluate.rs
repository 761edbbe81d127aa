//! Loss on held-out text: every token is counted once, with as much context as fits.

use std::sync::atomic::Ordering;

use opengpu_dataset::TokenStream;
use opengpu_trainer_protocol::ModelConfig;

use crate::compute::Compute;
use crate::error::{Result, TrainerError};
use crate::model::Llama;
use crate::tokens::Pair;
use crate::train::Signals;

/// Tokens in one forward pass, about.
const PASS_TOKENS: usize = 2048;

/// A held-out loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluated {
    /// Mean over the counted tokens.
    pub nats_per_token: f64,
    /// Sum over the counted tokens.
    pub nats: f64,
    /// Tokens counted.
    pub tokens: u64,
    /// Whether that is all of them.
    pub whole: bool,
}

/// One forward pass over `length` tokens from `start`, of which the last `counted`
/// predictions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: u64,
    length: usize,
    counted: usize,
}

/// The windows of `tokens` tokens: each of `length` tokens, half a window on from the one
/// before, so that every token but those of the first window has at least half a window of
/// context; the last one ends with the text.
fn windows(tokens: u64, length: usize) -> Vec<Window> {
    let predicted = tokens.saturating_sub(1);
    if predicted == 0 {
        return Vec::new();
    }
    let first = (length as u64).min(predicted) as usize;
    let mut windows = vec![Window {
        start: 0,
        length: first,
        counted: first,
    }];
    let mut done = first as u64;
    let stride = (length / 2).max(1) as u64;
    while done < predicted {
        let counted = stride.min(predicted - done);
        done += counted;
        windows.push(Window {
            start: done - length as u64,
            length,
            counted: counted as usize,
        });
    }
    windows
}

/// Evaluates `weights` on the first `max_windows` windows of `tokens`. The very first token
/// has no context; it counts as a uniform guess.
pub fn evaluate(
    model: &ModelConfig,
    weights: &[f32],
    compute: &Compute,
    tokens: &mut TokenStream,
    max_windows: Option<usize>,
    signals: &Signals,
    report: &mut dyn FnMut(u64, u64, f64),
) -> Result<Evaluated> {
    let length = model.max_position_embeddings;
    let all = windows(tokens.len(), length);
    if tokens.is_empty() {
        return Err(TrainerError::BadRequest(
            "There are no held-out tokens.".into(),
        ));
    }
    let used = &all[..max_windows.unwrap_or(all.len()).min(all.len())];
    let llama = Llama::frozen(model, weights, compute);
    let mut nats = (model.vocab_size as f64).ln();
    let mut counted = 1u64;
    let mut done = 0;
    let mut batch = Pair::default();
    for group in used.chunk_by(|a, b| a.length == b.length) {
        for pass in group.chunks((PASS_TOKENS / length).max(1)) {
            batch.clear();
            for window in pass {
                batch.push(tokens, window.start, window.length)?;
            }
            let length = pass[0].length;
            let losses = llama.token_losses(&batch.inputs, &batch.targets, length);
            let before = nats;
            let mut here = 0;
            for (window, losses) in pass.iter().zip(losses.chunks_exact(length)) {
                let losses = &losses[length - window.counted..];
                nats += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
                here += window.counted as u64;
            }
            if !nats.is_finite() {
                return Err(TrainerError::NotFinite(
                    "The held-out loss is not finite; roll the run back to an earlier checkpoint."
                        .into(),
                ));
            }
            counted += here;
            done += pass.len();
            report(
                done as u64,
                used.len() as u64,
                (nats - before) / here.max(1) as f64,
            );
            if signals.stop.load(Ordering::Relaxed) {
                return Err(TrainerError::Failed("The trainer was told to stop.".into()));
            }
        }
    }
    let whole = used.len() == all.len();
    Ok(Evaluated {
        nats_per_token: nats / counted as f64,
        nats,
        tokens: counted,
        whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_counted_once_with_half_a_window_of_context() {
        for length in [2, 3, 8, 64] {
            for tokens in 2..300u64 {
                let mut next = 1;
                for window in windows(tokens, length) {
                    let end = window.start + window.length as u64 + 1;
                    assert!(end <= tokens && window.length <= length);
                    let from = end - window.counted as u64;
                    assert_eq!(from, next, "length {length}, tokens {tokens}");
                    let context = window.length - window.counted;
                    assert!(window.start == 0 || context >= length / 2);
                    next = end;
                }
                assert_eq!(next, tokens);
            }
        }
    }
}
