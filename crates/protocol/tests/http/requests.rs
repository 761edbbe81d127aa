use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use opengpu_protocol::operator::TokenRequest;
use opengpu_protocol::wire::{Offered, Plan};
use opengpu_protocol::{Client, ClientError, ReplayWindow, wire};
use opengpu_rounds::{NodeId, RunId, WorkerId};

use crate::server::{Gate, key, parts, refuse, serve};

fn offer() -> wire::Offer {
    wire::Offer {
        trainer: "t".to_owned(),
        device: "d".to_owned(),
        numerics_class: "n".to_owned(),
    }
}

fn worker() -> Response {
    axum::Json(Offered {
        worker: WorkerId(7),
    })
    .into_response()
}

#[tokio::test]
async fn a_signed_client_mends_its_clock_and_its_counter_by_itself() {
    // The coordinator's clock is two hours ahead and its floor far above any clock.
    let unix_ms = u64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
        + 7_200_000;
    let floor = unix_ms * 1000 + 60_000_000;
    let window = Arc::new(Mutex::new(ReplayWindow::above(floor)));
    let gate = Gate { unix_ms, window };
    let refusals = Arc::new(AtomicU32::new(0));
    let refused = refusals.clone();
    let handler = move |request: Request| async move {
        let (method, uri, headers, body) = parts(request).await;
        match gate.admit(&method, &uri, &headers, &body) {
            Ok(signed) => {
                assert_eq!(signed.node, NodeId(3));
                worker()
            }
            Err(response) => {
                refused.fetch_add(1, Ordering::SeqCst);
                *response
            }
        }
    };
    let server = serve(Router::new().route("/v1/workers/{device}", put(handler))).await;
    let client = Client::node(&server, key(), NodeId(3)).unwrap();
    assert_eq!(client.offer(0, &offer()).await.unwrap().worker, WorkerId(7));
    assert_eq!(
        refusals.load(Ordering::SeqCst),
        2,
        "once for the clock, once for the counter"
    );
    // From now on it knows; many at once overtake each other and are all admitted.
    let many = (0..50).map(|device| {
        let client = client.clone();
        tokio::spawn(async move { client.offer(device, &offer()).await })
    });
    for one in many.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    assert_eq!(refusals.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_that_is_starting_is_asked_again_and_a_refusal_is_final() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let starting = move || async move {
        match counter.fetch_add(1, Ordering::SeqCst) {
            0 => refuse(StatusCode::SERVICE_UNAVAILABLE, "starting"),
            1 => refuse(StatusCode::TOO_MANY_REQUESTS, "busy"),
            _ => refuse(StatusCode::NOT_FOUND, "unknown_run"),
        }
    };
    let server = serve(Router::new().route("/v1/runs/{run}", get(starting))).await;
    let client = Client::operator(&server, "token").unwrap();
    let error = client.run(RunId(4)).await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(
        (error.status(), error.code()),
        (Some(404), Some("unknown_run"))
    );
    assert!(error.is_final());
    assert_eq!(
        error.to_string(),
        "could not look at run 4: unknown_run it is (unknown_run, HTTP 404)"
    );
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_sent_once() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let handler = move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
        refuse(StatusCode::SERVICE_UNAVAILABLE, "starting")
    };
    let server = serve(Router::new().route("/v1/tokens", post(handler))).await;
    let client = Client::operator(&server, "token").unwrap();
    let request = TokenRequest {
        label: "test".into(),
        uses: 1,
        expires_in_seconds: None,
    };
    assert!(client.make_token(&request).await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::anonymous(&address).unwrap();
    assert!(!client.is_ready().await);
    let error = client.hello("test").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(!error.is_final());
    assert!(error.to_string().contains(&address), "{error}");
}

#[test]
fn what_is_no_address_is_refused_before_anything_is_sent() {
    for bad in [
        "",
        "localhost:80",
        "ftp://h",
        "http://h/path",
        "http://h?x=1",
        "http://",
    ] {
        let error = Client::anonymous(bad).unwrap_err();
        assert!(matches!(error, ClientError::BadAddress { .. }), "{bad:?}");
    }
    for good in [
        "http://127.0.0.1:1",
        "http://127.0.0.1:1/",
        " https://h.example ",
    ] {
        assert!(!Client::anonymous(good).unwrap().server().ends_with('/'));
    }
}

#[tokio::test]
async fn plans_arrive_whole_however_the_stream_is_cut_and_silence_ends_it() {
    let plan = Plan {
        node: NodeId(3),
        draining: true,
        pending: false,
        standing: None,
        no_work: None,
        workers: Vec::new(),
    };
    let line = format!("{}\n", serde_json::to_string(&plan).unwrap());
    let handler = move || async move {
        let bytes = format!("\n{line}{line}").into_bytes();
        let pieces = futures::stream::unfold((bytes, 0), |(bytes, at)| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let end = (at + 5).min(bytes.len());
            if at == end {
                std::future::pending::<()>().await;
            }
            let piece = bytes[at..end].to_vec();
            Some((Ok::<_, std::io::Error>(piece), (bytes, end)))
        });
        Body::from_stream(pieces).into_response()
    };
    let server = serve(Router::new().route("/v1/directives", get(handler))).await;
    let client = Client::node(&server, key(), NodeId(3)).unwrap();
    let mut directives = client.directives(Duration::from_millis(500)).await.unwrap();
    assert_eq!(directives.next().await.unwrap(), Some(plan.clone()));
    assert_eq!(directives.next().await.unwrap(), Some(plan));
    let error = directives.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Stalled { .. }), "{error}");
}
