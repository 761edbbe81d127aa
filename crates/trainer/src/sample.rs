//! Continuing a text, one token at a time.

use std::path::Path;
use std::sync::atomic::Ordering;

use opengpu_trainer_protocol::ModelConfig;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::compute::Compute;
use crate::error::{Result, TrainerError};
use crate::initialise::uniform;
use crate::model::Llama;
use crate::train::Signals;

/// What to continue, and how.
#[derive(Clone, Debug)]
pub struct Sampling<'a> {
    /// What comes before; may be empty.
    pub prompt: &'a str,
    /// Tokens to add.
    pub max_tokens: usize,
    /// 0: always the most likely token.
    pub temperature: f64,
    /// Decides every draw.
    pub seed: u64,
}

/// Reads a `tokenizer.json` and refuses one with more tokens than the model knows.
pub fn read_tokenizer(path: &Path, model: &ModelConfig) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_file(path).map_err(|error| TrainerError::file(path, error))?;
    let count = known(&tokenizer);
    if count == 0 {
        return Err(TrainerError::file(path, "has no tokens"));
    }
    if count > model.vocab_size {
        return Err(TrainerError::file(
            path,
            format!(
                "has {count} tokens, the model's vocabulary only {}; give the tokenizer that the \
                 model was trained with",
                model.vocab_size
            ),
        ));
    }
    Ok(tokenizer)
}

/// One more than the largest number of a token; the numbers may have gaps.
fn known(tokenizer: &Tokenizer) -> usize {
    let largest = tokenizer.get_vocab(true).into_values().max();
    largest.map_or(0, |largest| largest as usize + 1)
}

/// The continuation of the prompt, without the prompt. Beyond the model's context only the
/// newest half of it is kept, then it fills up again.
pub fn sample(
    model: &ModelConfig,
    weights: &[f32],
    compute: &Compute,
    tokenizer: &Tokenizer,
    sampling: &Sampling,
    signals: &Signals,
    report: &mut dyn FnMut(u64),
) -> Result<String> {
    if !sampling.temperature.is_finite() || sampling.temperature < 0.0 {
        return Err(TrainerError::BadRequest(format!(
            "temperature is {}; it must be 0 or more",
            sampling.temperature
        )));
    }
    let fail = |error: tokenizers::Error| TrainerError::Failed(error.to_string());
    let prompt = tokenizer.encode(sampling.prompt, false).map_err(fail)?;
    let mut tokens = prompt.get_ids().to_vec();
    if tokens.is_empty() {
        // A model needs a token to start from; a line's end is the most neutral one.
        let start = tokenizer.encode("\n", false).map_err(fail)?;
        tokens.push(start.get_ids().first().copied().unwrap_or(0));
    }
    let known = known(tokenizer);
    let llama = Llama::frozen(model, weights, compute);
    let mut generator = ChaCha8Rng::seed_from_u64(sampling.seed);
    let context = model.max_position_embeddings;
    let given = tokens.len();
    let mut from = given.saturating_sub(context);
    while tokens.len() - given < sampling.max_tokens {
        if tokens.len() - from > context {
            from = tokens.len() - (context / 2).max(1);
        }
        // Tokens that the tokenizer can't write are never drawn.
        let logits = &llama.logits(&tokens[from..], 1)[..known];
        tokens.push(draw(logits, sampling.temperature, &mut generator));
        report((tokens.len() - given) as u64);
        if signals.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    // Decoding the whole and cutting the prompt off keeps characters that are spread over
    // several tokens whole.
    let before = tokenizer.decode(&tokens[..given], true).map_err(fail)?;
    let whole = tokenizer.decode(&tokens, true).map_err(fail)?;
    match whole.strip_prefix(&before) {
        Some(continuation) => Ok(continuation.to_owned()),
        None => tokenizer.decode(&tokens[given..], true).map_err(fail),
    }
}

/// A token from the softmax of `logits / temperature`.
fn draw(logits: &[f32], temperature: f64, generator: &mut ChaCha8Rng) -> u32 {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    if temperature == 0.0 {
        return best as u32;
    }
    let most = f64::from(logits[best]);
    let weight = |logit: f32| libm::exp((f64::from(logit) - most) / temperature);
    let mut left = uniform(generator) * logits.iter().map(|&logit| weight(logit)).sum::<f64>();
    for (token, &logit) in logits.iter().enumerate() {
        left -= weight(logit);
        if left < 0.0 {
            return token as u32;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities_and_a_seed_repeats_them() {
        let logits = [0.0, 3f32.ln(), -100.0];
        let run = |seed| {
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            (0..4000)
                .map(|_| draw(&logits, 1.0, &mut generator))
                .collect::<Vec<_>>()
        };
        let draws = run(5);
        let ones = draws.iter().filter(|&&token| token == 1).count();
        assert!(
            (2900..3100).contains(&ones),
            "{ones} of 4000, expected 3000"
        );
        assert_eq!(draws, run(5));
        assert_ne!(draws, run(6));
        assert_eq!(draw(&logits, 0.0, &mut ChaCha8Rng::seed_from_u64(0)), 1);
    }
}
