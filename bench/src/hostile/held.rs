//! Connections that are held: half-open ones, and those over which everything is slow.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attacker::Attacker;
use super::tally::{Became, Must};

/// Half-open connections, about as many as three addresses may hold together.
const HALF_OPEN: usize = 3_000;
/// Opened before a pause, and that pause: 1,250 a second.
const BURST: usize = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// Slow connections.
const SLOW: usize = 240;
/// Between two bytes.
const DRIP: Duration = Duration::from_millis(200);

/// Opens thousands of connections, says nothing or half a word, and holds them.
pub async fn half_open(attacker: &Arc<Attacker>, until: Instant) {
    let mut held = Vec::with_capacity(HALF_OPEN);
    for number in 0..HALF_OPEN {
        let words: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\nHost: open",
            // What a client of TLS says first.
            _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        };
        match attacker.connect().await {
            Ok(mut stream) => {
                let wrote = stream.write_all(words).await;
                let became = wrote.map_or(Became::Closed, |()| Became::Silent);
                attacker.count("a half-open connection", Must::BeRefused, became);
                held.push(stream);
            }
            Err(_) => attacker.count("a half-open connection", Must::BeRefused, Became::Closed),
        }
        if number % BURST == BURST - 1 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    tokio::time::sleep_until(until).await;
}

/// Heads and bodies a byte at a time to all targets in turn, and answers that are not read.
pub async fn slow(attacker: &Arc<Attacker>, until: Instant) {
    let mut held = JoinSet::new();
    for number in 0..SLOW {
        let target = &attacker.targets[number / 3 % attacker.targets.len()];
        let (method, path) = (&target.method, &target.path);
        let line = format!("{method} {path} HTTP/1.1\r\nHost: opengpu\r\n");
        let (at_once, slowly) = match number % 3 {
            0 => (
                String::new(),
                format!("{line}X-Slow: {}", "a".repeat(8_000)),
            ),
            1 => {
                // Signed for another body: how could it know this one.
                let known = attacker.credentials(target, b"");
                let head = format!("{line}{known}Content-Length: 8000\r\n\r\n");
                (head, "[".repeat(8_000))
            }
            _ => {
                let request = "GET /openapi.json HTTP/1.1\r\nHost: opengpu\r\n\r\n";
                (request.repeat(100), String::new())
            }
        };
        let attacker = Arc::clone(attacker);
        held.spawn(async move {
            let Ok(mut stream) = attacker.connect().await else {
                attacker.count("a slow connection", Must::BeRefused, Became::Closed);
                return;
            };
            let mut wrote = stream.write_all(at_once.as_bytes()).await;
            for byte in slowly.bytes() {
                tokio::time::sleep(DRIP).await;
                if wrote.is_err() || Instant::now() >= until {
                    break;
                }
                wrote = stream.write_all(&[byte]).await;
            }
            let became = wrote.map_or(Became::Closed, |()| Became::Silent);
            attacker.count("a slow connection", Must::BeRefused, became);
            tokio::time::sleep_until(until).await;
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while held.join_next().await.is_some() {}
}
