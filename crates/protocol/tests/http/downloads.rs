use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path as Segment;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use opengpu_protocol::wire::BlobManifest;
use opengpu_protocol::{CHUNK_BYTES, Client, ClientError, Download};
use opengpu_rounds::Hash;

use crate::server::{refuse, serve};

/// What a server does with one request for a blob, given the bytes asked for.
type Fault = fn(u32, Bytes) -> Body;

struct Blobs {
    server: String,
    hash: Hash,
    blob: Bytes,
    /// First byte of each request.
    asked: Arc<Mutex<Vec<u64>>>,
}

async fn blobs(bytes: usize, manifest: Option<BlobManifest>, fault: Fault) -> Blobs {
    let blob: Bytes = (0..bytes)
        .map(|i| ((i as u64 * 2_654_435_761) >> 13) as u8)
        .collect();
    let hash = Hash::of(&blob);
    let manifest = manifest.unwrap_or_else(|| BlobManifest::of(&blob));
    let asked: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (served, log, count) = (blob.clone(), asked.clone(), Arc::new(AtomicU32::new(0)));
    let whole = move |Segment(_): Segment<String>, headers: HeaderMap| async move {
        let range = headers
            .get("range")
            .map(|range| range.to_str().unwrap().to_owned());
        let from = range.map_or(0, |range| {
            range
                .trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse()
                .unwrap()
        });
        log.lock().unwrap().push(from);
        let status = if from > 0 {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        let body = fault(
            count.fetch_add(1, Ordering::SeqCst),
            served.slice(from as usize..),
        );
        (status, body).into_response()
    };
    let described = move || async move { axum::Json(manifest).into_response() };
    let routes = Router::new()
        .route("/v1/blobs/{hash}", get(whole))
        .route("/v1/blobs/{hash}/manifest", get(described));
    Blobs {
        server: serve(routes).await,
        hash,
        blob,
        asked,
    }
}

impl Blobs {
    async fn download(&self, path: &Path, limit: u64) -> Result<u64, ClientError> {
        let client = Client::anonymous(&self.server).unwrap();
        let stall = Duration::from_millis(400);
        let download = Download {
            stall,
            ..Download::new(self.hash, path, limit)
        };
        let last = Mutex::new(0);
        let progress = |done, of| {
            let mut last = last.lock().unwrap();
            assert!(done >= *last && done <= of);
            *last = done;
        };
        download.run(&client, &progress).await
    }
}

fn pieces(bytes: Bytes, then: Option<std::io::Error>) -> Body {
    let pieces: Vec<_> = bytes.chunks(100_000).map(Bytes::copy_from_slice).collect();
    let pieces = pieces.into_iter().map(Ok).chain(then.map(Err));
    Body::from_stream(futures::stream::iter(pieces.collect::<Vec<_>>()))
}

#[tokio::test]
async fn a_blob_arrives_whole() {
    for bytes in [0, 1, CHUNK_BYTES as usize, 3 * CHUNK_BYTES as usize + 17] {
        let blobs = blobs(bytes, None, |_, bytes| pieces(bytes, None)).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        assert_eq!(
            blobs.download(&path, bytes as u64).await.unwrap(),
            bytes as u64
        );
        assert_eq!(std::fs::read(&path).unwrap(), blobs.blob);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_the_last_whole_mib_ended() {
    let cut: Fault = |attempt, bytes| match attempt {
        0 => pieces(
            bytes.slice(..2_500_000),
            Some(std::io::Error::other("cable pulled")),
        ),
        _ => pieces(bytes, None),
    };
    let blobs = blobs(5_000_000, None, cut).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    blobs.download(&path, 5_000_000).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), blobs.blob);
    assert_eq!(*blobs.asked.lock().unwrap(), [0, 2 * CHUNK_BYTES]);
}

#[tokio::test]
async fn a_stalled_download_is_noticed_and_goes_on() {
    let stall: Fault = |attempt, bytes| match attempt {
        0 => {
            let first = futures::stream::iter([Ok::<_, std::io::Error>(bytes.slice(..1_200_000))]);
            let never = futures::stream::pending();
            Body::from_stream(futures::StreamExt::chain(first, never))
        }
        _ => pieces(bytes, None),
    };
    let blobs = blobs(3_000_000, None, stall).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    blobs.download(&path, 3_000_000).await.unwrap();
    assert_eq!(*blobs.asked.lock().unwrap(), [0, CHUNK_BYTES]);
}

#[tokio::test]
async fn what_an_earlier_process_left_is_used_as_far_as_it_is_right() {
    let blobs = blobs(4_000_000, None, |_, bytes| pieces(bytes, None)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    let mut left = blobs.blob[..3_500_000].to_vec();
    left[1_500_000] ^= 1;
    std::fs::write(folder.path().join("blob.partial"), left).unwrap();
    blobs.download(&path, 4_000_000).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), blobs.blob);
    assert_eq!(*blobs.asked.lock().unwrap(), [CHUNK_BYTES]);
}

#[tokio::test]
async fn damaged_bytes_are_fetched_again_and_never_kept() {
    let damage: Fault = |attempt, bytes| {
        let mut bytes = bytes.to_vec();
        if attempt == 0 {
            bytes[1_100_000] ^= 0x10;
        }
        pieces(bytes.into(), None)
    };
    let blobs = blobs(2_500_000, None, damage).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    blobs.download(&path, 2_500_000).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), blobs.blob);
    assert_eq!(*blobs.asked.lock().unwrap(), [0, CHUNK_BYTES]);
}

#[tokio::test]
async fn a_manifest_of_other_bytes_is_found_out_at_the_end() {
    let other = vec![5; 1_500_000];
    let lie: Fault = |_, bytes| Body::from(vec![5; bytes.len()]);
    let blobs = blobs(1_500_000, Some(BlobManifest::of(&other)), lie).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    let error = blobs.download(&path, 1_500_000).await.unwrap_err();
    assert!(matches!(error, ClientError::WrongBytes { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn more_bytes_than_expected_are_refused_before_any_is_fetched() {
    let blobs = blobs(2_000_000, None, |_, bytes| pieces(bytes, None)).await;
    let folder = tempfile::tempdir().unwrap();
    let error = blobs
        .download(&folder.path().join("blob"), 1_999_999)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("2000000 bytes"), "{error}");
    assert!(blobs.asked.lock().unwrap().is_empty());
    let manifest = BlobManifest {
        bytes: 10,
        chunks: vec![Hash([0; 32]); 3],
    };
    assert!(manifest.check(100).is_err());
    let client = Client::anonymous(&blobs.server).unwrap();
    let error = client.blob(blobs.hash, 1_999_999).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
    assert_eq!(
        client.blob(blobs.hash, 2_000_000).await.unwrap(),
        blobs.blob
    );
}

#[tokio::test]
async fn a_blob_that_is_gone_is_a_final_refusal() {
    let gone = || async { refuse(StatusCode::NOT_FOUND, "unknown_blob") as Response };
    let server = serve(Router::new().fallback(gone)).await;
    let client = Client::anonymous(&server).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let download = Download::new(Hash([1; 32]), folder.path().join("blob"), 100);
    let error = download.run(&client, &|_, _| ()).await.unwrap_err();
    assert_eq!(error.code(), Some("unknown_blob"));
}
