//! The stream of plans, cut into lines: what a coordinator sends to an agent for as long as that
//! runs.
//!
//! First byte: in pieces of how many bytes the rest arrives. Second byte: the longest line.
//! However the stream is cut, the lines are the same, and no more than a piece and a line is held.

#![no_main]

use opengpu_fuzz::{Seed, within};
use opengpu_protocol::client::{LineTooLong, Lines};
use opengpu_protocol::wire::Plan;

opengpu_fuzz::target!(seeds, attempt);

fn seeds() -> Vec<Seed> {
    let streams: [&[u8]; 4] = [
        b"{\"node\":2,\"workers\":[]}\n\n{\"node\":3,\"draining\":true,\"workers\":[]}\n",
        b"\n \n\r\n{}\n",
        b"none that ends",
        b"",
    ];
    let mut seeds = Vec::new();
    for (number, stream) in streams.into_iter().enumerate() {
        for [piece, longest] in [[1, 255], [7, 40], [200, 2], [0, 0]] {
            let name = format!("stream-{number}-{piece}-{longest}");
            seeds.push((name, [&[piece, longest], stream].concat()));
        }
    }
    seeds
}

fn attempt(bytes: &[u8]) {
    let Some((&[piece, longest], stream)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let (piece, longest) = (usize::from(piece) + 1, usize::from(longest));
    let (lines, refused) = read(stream, piece, longest);
    for line in &lines {
        assert!(line.len() <= longest && !line.contains(&b'\n') && !line.trim_ascii().is_empty());
        let _ = serde_json::from_slice::<Plan>(line);
    }

    // What the stream says, told without a buffer.
    let mut parts: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let whole = parts.iter().position(|part| part.len() > longest);
    parts.truncate(whole.unwrap_or(parts.len() - 1));
    parts.retain(|part| !part.trim_ascii().is_empty());
    assert_eq!(lines, parts);
    assert_eq!(refused.is_some(), whole.is_some());
}

fn read(stream: &[u8], piece: usize, longest: usize) -> (Vec<Vec<u8>>, Option<LineTooLong>) {
    let mut lines = Lines::new(longest);
    let mut read = Vec::new();
    for piece in stream.chunks(piece) {
        // A buffer grows by doubling, and is held twice while it does.
        within(4 * (piece.len() + longest) + 64, || lines.push(piece));
        loop {
            match within(0, || lines.take_line()) {
                Ok(Some(line)) => read.push(line.to_vec()),
                Ok(None) => break,
                Err(error) => return (read, Some(error)),
            }
        }
    }
    (read, None)
}
