//! All text of a dataset in a fixed order, and its two parts.
//!
//! The held-out part is the end of the text: a twentieth of all bytes, rounded down, begun
//! at the character that the first of them belongs to. It is the end and not a sample, so
//! that no sentence of it has neighbours in the training part.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use crate::read::{Piece, Take, read};
use crate::sources::{Source, find};
use crate::{DatasetError, Progress, Stage};

/// Held out is one byte in so many.
pub const HELD_OUT_ONE_IN: u64 = 20;

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Training,
    HeldOut,
}

/// Files that were read once and found to be good.
#[derive(Debug)]
pub(crate) struct Corpus {
    sources: Vec<(Source, u64)>,
    pub(crate) text_bytes: u64,
    pub(crate) documents: u64,
}

impl Corpus {
    /// Reads everything once: whatever is wrong is found before work is put into it.
    pub(crate) fn open(
        inputs: &[PathBuf],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DatasetError> {
        let found = find(inputs)?;
        let of = found.iter().map(|source| source.file_bytes).sum();
        let mut corpus = Self {
            sources: Vec::new(),
            text_bytes: 0,
            documents: 0,
        };
        let mut done = 0;
        for source in found {
            let mut text_bytes = 0;
            let _ended = read(&source, &mut |piece| {
                text_bytes += piece.text.len() as u64;
                corpus.documents += u64::from(piece.first);
                let done = done + text_bytes.min(source.file_bytes);
                progress(Progress {
                    stage: Stage::Read,
                    done,
                    of,
                });
                Ok(ControlFlow::Continue(()))
            })?;
            done += source.file_bytes;
            if text_bytes == 0 && source.named {
                return Err(DatasetError::Empty { path: source.path });
            }
            corpus.text_bytes += text_bytes;
            corpus.sources.push((source, text_bytes));
        }
        if corpus.text_bytes == 0 {
            let path = inputs.first().cloned().unwrap_or_default();
            return Err(DatasetError::Empty { path });
        }
        Ok(corpus)
    }

    /// The bytes of a part, before they are moved to a character.
    pub(crate) fn range(&self, part: Part) -> Range<u64> {
        let boundary = self.text_bytes - self.text_bytes / HELD_OUT_ONE_IN;
        match part {
            Part::Training => 0..boundary,
            Part::HeldOut => boundary..self.text_bytes,
        }
    }

    /// Reads a part again, piece by piece.
    pub(crate) fn visit(&self, part: Part, take: &mut Take<'_>) -> Result<(), DatasetError> {
        let range = self.range(part);
        let mut source_at = 0;
        for (source, text_bytes) in &self.sources {
            let source_range = source_at..source_at + text_bytes;
            source_at = source_range.end;
            if source_range.end <= range.start || source_range.is_empty() {
                continue;
            }
            if source_range.start >= range.end {
                break;
            }
            let mut at = source_range.start;
            let flow = read(source, &mut |piece| {
                let piece_range = at..at + piece.text.len() as u64;
                at = piece_range.end;
                if at > source_range.end {
                    return Err(changed(source));
                }
                match within(piece, &piece_range, &range) {
                    Some(piece) => take(piece),
                    None if piece_range.start >= range.end => Ok(ControlFlow::Break(())),
                    None => Ok(ControlFlow::Continue(())),
                }
            })?;
            if flow.is_break() {
                break;
            }
            if at != source_range.end {
                return Err(changed(source));
            }
        }
        Ok(())
    }
}

fn changed(source: &Source) -> DatasetError {
    DatasetError::Changed {
        path: source.path.clone(),
    }
}

/// What of a piece lies in a part.
fn within<'a>(piece: Piece<'a>, at: &Range<u64>, part: &Range<u64>) -> Option<Piece<'a>> {
    let cut = |byte: u64| {
        let inside = byte.saturating_sub(at.start).min(piece.text.len() as u64);
        piece.text.floor_char_boundary(inside as usize)
    };
    let (start, end) = (cut(part.start), cut(part.end));
    let first = piece.first && start == 0;
    (start < end).then(|| Piece {
        text: &piece.text[start..end],
        first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_inside_a_character_moves_before_it() {
        let piece = Piece {
            text: "aé水z",
            first: true,
        };
        // a 0, é 1..3, 水 3..6, z 6.
        for (boundary, training, held_out) in [
            (0, "", "aé水z"),
            (1, "a", "é水z"),
            (2, "a", "é水z"),
            (3, "aé", "水z"),
            (5, "aé", "水z"),
            (6, "aé水", "z"),
            (7, "aé水z", ""),
        ] {
            let text = |range| within(piece, &(10..17), &range).map_or("", |piece| piece.text);
            assert_eq!(text(0..10 + boundary), training, "boundary {boundary}");
            assert_eq!(text(10 + boundary..17), held_out, "boundary {boundary}");
        }
    }
}
