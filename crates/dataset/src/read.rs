//! Reading the documents of one file as pieces of text of bounded size.
//!
//! A document is cut only where no word is cut ([`last_cut`]), so that its pieces can be
//! tokenised by themselves, on many threads, and give the tokens of the whole. Only where
//! there is no white space for [`LARGEST_PIECE`] bytes is the cut made anywhere between two
//! characters; it depends on the document alone, so the tokens are still the same each time.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;

use crate::DatasetError;
use crate::sources::{Kind, Source, read_error};
use crate::words::last_cut;

/// How much is read before a cut is looked for.
const PIECE_BYTES: u64 = 128 << 10;
/// A piece without white space ends here.
const LARGEST_PIECE: usize = 4 << 20;
/// Longest line of a .jsonl file.
const LONGEST_LINE: usize = 64 << 20;

/// A part of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) text: &'a str,
    /// Whether a document begins here.
    pub(crate) first: bool,
}

/// Takes pieces; may end the reading.
pub(crate) type Take<'t> = dyn FnMut(Piece<'_>) -> Result<ControlFlow<()>, DatasetError> + 't;

/// Reads all pieces of a file in order.
pub(crate) fn read(source: &Source, take: &mut Take<'_>) -> Result<ControlFlow<()>, DatasetError> {
    let file = File::open(&source.path).map_err(|error| read_error(&source.path, error))?;
    match source.kind {
        Kind::Text => read_text(&source.path, file, take),
        Kind::Lines => read_lines(&source.path, file, take),
    }
}

fn read_text(
    path: &Path,
    mut file: File,
    take: &mut Take<'_>,
) -> Result<ControlFlow<()>, DatasetError> {
    let mut buffer = Vec::new();
    let mut buffer_at = 0u64;
    let mut first = true;
    loop {
        let known = buffer.len();
        let mut part = (&mut file).take(PIECE_BYTES);
        let read = part
            .read_to_end(&mut buffer)
            .map_err(|error| read_error(path, error))?;
        let ended = read == 0;
        if let Some(zero) = buffer[known..].iter().position(|&byte| byte == 0) {
            let byte = buffer_at + (known + zero) as u64;
            return Err(DatasetError::Binary {
                path: path.to_owned(),
                byte,
            });
        }
        let text = valid_part(path, buffer_at, &buffer, ended)?;
        let cut = if ended || text.len() >= LARGEST_PIECE {
            text.len()
        } else {
            last_cut(text).unwrap_or(0)
        };
        if cut > 0 {
            if take(Piece {
                text: &text[..cut],
                first,
            })?
            .is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            first = false;
            buffer.drain(..cut);
            buffer_at += cut as u64;
        }
        if ended {
            return Ok(ControlFlow::Continue(()));
        }
    }
}

/// The text in `buffer`; the last character may still be incomplete unless the file `ended`.
fn valid_part<'b>(
    path: &Path,
    buffer_at: u64,
    buffer: &'b [u8],
    ended: bool,
) -> Result<&'b str, DatasetError> {
    let error = match std::str::from_utf8(buffer) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let valid = error.valid_up_to();
    if error.error_len().is_none() && !ended {
        // Validated a moment ago; the second look costs little and needs no `unsafe`.
        return Ok(std::str::from_utf8(&buffer[..valid]).unwrap_or_default());
    }
    Err(DatasetError::NotUtf8 {
        path: path.to_owned(),
        byte: buffer_at + valid as u64,
        value: buffer[valid],
    })
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

fn read_lines(
    path: &Path,
    file: File,
    take: &mut Take<'_>,
) -> Result<ControlFlow<()>, DatasetError> {
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut bytes = Vec::new();
    let mut line_at = 0u64;
    for line in 1u64.. {
        bytes.clear();
        let mut part = (&mut file).take(LONGEST_LINE as u64 + 1);
        let read = part
            .read_until(b'\n', &mut bytes)
            .map_err(|error| read_error(path, error))?;
        if read == 0 {
            break;
        }
        if read > LONGEST_LINE {
            let path = path.to_owned();
            return Err(DatasetError::LineTooLong {
                path,
                line,
                limit: LONGEST_LINE,
            });
        }
        let mut content = bytes.as_slice();
        let mut content_at = line_at;
        // Some editors put a byte-order mark at the start of a UTF-8 file.
        if let Some(rest) = content.strip_prefix(b"\xEF\xBB\xBF").filter(|_| line == 1) {
            content = rest;
            content_at += 3;
        }
        line_at += read as u64;
        if content.trim_ascii().is_empty() {
            continue;
        }
        let text = text_of(path, line, content_at, content)?;
        if !text.is_empty()
            && take(Piece {
                text: &text,
                first: true,
            })?
            .is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn text_of<'b>(
    path: &Path,
    line: u64,
    line_at: u64,
    content: &'b [u8],
) -> Result<Cow<'b, str>, DatasetError> {
    let content = valid_part(path, line_at, content, true)?;
    let error = match serde_json::from_str::<Record<'_>>(content) {
        Ok(record) => return Ok(record.text),
        Err(error) => error,
    };
    // The parser counts lines from the start of this line, which says nothing to a person.
    let reason = error.to_string();
    let reason = reason
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned();
    let path = path.to_owned();
    if error.is_data() {
        return Err(DatasetError::NoTextField {
            path,
            line,
            byte: line_at,
            reason,
        });
    }
    let byte = line_at + error.column().saturating_sub(1) as u64;
    Err(DatasetError::BadJson {
        path,
        line,
        byte,
        reason,
    })
}
