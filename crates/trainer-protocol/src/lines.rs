//! JSON lines with a bound, checked before memory is given to them.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;

use crate::Reply;

/// Longest reply, without its line feed. Everything long passes through files.
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
        let reply = match read_line(&mut output, &mut line).await {
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
async fn read_line(
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

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn lines_of(output: &[u8]) -> Result<Vec<Vec<u8>>, LineError> {
        let mut output = BufReader::new(output);
        let (mut line, mut lines) = (Vec::new(), Vec::new());
        while read_line(&mut output, &mut line).await? {
            lines.push(line.clone());
        }
        Ok(lines)
    }

    #[tokio::test]
    async fn a_line_of_the_limit_is_read_and_a_longer_one_refused() {
        let mut text = vec![b'x'; MAX_LINE_BYTES];
        text.extend(b"\nnext\n");
        let lines = lines_of(&text).await.unwrap();
        assert_eq!(lines[0].len(), MAX_LINE_BYTES);
        assert_eq!(lines[1], b"next");
        text.insert(0, b'x');
        assert!(matches!(lines_of(&text).await, Err(LineError::TooLong)));
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_none() {
        assert_eq!(lines_of(b"one\ntwo").await.unwrap(), [b"one"]);
    }
}
