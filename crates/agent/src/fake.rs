//! For tests: a coordinator of a few lines, which answers as it is told and remembers what it
//! was asked.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a coordinator was asked, in order: method, path and body.
pub(crate) type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// Starts a coordinator. `answer` gives status and JSON for a method and path; one connection
/// serves one request.
pub(crate) async fn coordinator(
    answer: impl Fn(&str) -> (u16, &'static str) + Send + 'static,
) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut line, _)) = listener.accept().await {
            let (head, body) = read(&mut line).await;
            let what = head.lines().next().unwrap_or_default();
            let what = what.trim_end_matches(" HTTP/1.1").to_owned();
            let (status, json) = answer(&what);
            log.lock().unwrap().push((what, body));
            let length = json.len();
            let text = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{json}"
            );
            line.write_all(text.as_bytes()).await.unwrap();
        }
    });
    (address, asked)
}

/// A request's head and body.
async fn read(line: &mut TcpStream) -> (String, String) {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return (head.to_owned(), body.to_owned());
            }
        }
        let mut piece = [0; 4096];
        let read = line.read(&mut piece).await.unwrap();
        assert!(read > 0, "the request broke off: {text}");
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
}
