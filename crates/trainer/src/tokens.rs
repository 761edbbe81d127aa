//! Reading training and held-out tokens, and finding the sequences of a block.
//!
//! Files are read at a position rather than mapped: a sequence is a few hundred bytes, and
//! a file that shrinks under a mapping would kill the process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use opengpu_dataset::Permutation;
use opengpu_trainer_protocol::TokenFiles;

use crate::error::{Result, TrainerError};

/// An open token stream.
pub struct Tokens {
    shards: Vec<Shard>,
    token_bytes: usize,
    vocabulary: usize,
    count: u64,
}

struct Shard {
    path: PathBuf,
    file: File,
    /// Place of its first token in the stream.
    start: u64,
    tokens: u64,
}

impl Tokens {
    /// Opens all shards; refuses a stream that is not as long as it says.
    pub fn open(files: &TokenFiles, vocabulary: usize) -> Result<Self> {
        let token_bytes = usize::from(files.token_bytes);
        if token_bytes != 2 && token_bytes != 4 {
            return Err(TrainerError::BadRequest(format!(
                "token_bytes is {token_bytes}; it must be 2 or 4"
            )));
        }
        let mut shards = Vec::with_capacity(files.files.len());
        let mut count = 0;
        for path in &files.files {
            let fail = |error: std::io::Error| TrainerError::file(path, error);
            let file = File::open(path).map_err(fail)?;
            let bytes = file.metadata().map_err(fail)?.len();
            if bytes % token_bytes as u64 != 0 {
                return Err(TrainerError::file(
                    path,
                    format!(
                        "holds {bytes} bytes, which is no whole number of {token_bytes}-byte tokens"
                    ),
                ));
            }
            let tokens = bytes / token_bytes as u64;
            shards.push(Shard {
                path: path.clone(),
                file,
                start: count,
                tokens,
            });
            count += tokens;
        }
        if count != files.tokens {
            let path = files.files.last().cloned().unwrap_or_default();
            return Err(TrainerError::BadFile {
                path,
                problem: format!(
                    "the {} token files hold {count} tokens together, the request says {}; fetch \
                     the dataset again",
                    shards.len(),
                    files.tokens
                ),
            });
        }
        Ok(Self {
            shards,
            token_bytes,
            vocabulary,
            count,
        })
    }

    /// Tokens in the stream.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whole sequences of `length` inputs, each with the token after it.
    pub fn sequences(&self, length: usize) -> u64 {
        self.count.saturating_sub(1) / length as u64
    }

    /// Appends `length` tokens from place `start` to `out`.
    pub fn read(&mut self, start: u64, length: usize, out: &mut Vec<u32>) -> Result<()> {
        let end = start + length as u64;
        if end > self.count {
            return Err(TrainerError::BadRequest(format!(
                "tokens {start} to {end} were asked for, but there are only {}",
                self.count
            )));
        }
        for shard in &mut self.shards {
            let (from, to) = (start.max(shard.start), end.min(shard.start + shard.tokens));
            if from < to {
                let place = (from - shard.start) * self.token_bytes as u64;
                let mut bytes = vec![0u8; (to - from) as usize * self.token_bytes];
                let fail = |error| TrainerError::file(&shard.path, error);
                shard.file.seek(SeekFrom::Start(place)).map_err(fail)?;
                shard.file.read_exact(&mut bytes).map_err(fail)?;
                let first = out.len();
                match self.token_bytes {
                    2 => out.extend(
                        bytes
                            .as_chunks::<2>()
                            .0
                            .iter()
                            .map(|b| u32::from(u16::from_le_bytes(*b))),
                    ),
                    _ => out.extend(
                        bytes
                            .as_chunks::<4>()
                            .0
                            .iter()
                            .map(|b| u32::from_le_bytes(*b)),
                    ),
                }
                let bad = out[first..]
                    .iter()
                    .position(|&token| token as usize >= self.vocabulary);
                if let Some(bad) = bad {
                    return Err(TrainerError::file(
                        &shard.path,
                        format!(
                            "token {} is {}, but the model's vocabulary has only {} tokens; use \
                             the tokenizer that belongs to the model",
                            from - shard.start + bad as u64,
                            out[first + bad],
                            self.vocabulary
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Appends sequence `index`: `length` inputs and, shifted by one, their targets.
    pub fn sequence(&mut self, index: u64, length: usize, pair: &mut Pair) -> Result<()> {
        let mut tokens = Vec::with_capacity(length + 1);
        self.read(index * length as u64, length + 1, &mut tokens)?;
        pair.inputs.extend_from_slice(&tokens[..length]);
        pair.targets.extend_from_slice(&tokens[1..]);
        Ok(())
    }
}

/// Inputs and targets of a batch: sequences one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// What the model sees.
    pub inputs: Vec<u32>,
    /// What it should predict, place by place.
    pub targets: Vec<u32>,
}

impl Pair {
    /// Empties it, keeping the memory.
    pub fn clear(&mut self) {
        self.inputs.clear();
        self.targets.clear();
    }
}

/// Where a run's blocks lie in its token stream.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Seed of the run.
    pub seed: u64,
    /// Blocks in an epoch.
    pub per_epoch: u64,
    /// Sequences in a block.
    pub sequences: usize,
}

impl Blocks {
    /// First sequence of global block `block`.
    pub fn first_sequence(&self, block: u64) -> u64 {
        let (epoch, position) = (block / self.per_epoch, block % self.per_epoch);
        Permutation::new(self.seed, epoch, self.per_epoch).at(position) * self.sequences as u64
    }
}
