//! Reading tokens back: shards as one stream, of which only what is asked for is read, so
//! that a corpus larger than memory costs none.
//!
//! Shards may come from anywhere. Their sizes are checked when they are opened and each
//! token when it is read; the caller has checked their hashes. Files are read at a position
//! rather than mapped: a sequence is a few hundred bytes, and a file that shrinks under a
//! mapping would kill the process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Why tokens could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Tokens have 2 or 4 bytes.
    #[error("token_bytes is {token_bytes}; it must be 2 or 4")]
    TokenBytes {
        /// What was asked for.
        token_bytes: u8,
    },
    /// A shard could not be opened or read.
    #[error("cannot read the token shard {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A shard is cut in the middle of a token.
    #[error("the token shard {} has {bytes} bytes, no multiple of {token_bytes}", path.display())]
    CutToken {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Bytes in a token.
        token_bytes: u8,
    },
    /// The shards are not the ones that were announced.
    #[error("the token shards have {found} tokens in all, not {expected}; fetch them again")]
    WrongTotal {
        /// In the files.
        found: u64,
        /// Announced.
        expected: u64,
    },
    /// A read past the end.
    #[error("tokens {start} to {end} were asked for, and there are {tokens}")]
    PastTheEnd {
        /// First token.
        start: u64,
        /// One past the last token.
        end: u64,
        /// How many there are.
        tokens: u64,
    },
    /// A token that the model has not.
    #[error(
        "{}: token {at} is {token}, but the model's vocabulary has only {vocab_size} tokens; \
         use the tokenizer that belongs to the model", path.display()
    )]
    OutsideVocabulary {
        /// The shard.
        path: PathBuf,
        /// Its position in the shard.
        at: u64,
        /// The token.
        token: u32,
        /// The limit.
        vocab_size: usize,
    },
}

/// A stream of tokens.
#[derive(Debug)]
pub struct TokenStream {
    shards: Vec<Shard>,
    token_bytes: usize,
    tokens: u64,
    vocab_size: usize,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    /// Position of its first token in the stream.
    start: u64,
    tokens: u64,
}

impl TokenStream {
    /// Opens the shards, in order; together they must have exactly `tokens` tokens.
    pub fn open(files: &[PathBuf], token_bytes: u8, tokens: u64) -> Result<Self, StreamError> {
        if token_bytes != 2 && token_bytes != 4 {
            return Err(StreamError::TokenBytes { token_bytes });
        }
        let mut shards = Vec::with_capacity(files.len());
        let mut found = 0;
        for path in files {
            let failed = |source| StreamError::Read {
                path: path.clone(),
                source,
            };
            let file = File::open(path).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            if bytes % u64::from(token_bytes) != 0 {
                return Err(StreamError::CutToken {
                    path: path.clone(),
                    bytes,
                    token_bytes,
                });
            }
            let tokens = bytes / u64::from(token_bytes);
            shards.push(Shard {
                path: path.clone(),
                file,
                start: found,
                tokens,
            });
            found += tokens;
        }
        if found != tokens {
            return Err(StreamError::WrongTotal {
                found,
                expected: tokens,
            });
        }
        let token_bytes = usize::from(token_bytes);
        Ok(Self {
            shards,
            token_bytes,
            tokens,
            vocab_size: usize::MAX,
        })
    }

    /// Refuses tokens from `vocab_size` on when they are read.
    pub fn with_vocabulary(mut self, vocab_size: usize) -> Self {
        self.vocab_size = vocab_size;
        self
    }

    /// How many tokens there are.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Fills `out` with the tokens from position `start` on.
    pub fn read(&mut self, start: u64, out: &mut [u32]) -> Result<(), StreamError> {
        let end = start.saturating_add(out.len() as u64);
        if end > self.tokens {
            return Err(StreamError::PastTheEnd {
                start,
                end,
                tokens: self.tokens,
            });
        }
        for shard in &mut self.shards {
            let (from, to) = (start.max(shard.start), end.min(shard.start + shard.tokens));
            if from < to {
                let part = &mut out[(from - start) as usize..(to - start) as usize];
                shard.read(from - shard.start, self.token_bytes, self.vocab_size, part)?;
            }
        }
        Ok(())
    }
}

impl Shard {
    fn read(
        &mut self,
        first: u64,
        token_bytes: usize,
        vocab_size: usize,
        out: &mut [u32],
    ) -> Result<(), StreamError> {
        let mut bytes = vec![0; out.len() * token_bytes];
        self.file
            .seek(SeekFrom::Start(first * token_bytes as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| StreamError::Read {
                path: self.path.clone(),
                source,
            })?;
        if token_bytes == 2 {
            for (token, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *token = u32::from(u16::from_le_bytes(*bytes));
            }
        } else {
            for (token, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *token = u32::from_le_bytes(*bytes);
            }
        }
        let outside = out.iter().position(|&token| token as usize >= vocab_size);
        match outside {
            None => Ok(()),
            Some(found) => Err(StreamError::OutsideVocabulary {
                path: self.path.clone(),
                at: first + found as u64,
                token: out[found],
                vocab_size,
            }),
        }
    }
}

/// Sequences of `context` tokens in a stream: sequence `i` is the inputs `i × context ..
/// (i + 1) × context`, and its targets are the tokens one further, so that the last target
/// of one sequence is the first input of the next and every token but the first is predicted
/// exactly once.
pub fn sequences(tokens: u64, context: usize) -> u64 {
    tokens.saturating_sub(1) / (context as u64).max(1)
}

/// Blocks of `block_sequences` sequences in one epoch; what is left over at the end of the
/// stream is not trained on.
pub fn blocks_per_epoch(tokens: u64, context: usize, block_sequences: usize) -> u64 {
    sequences(tokens, context) / (block_sequences as u64).max(1)
}
