//! From files to shards in one call: what `opengpu up` and `opengpu dataset add` do before
//! anything is sent anywhere.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ahash::AHashMap;
use rayon::prelude::*;
use serde::Serialize;

use crate::corpus::{Corpus, HELD_OUT_ONE_IN, Part};
use crate::learn::learn;
use crate::shards::{Shard, ShardWriter, as_hex, write_error, write_file};
use crate::tokenizer::{END_OF_TEXT, Encoder, LEAST_VOCABULARY};
use crate::words::Words;
use crate::{DatasetError, blocks_per_epoch};

/// Text that is held in memory at a time, about.
const BATCH_BYTES: usize = 8 << 20;
/// Longer "words" (data in base 64, say) teach the tokenizer nothing.
const LONGEST_WORD: usize = 256;
const LARGEST_VOCABULARY: usize = 1 << 20;
/// The token that [`END_OF_TEXT`] is.
pub const END_OF_TEXT_ID: u32 = 0;

/// How data is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens in the vocabulary, at most: little text gives fewer.
    pub vocab_size: usize,
    /// Largest shard.
    pub shard_bytes: u64,
    /// The tokenizer learns from about so much of the training part, taken evenly from all
    /// of it.
    pub learn_from_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vocab_size: 1024,
            shard_bytes: 16 << 20,
            learn_from_bytes: 64 << 20,
        }
    }
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// So much of it is done.
    pub done: u64,
    /// All of it.
    pub of: u64,
}

/// What is being done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Checking the files; counted in bytes.
    Read,
    /// Counting words for the tokenizer; counted in bytes.
    Count,
    /// Learning the tokenizer; counted in tokens.
    Learn,
    /// Tokenising both parts; counted in bytes.
    Encode,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "reading the text",
            Self::Count => "counting words",
            Self::Learn => "learning the tokenizer",
            Self::Encode => "tokenising",
        })
    }
}

/// A dataset on this machine, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// A file in the format of `tokenizer.json`, named by its hash.
    pub tokenizer: PathBuf,
    /// BLAKE3 of it.
    #[serde(serialize_with = "as_hex")]
    pub tokenizer_hash: [u8; 32],
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// 2 or 4.
    pub token_bytes: u8,
    /// Documents in both parts.
    pub documents: u64,
    /// What is trained on.
    pub training: PreparedPart,
    /// What neither tokenizer nor model ever sees.
    pub held_out: PreparedPart,
}

/// One part of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreparedPart {
    /// In order.
    pub shards: Vec<Shard>,
    /// In all shards together.
    pub tokens: u64,
    /// Bytes of the text.
    pub text_bytes: u64,
}

