//! A byte-level byte-pair tokenizer in Hugging Face's `tokenizer.json`, and fast encoding
//! with it.
//!
//! The file is what `tokenizers` and `transformers` load; merges inside a word are done by
//! that library's own model. Encoding here differs from `Tokenizer::encode` in speed alone:
//! each distinct word is encoded once (see [`crate::words`] for the words). One thing is
//! meant to differ: text that happens to contain `<|endoftext|>` is text, and never becomes
//! the special token, which only this crate puts between documents.

use std::sync::{Mutex, PoisonError};

use ahash::AHashMap;
use rayon::prelude::*;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, Tokenizer};

use crate::DatasetError;
use crate::bytes::to_chars;
use crate::learn::Learned;
use crate::words::Words;

/// Stands between two documents; its id is 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The least vocabulary: the special token and every byte.
pub const LEAST_VOCABULARY: usize = 257;

/// Distinct words that one encoder remembers, and their greatest length: about 100 MB.
const REMEMBERED_WORDS: usize = 500_000;
const REMEMBERED_BYTES: usize = 64;

type Memory = AHashMap<Box<str>, Box<[u32]>>;

/// Encodes text with what was learned.
pub(crate) struct Encoder {
    model: BPE,
    vocab_size: usize,
    json: String,
    /// One for each thread that encodes at the same time.
    memories: Mutex<Vec<Memory>>,
}

impl Encoder {
    pub(crate) fn new(learned: Learned) -> Result<Self, DatasetError> {
        let refused = |error: tokenizers::Error| DatasetError::Tokenizer {
            reason: error.to_string(),
        };
        let tokens = learned.tokens;
        let name = |id: u32| tokens[id as usize].clone();
        let merges = learned.merges.iter().map(|&(a, b)| (name(a), name(b)));
        let vocabulary: AHashMap<String, u32> =
            (0..tokens.len() as u32).map(|id| (name(id), id)).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges.collect())
            .cache_capacity(0)
            .build()
            .map_err(refused)?;
        let bytes = ByteLevel::new(false, true, true);
        let mut tokenizer = Tokenizer::new(model.clone());
        tokenizer
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(bytes))
            .add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
        Ok(Self {
            model,
            vocab_size: tokens.len(),
            json: tokenizer.to_string(true).map_err(refused)?,
            memories: Mutex::default(),
        })
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Contents of `tokenizer.json`.
    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    /// Encodes each text by itself, on all threads.
    pub(crate) fn encode_all(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, DatasetError> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, DatasetError> {
        let lock = || self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = lock().pop().unwrap_or_default();
        let mut tokens = Vec::with_capacity(text.len() / 2);
        for word in Words::of(text) {
            if let Some(known) = memory.get(word) {
                tokens.extend_from_slice(known);
                continue;
            }
            let encoded = self.encode_word(word)?;
            tokens.extend_from_slice(&encoded);
            if word.len() <= REMEMBERED_BYTES && memory.len() < REMEMBERED_WORDS {
                memory.insert(word.into(), encoded.into());
            }
        }
        lock().push(memory);
        Ok(tokens)
    }

    fn encode_word(&self, word: &str) -> Result<Vec<u32>, DatasetError> {
        let tokens = self.model.tokenize(&to_chars(word));
        let tokens = tokens.map_err(|error| DatasetError::Tokenizer {
            reason: error.to_string(),
        })?;
        Ok(tokens.into_iter().map(|token| token.id).collect())
    }
}
