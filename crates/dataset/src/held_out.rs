//! The held-out text itself, for those who want to hold a model against something else.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::DatasetError;
use crate::corpus::{Corpus, Part};

/// The held-out text of these inputs, but no more than its first `limit` bytes.
pub fn held_out_text(inputs: &[PathBuf], limit: usize) -> Result<Vec<u8>, DatasetError> {
    let corpus = Corpus::open(inputs, &mut |_| ())?;
    let mut text = Vec::new();
    corpus.visit(Part::HeldOut, &mut |piece| {
        text.extend_from_slice(piece.text.as_bytes());
        Ok(match text.len() >= limit {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    text.truncate(limit);
    Ok(text)
}