/// Reads the inputs, learns a tokenizer from the training part, and writes it and the shards
/// of both parts into `folder`, which is made if missing. The same inputs give the same bytes
/// under the same names, so that several datasets may lie in one folder.
pub fn prepare(
    inputs: &[PathBuf],
    folder: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, DatasetError> {
    let asked = options.vocab_size;
    if !(LEAST_VOCABULARY..=LARGEST_VOCABULARY).contains(&asked) {
        let (least, most) = (LEAST_VOCABULARY, LARGEST_VOCABULARY);
        return Err(DatasetError::VocabularySize { asked, least, most });
    }
    let corpus = Corpus::open(inputs, progress)?;
    std::fs::create_dir_all(folder).map_err(|source| write_error(folder, source))?;

    let words = count_words(&corpus, options, progress)?;
    let of = asked as u64;
    let learned = learn(words, asked, END_OF_TEXT, |done| {
        progress(Progress {
            stage: Stage::Learn,
            done: done as u64,
            of,
        });
    });
    let encoder = Encoder::new(learned)?;
    let json = encoder.json().as_bytes();
    let (tokenizer, tokenizer_hash) = write_file(folder, "tokenizer.json", json)?;

    let vocab_size = encoder.vocab_size();
    let token_bytes = if vocab_size <= 1 << 16 { 2 } else { 4 };
    let mut done = 0;
    let mut encode = |part| {
        let writer = ShardWriter::new(folder, token_bytes, options.shard_bytes);
        encode_part(&corpus, part, &encoder, writer, &mut |bytes| {
            done += bytes;
            progress(Progress {
                stage: Stage::Encode,
                done,
                of: corpus.text_bytes,
            });
        })
    };
    let training = encode(Part::Training)?;
    let held_out = encode(Part::HeldOut)?;
    sync_folder(folder)?;
    let prepared = Prepared {
        tokenizer,
        tokenizer_hash,
        vocab_size,
        token_bytes,
        documents: corpus.documents,
        training,
        held_out,
    };
    prepared.check_model(1, 1)?;
    Ok(prepared)
}

impl Prepared {
    /// Whether a model with that context can be trained on it in blocks of so many sequences:
    /// the training part must hold one block and the held-out part one sequence.
    pub fn check_model(&self, context: usize, block_sequences: usize) -> Result<(), DatasetError> {
        let block = (context as u64).saturating_mul(block_sequences as u64);
        let parts = [
            ("the training part", &self.training, block.saturating_add(1)),
            ("the held-out part", &self.held_out, context as u64 + 1),
        ];
        for (name, part, needed) in parts {
            if part.tokens < needed {
                return Err(self.too_small(name, part, context, needed));
            }
        }
        Ok(())
    }

    /// Blocks in one epoch of the training part.
    pub fn blocks_per_epoch(&self, context: usize, block_sequences: usize) -> u64 {
        blocks_per_epoch(self.training.tokens, context, block_sequences)
    }

    fn too_small(
        &self,
        name: &'static str,
        part: &PreparedPart,
        context: usize,
        needed: u64,
    ) -> DatasetError {
        let all_tokens = (self.training.tokens + self.held_out.tokens).max(1);
        let all_bytes = self.training.text_bytes + self.held_out.text_bytes;
        // At the bytes per token of this text, and rounded up to what sounds like an estimate.
        let part_bytes = needed.saturating_mul(all_bytes.max(1)).div_ceil(all_tokens);
        let all = match name {
            "the training part" => {
                part_bytes.saturating_mul(HELD_OUT_ONE_IN) / (HELD_OUT_ONE_IN - 1)
            }
            _ => part_bytes.saturating_mul(HELD_OUT_ONE_IN),
        };
        DatasetError::TooSmall {
            part: name,
            text_bytes: part.text_bytes,
            tokens: part.tokens,
            context,
            needed,
            more_bytes: all.max(HELD_OUT_ONE_IN * 2).next_multiple_of(100),
        }
    }
}

/// Pieces of text that are worked on together.
#[derive(Default)]
struct Batch {
    text: String,
    /// Where each piece ends, and whether a document begins with it.
    pieces: Vec<(usize, bool)>,
}

impl Batch {
    fn push(&mut self, text: &str, first: bool) {
        self.text.push_str(text);
        self.pieces.push((self.text.len(), first));
    }

    fn texts(&self) -> Vec<&str> {
        let starts = [0]
            .into_iter()
            .chain(self.pieces.iter().map(|piece| piece.0));
        let ends = self.pieces.iter().map(|piece| piece.0);
        starts
            .zip(ends)
            .map(|(start, end)| &self.text[start..end])
            .collect()
    }

    fn clear(&mut self) {
        self.text.clear();
        self.pieces.clear();
    }
}

fn in_batches(
    corpus: &Corpus,
    part: Part,
    mut wanted: impl FnMut() -> bool,
    work: &mut dyn FnMut(&Batch) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    let mut batch = Batch::default();
    corpus.visit(part, &mut |piece| {
        if wanted() {
            batch.push(piece.text, piece.first);
        }
        if batch.text.len() >= BATCH_BYTES {
            work(&batch)?;
            batch.clear();
        }
        Ok(ControlFlow::Continue(()))
    })?;
    work(&batch)
}

/// Counts the words of the training part; of a large one, of every n-th piece.
fn count_words(
    corpus: &Corpus,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<(String, u64)>, DatasetError> {
    let training_bytes = corpus.range(Part::Training).end;
    let every = training_bytes
        .div_ceil(options.learn_from_bytes.max(1))
        .max(1);
    let mut number = 0;
    let wanted = || {
        number += 1;
        (number - 1) % every == 0
    };
    let mut counts: AHashMap<String, u64> = AHashMap::new();
    let mut done = 0;
    in_batches(corpus, Part::Training, wanted, &mut |batch| {
        let found = batch
            .texts()
            .into_par_iter()
            .fold(AHashMap::new, count)
            .reduce(AHashMap::new, add_counts);
        for (word, count) in found {
            match counts.get_mut(word) {
                Some(known) => *known += count,
                None => _ = counts.insert(word.to_owned(), count),
            }
        }
        done += batch.text.len() as u64;
        let of = training_bytes / every;
        progress(Progress {
            stage: Stage::Count,
            done: done.min(of),
            of,
        });
        Ok(())
    })?;
    Ok(counts.into_iter().collect())
}

fn count<'t>(mut counts: AHashMap<&'t str, u64>, text: &'t str) -> AHashMap<&'t str, u64> {
    for word in Words::of(text).filter(|word| word.len() <= LONGEST_WORD) {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

fn add_counts<'t>(
    mut a: AHashMap<&'t str, u64>,
    mut b: AHashMap<&'t str, u64>,
) -> AHashMap<&'t str, u64> {
    if a.len() < b.len() {
        std::mem::swap(&mut a, &mut b);
    }
    for (word, count) in b {
        *a.entry(word).or_default() += count;
    }
    a
}

fn encode_part(
    corpus: &Corpus,
    part: Part,
    encoder: &Encoder,
    mut writer: ShardWriter<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<PreparedPart, DatasetError> {
    let mut text_bytes = 0;
    in_batches(corpus, part, || true, &mut |batch| {
        let encoded = encoder.encode_all(&batch.texts())?;
        for (tokens, (_, first)) in encoded.iter().zip(&batch.pieces) {
            if *first && writer.tokens() > 0 {
                writer.push(&[END_OF_TEXT_ID])?;
            }
            writer.push(tokens)?;
        }
        text_bytes += batch.text.len() as u64;
        progress(batch.text.len() as u64);
        Ok(())
    })?;
    let (shards, tokens) = writer.finish()?;
    Ok(PreparedPart {
        shards,
        tokens,
        text_bytes,
    })
}

/// The names of the files are on disk too.
fn sync_folder(folder: &Path) -> Result<(), DatasetError> {
    #[cfg(unix)]
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| write_error(folder, source))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
