//! JSON lines with a bound, checked before memory is given to them.

use std::io::{BufRead, Read};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;

use crate::Reply;

/// Longest line of either side, without its line feed. Everything long passes through files.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Why a line is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line of more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error("a line that is no reply ({reason}): {start:?}")]
    NoReply { reason: String, start: String },
    #[error("{0}")]
    OutOfTurn(String),
    #[error("its output cannot be read ({0})")]
    Read(std::io::Error),
}

/// Reads replies until the output closes, the owner is gone, or a line is none.
pub(crate) async fn read_replies(
    output: impl AsyncRead + Unpin,
    to: mpsc::Sender<Result<Reply, LineError>>,
) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        let reply = match read_line_async(&mut output, &mut line).await {
            Ok(false) => return,
            Ok(true) if line.trim_ascii().is_empty() => continue,
            Ok(true) => parse(&line),
            Err(error) => Err(error),
        };
        let failed = reply.is_err();
        if to.send(reply).await.is_err() || failed {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Result<Reply, LineError> {
    serde_json::from_slice(line).map_err(|error| LineError::NoReply {
        reason: error.to_string(),
        start: String::from_utf8_lossy(line).chars().take(120).collect(),
    })
}

/// Reads one line without its end into `line`; false at the end of the output. What follows
/// the last line feed is no line: a writer that died in the middle of one said nothing.
async fn read_line_async(
    output: &mut BufReader<impl AsyncRead + Unpin>,
    line: &mut Vec<u8>,
) -> Result<bool, LineError> {
    line.clear();
    loop {
        let buffer = output.fill_buf().await.map_err(LineError::Read)?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let (part, ended) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (&buffer[..at], true),
            None => (buffer, false),
        };
        if line.len() + part.len() > MAX_LINE_BYTES {
            return Err(LineError::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(ended);
        output.consume(used);
        if ended {
            return Ok(true);
        }
    }
}

/// The trainer's side: reads one line of at most [`MAX_LINE_BYTES`] from its standard input
/// into `line`, without its end. False at the end of the input, which is when a trainer
/// exits.
///
/// # Errors
/// A read error, or `InvalidData` for a longer line.
pub fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let limit = MAX_LINE_BYTES as u64 + 1;
    let read = input.take(limit).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(true);
    }
    if read as u64 == limit {
        let message = format!("a line of more than {MAX_LINE_BYTES} bytes");
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            message,
        ));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_limit_is_read_and_a_longer_one_refused() {
        let mut text = vec![b'x'; MAX_LINE_BYTES];
        text.push(b'\n');
        let mut line = Vec::new();
        assert!(matches!(
            read_line(&mut text.as_slice(), &mut line),
            Ok(true)
        ));
        assert_eq!(line.len(), MAX_LINE_BYTES);
        text.insert(0, b'x');
        assert!(read_line(&mut text.as_slice(), &mut line).is_err());
    }

    #[test]
    fn a_line_without_an_end_is_none() {
        let mut line = Vec::new();
        let mut input: &[u8] = b"one\ntwo";
        assert!(matches!(read_line(&mut input, &mut line), Ok(true)));
        assert_eq!(line, b"one");
        assert!(matches!(read_line(&mut input, &mut line), Ok(false)));
    }
}
