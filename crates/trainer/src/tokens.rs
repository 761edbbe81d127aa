//! The sequences of a block, and batches of them.

use opengpu_dataset::{Permutation, TokenStream};
use opengpu_trainer_protocol::TokenFiles;

use crate::error::Result;

/// Opens all shards; refuses a stream that is not as long as it says.
pub fn open_tokens(files: &TokenFiles, vocabulary: usize) -> Result<TokenStream> {
    let stream = TokenStream::open(&files.files, files.token_bytes, files.tokens)?;
    Ok(stream.with_vocabulary(vocabulary))
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

    /// Appends `length` inputs from place `start` of the stream and, shifted by one, their
    /// targets.
    pub fn push(&mut self, tokens: &mut TokenStream, start: u64, length: usize) -> Result<()> {
        let mut sequence = vec![0; length + 1];
        tokens.read(start, &mut sequence)?;
        self.inputs.extend_from_slice(&sequence[..length]);
        self.targets.extend_from_slice(&sequence[1..]);
        Ok(())
    }
}

/// The token that ends a document; the next one begins with it.
const END_OF_TEXT: u32 = opengpu_dataset::END_OF_TEXT_ID;

/// For each token of sequences of `length`, the first place of its sequence that belongs to
/// the same document.
pub fn first_visible(tokens: &[u32], length: usize) -> Vec<u32> {
    let mut first = Vec::with_capacity(tokens.len());
    for sequence in tokens.chunks(length) {
        let mut from = 0;
        for (place, &token) in sequence.iter().enumerate() {
            if token == END_OF_TEXT {
                from = place as u32;
            }
            first.push(from);
        }
    }
    first
}

/// Which sequences of a token stream a run's blocks are.
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
    /// The sequences of global block `block`, in order. They come from all over the stream:
    /// neighbours are alike, and a batch of them would say little more than one of them.
    pub fn sequences_of(&self, block: u64) -> impl Iterator<Item = u64> {
        let (epoch, position) = (block / self.per_epoch, block % self.per_epoch);
        let sequences = self.sequences as u64;
        let order = Permutation::new(self.seed, epoch, self.per_epoch * sequences);
        (position * sequences..(position + 1) * sequences).map(move |place| order.at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_begins_with_the_end_of_the_one_before_and_a_sequence_anew() {
        let tokens = [5, 6, 0, 7, 8, 0, 0, 9, 3, 4];
        assert_eq!(first_visible(&tokens, 5), [0, 0, 2, 2, 2, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn an_epoch_of_blocks_has_every_sequence_once_and_no_block_is_a_stretch_of_text() {
        let blocks = Blocks {
            seed: 7,
            per_epoch: 25,
            sequences: 8,
        };
        for epoch in 0..3 {
            let mut seen: Vec<u64> = (epoch * 25..(epoch + 1) * 25)
                .flat_map(|block| blocks.sequences_of(block))
                .collect();
            let neighbours = seen.windows(2).filter(|pair| pair[0] + 1 == pair[1]);
            assert!(neighbours.count() < 10);
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..200));
        }
        assert_ne!(
            blocks.sequences_of(0).collect::<Vec<_>>(),
            blocks.sequences_of(25).collect::<Vec<_>>()
        );
    }
}
