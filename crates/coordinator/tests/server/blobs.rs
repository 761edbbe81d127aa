//! Blobs over HTTP: parts, manifests, and who may read what.

use bytes::Bytes;
use opengpu_protocol::Client;
use opengpu_rounds::Hash;
use reqwest::header;

use super::support::{Server, code, key, spec};
use super::worker::Worker;

#[tokio::test]
async fn a_part_of_a_blob_is_what_was_asked_for_and_a_wrong_part_is_refused() {
    let server = Server::start().await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    let hash = server
        .operator()
        .upload_blob(Bytes::from(bytes.clone()))
        .await
        .unwrap();
    let token = std::fs::read_to_string(server.home.path().join("operator.token")).unwrap();
    let get = |range: &'static str| {
        reqwest::Client::new()
            .get(format!("{}/v1/blobs/{hash}", server.url))
            .bearer_auth(token.trim())
            .header(header::RANGE, range)
            .send()
    };
    let part = get("bytes=2000000-").await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(
        part.headers()[header::CONTENT_RANGE],
        "bytes 2000000-2999999/3000000"
    );
    assert_eq!(part.bytes().await.unwrap(), &bytes[2_000_000..]);
    assert_eq!(
        get("bytes=5-9").await.unwrap().bytes().await.unwrap(),
        &bytes[5..10]
    );
    let beyond = get("bytes=3000000-").await.unwrap();
    assert_eq!(
        (
            beyond.status().as_u16(),
            beyond.headers()[header::CONTENT_RANGE].to_str().unwrap()
        ),
        (416, "bytes */3000000")
    );

    let manifest = server
        .operator()
        .blob_manifest(hash, 1 << 30)
        .await
        .unwrap();
    let expected: Vec<Hash> = bytes.chunks(1 << 20).map(Hash::of).collect();
    assert_eq!((manifest.bytes, manifest.chunks), (3_000_000, expected));
    assert_eq!(server.operator().blob(hash, 1 << 30).await.unwrap(), bytes);
}

#[tokio::test]
async fn bytes_under_a_wrong_name_are_not_stored() {
    let server = Server::start().await;
    let token = std::fs::read_to_string(server.home.path().join("operator.token")).unwrap();
    let wrong = Hash::of(b"something else");
    let answer = reqwest::Client::new()
        .put(format!("{}/v1/blobs/{wrong}", server.url))
        .bearer_auth(token.trim())
        .body("something")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 422);
    assert_eq!(
        code(server.operator().blob(wrong, 1 << 20).await),
        "unknown_blob"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_read_what_their_runs_publish_and_nobodys_payload() {
    let server = Server::start().await;
    let dataset = server.dataset("noise", 512).await;
    let secret = server
        .operator()
        .upload_blob(Bytes::from_static(b"not for nodes"))
        .await
        .unwrap();
    let run = server.start_run(&spec("first", "noise", 2, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    worker
        .work_until(run, |view| view.revision.number >= 1)
        .await;
    let (_, stranger) = server.enrol(&key(9), "stranger").await;
    stranger
        .blob(dataset.training.shards[0].hash, 1 << 20)
        .await
        .unwrap();
    assert_eq!(code(stranger.blob(secret, 1 << 20).await), "unknown_blob");
    assert_eq!(
        code(
            stranger
                .blob(dataset.held_out.shards[0].hash, 1 << 20)
                .await
        ),
        "unknown_blob"
    );
    let payload = server
        .operator()
        .log(run, 0)
        .await
        .unwrap()
        .into_iter()
        .find_map(|entry| match entry.event.kind {
            opengpu_rounds::EventKind::UpdateAccepted { payload, .. } => Some(payload),
            _ => None,
        });
    let payload = payload.unwrap();
    assert_eq!(code(stranger.blob(payload, 1 << 20).await), "unknown_blob");
    assert_eq!(
        code(worker.client.blob(payload, 1 << 20).await),
        "unknown_blob"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_taken_for_open_assignments_alone_and_only_so_many() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let run = server.start_run(&spec("first", "noise", 2, 1)).await;
    let mut worker = Worker::join(&server, 1).await;
    let (_, stranger) = server.enrol(&key(9), "stranger").await;
    let send = async |client: &Client, body: &'static [u8]| {
        let sent = client.put_payload(run, Hash::of(body), Bytes::from_static(body));
        code(sent.await)
    };
    assert_eq!(send(&worker.client, b"junk").await, "no_lease");
    worker.wait_for_assignment().await;
    assert_eq!(send(&stranger, b"junk").await, "no_lease");
    assert_eq!(send(&worker.client, b"junk").await, "bad_payload");
    let long = Bytes::from(vec![0; 50_000_000]);
    let sent = worker.client.put_payload(run, Hash::of(&long), long).await;
    assert_eq!(code(sent), "too_large");
    // What was signed is the hash of the body, and so must the address name it.
    let (other, junk) = (Hash::of(b"other"), Bytes::from_static(b"junk"));
    let sent = worker.client.put_payload(run, other, junk).await;
    assert_eq!(code(sent), "bad_signature");
    for body in [b"junk 3", b"junk 4", b"junk 5"] {
        assert_eq!(send(&worker.client, body).await, "bad_payload");
    }
    assert_eq!(send(&worker.client, b"junk 6").await, "too_many_requests");
}
