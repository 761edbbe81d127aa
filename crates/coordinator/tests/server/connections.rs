//! Who gets a connection, and for how long it may say nothing.

use std::time::Duration;

use opengpu_coordinator::{ConnectionSettings, LimitSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Server, key, offer};

async fn server(places: u32, head_seconds: u32) -> Server {
    let connections = ConnectionSettings {
        per_address: places.try_into().unwrap(),
        head_seconds: head_seconds.try_into().unwrap(),
        ..ConnectionSettings::default()
    };
    let home = tempfile::tempdir().unwrap();
    Server::start_with(home, |settings| {
        settings.limits = LimitSettings {
            connections,
            ..LimitSettings::default()
        };
    })
    .await
}

async fn half_open(server: &Server) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be closed already, for the next one.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost").await;
    stream
}

#[tokio::test]
async fn a_node_gets_in_and_keeps_its_stream_however_many_connections_are_half_open() {
    let server = server(8, 60).await;
    let (_, node) = server.enrol(&key(1), "attic").await;
    let mut plans = node.directives(Duration::from_secs(20)).await.unwrap();
    plans.next().await.unwrap().expect("a first plan");
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(half_open(&server).await);
    }
    let (_, newcomer) = server.enrol(&key(2), "cellar").await;
    newcomer.offer(0, &offer()).await.unwrap();
    node.offer(0, &offer()).await.unwrap();
    let next = plans.next().await.unwrap();
    assert!(next.is_some(), "the stream was cut");
    let metrics = server.metrics().await;
    assert!(
        metrics.contains("opengpu_connections_closed_total{code=\"made_room\"}"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_its_connection() {
    let server = server(100, 1).await;
    let mut stream = half_open(&server).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer));
    // Closed or reset, without a word.
    let _ = read.await.expect("it is closed");
    assert!(answer.is_empty(), "{answer:?}");
    let metrics = server.metrics().await;
    assert!(
        metrics.contains("opengpu_connections_closed_total{code=\"late\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_server_that_stops_waits_for_no_silent_connection() {
    let mut server = server(100, 60).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    server.operator().nodes().await.unwrap();
    server.stop().await;
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}
