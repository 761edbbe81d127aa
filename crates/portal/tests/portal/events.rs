//! The event stream, message by message.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use opengpu_portal::sample;
use opengpu_rounds::RunId;
use tower::ServiceExt;

use crate::{Fleet, get, portal};

/// An open stream.
struct Watching {
    chunks: axum::body::BodyDataStream,
    text: String,
}

impl Watching {
    async fn at(portal: &axum::Router, path: &str) -> Self {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = portal.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            chunks: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next message; None when the stream has ended.
    async fn message(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                return Some(std::mem::replace(&mut self.text, rest));
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.chunks.next()).await;
            let chunk = chunk.expect("a message or the end within a minute")?;
            self.text
                .push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }
}

fn fleet() -> Arc<Fleet> {
    Fleet::of(vec![sample::training_run(7), sample::hostile_run()])
}

#[tokio::test(start_paused = true)]
async fn the_first_messages_carry_everything() {
    let mut stream = Watching::at(&portal(&fleet()), "/runs/1/events").await;
    let parts = stream.message().await.unwrap();
    for id in ["summary", "workers", "rounds", "about", "curve-words"] {
        assert!(
            parts.contains(&format!("hx-target=\"#{id}\"")),
            "no {id} in {parts}"
        );
    }
    let points = stream.message().await.unwrap();
    assert!(points.starts_with("event: points\n"), "{points}");
    let json = points.split_once("data: ").unwrap().1.trim();
    let points: serde_json::Value = serde_json::from_str(json).unwrap();
    let x = points["x"].as_array().unwrap();
    assert_eq!(
        (x.len(), x[0].as_u64(), x[7].as_u64()),
        (8, Some(0), Some(7))
    );
    assert!(points["training"][0].is_null() && points["training"][1].is_f64());
    assert!(points["held_out"][0].is_f64() && points["held_out"][1].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_change_sends_only_the_parts_that_changed() {
    let fleet = fleet();
    let mut stream = Watching::at(&portal(&fleet), "/runs/1/events").await;
    stream.message().await.unwrap();
    stream.message().await.unwrap();
    fleet.change(|runs| runs[0].workers[0].name = "renamed".into());
    let message = stream.message().await.unwrap();
    assert!(
        message.contains("#workers") && message.contains("renamed"),
        "{message}"
    );
    assert!(
        !message.contains("#rounds") && !message.contains("#summary"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn many_changes_make_at_most_two_messages_a_second() {
    let fleet = fleet();
    let mut stream = Watching::at(&portal(&fleet), "/runs/1/events?show=summary").await;
    stream.message().await.unwrap();
    let changing = Arc::clone(&fleet);
    tokio::spawn(async move {
        for step in 0..1000u32 {
            changing.change(|runs| runs[0].explanation = format!("step {step}"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        changing.end();
    });
    let mut messages = 0;
    while stream.message().await.is_some() {
        messages += 1;
    }
    assert!(
        (15..=21).contains(&messages),
        "{messages} messages in 10 seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_told_of_is_seen_within_two_seconds() {
    let fleet = fleet();
    let mut stream = Watching::at(&portal(&fleet), "/runs/1/events?show=workers").await;
    stream.message().await.unwrap();
    fleet.runs.lock().unwrap()[0].workers[0].silent_ms = 60_000;
    let before = tokio::time::Instant::now();
    let message = stream.message().await.unwrap();
    assert!(message.contains("Silent"), "{message}");
    assert!(
        before.elapsed() <= Duration::from_secs(3),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_run_and_with_its_server() {
    let gone = fleet();
    let mut stream = Watching::at(&portal(&gone), "/runs/1/events?show=summary").await;
    stream.message().await.unwrap();
    gone.change(|runs| runs.retain(|run| run.run != RunId(1)));
    assert_eq!(stream.message().await, None);

    let ended = fleet();
    let mut stream = Watching::at(&portal(&ended), "/runs/1/events?show=summary").await;
    stream.message().await.unwrap();
    ended.end();
    assert_eq!(stream.message().await, None);

    let stopped = fleet();
    let mut stream = Watching::at(&portal(&stopped), "/runs/1/events?show=summary").await;
    stream.message().await.unwrap();
    stopped.stop();
    assert_eq!(stream.message().await, None);
}

#[tokio::test(start_paused = true)]
async fn hostile_words_cannot_forge_a_message_or_a_part() {
    let hostile = sample::hostile_run();
    let path = format!("/runs/{}/events", hostile.run);
    let mut stream = Watching::at(&portal(&fleet()), &path).await;
    let message = stream.message().await.unwrap();
    assert!(
        message
            .lines()
            .all(|line| line.is_empty() || line.starts_with("data:")),
        "{message}"
    );
    assert!(
        !message.contains("<script") && !message.contains("<img"),
        "{message}"
    );
    assert_eq!(message.matches("<hx-partial").count(), 5, "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_server_keeps_a_bounded_number_of_streams() {
    let portal = portal(&fleet());
    let mut open = Vec::new();
    for _ in 0..512 {
        open.push(Watching::at(&portal, "/runs/1/events").await);
    }
    let answer = get(&portal, "/runs/1/events").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer.body.contains("512 live pages are open"),
        "{}",
        answer.body
    );
    // One that is closed makes room for another.
    open.pop();
    Watching::at(&portal, "/runs/1/events").await;
}
