//! Lines out of a stream that arrives in pieces.

/// Gives out whole lines, however the stream was cut. Holds one piece and one line at most.
#[derive(Debug)]
pub struct Lines {
    longest: usize,
    unread: Vec<u8>,
    /// So many bytes of `unread` were given out.
    given: usize,
    /// So many bytes of `unread` have no newline that was not given out: a stream of tiny pieces
    /// is not searched from its line's start for each of them.
    searched: usize,
}

/// A line is longer than those that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong;

impl Lines {
    /// Lines of at most `longest` bytes, without the newline.
    pub fn new(longest: usize) -> Self {
        Self {
            longest,
            unread: Vec::new(),
            given: 0,
            searched: 0,
        }
    }

    /// Takes what arrived.
    pub fn push(&mut self, piece: &[u8]) {
        self.unread.drain(..self.given);
        self.searched -= self.given;
        self.given = 0;
        self.unread.extend_from_slice(piece);
    }

    /// The next line that is there to its end, without its newline. Lines of white space are
    /// signs of life, and passed over.
    pub fn take_line(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        loop {
            let new = &self.unread[self.searched..];
            let Some(at) = new.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.unread.len();
                return match self.searched - self.given > self.longest {
                    true => Err(LineTooLong),
                    false => Ok(None),
                };
            };
            let (start, end) = (self.given, self.searched + at);
            if end - start > self.longest {
                return Err(LineTooLong);
            }
            (self.given, self.searched) = (end + 1, end + 1);
            if !self.unread[start..end].trim_ascii().is_empty() {
                return Ok(Some(&self.unread[start..end]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LineTooLong, Lines};

    /// What comes of a stream that arrives in pieces of so many bytes.
    fn read(stream: &[u8], piece: usize) -> (Vec<String>, Option<LineTooLong>) {
        let mut lines = Lines::new(5);
        let mut read = Vec::new();
        for piece in stream.chunks(piece) {
            lines.push(piece);
            loop {
                match lines.take_line() {
                    Ok(Some(line)) => read.push(String::from_utf8_lossy(line).into_owned()),
                    Ok(None) => break,
                    Err(error) => return (read, Some(error)),
                }
            }
        }
        (read, None)
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        for piece in 1..20 {
            let (lines, error) = read(b"one\n\n \ntwo\r\nfive5\nunended", piece);
            assert_eq!(lines, ["one", "two\r", "five5"], "in pieces of {piece}");
            // The rest is too long already, though its newline is not there.
            assert_eq!(error, Some(LineTooLong));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_however_the_stream_is_cut() {
        for piece in 1..20 {
            let (lines, error) = read(b"one\nsixsix\ntwo\n", piece);
            assert_eq!((lines.len(), error), (1, Some(LineTooLong)));
        }
    }
}
