//! A process that is killed while it writes: all that it was told is stored is stored.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use opengpu_coordinator::{blobs::Blobs, store::Store};
use opengpu_rounds::{EventKind, Hash, RunId};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Database,
    samples::{accepted, marked, new_run},
};

/// What a child works on: the database's address, or the blobs' folder.
const CHILD: &str = "OPENGPU_TEST_CHILD";
const CHILD_RUN: &str = "OPENGPU_TEST_CHILD_RUN";
const KILLS: u64 = 5;

/// Starts `test` of this binary again as a child, kills it after a random time, and returns
/// what it had acknowledged until then.
fn run_until_killed(test: &str, works_on: &str, run: RunId, random: &mut StdRng) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, works_on)
        .env(CHILD_RUN, run.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut kill_at = None;
    // After the kill, what is left in the pipe was acknowledged too.
    for line in &mut lines {
        let line = line.unwrap();
        let Some((_, word)) = line.split_once("ack ") else {
            continue;
        };
        acknowledged.push(word.to_owned());
        let kill_at = kill_at.get_or_insert_with(|| {
            std::time::Instant::now() + Duration::from_millis(random.random_range(5..150))
        });
        if std::time::Instant::now() >= *kill_at {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(
        !status.success(),
        "the child ended by itself: {acknowledged:?}"
    );
    assert!(!acknowledged.is_empty());
    acknowledged
}

fn acknowledge(word: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ack {word}").unwrap();
    out.flush().unwrap();
}

/// The child: takes the run over and appends until it is killed.
async fn append_for_ever(url: &str) {
    let run = RunId(std::env::var(CHILD_RUN).unwrap().parse().unwrap());
    let store = Store::open(url).await.unwrap();
    let epoch = store.claim(run).await.unwrap();
    let mut head = store.run(run).await.unwrap().unwrap().head;
    loop {
        let (mut events, mut entries) = (Vec::new(), Vec::new());
        for seq in head + 1..head + 4 {
            if seq % 2 == 0 {
                let (event, entry) = accepted(seq, seq, 1, seq);
                events.push(event);
                entries.push(entry);
            } else {
                events.push(marked(seq, seq));
            }
        }
        head = store
            .append(run, epoch, head, &events, &entries)
            .await
            .unwrap();
        acknowledge(head);
    }
}

async fn appends_survive(test: &str, db: Database) {
    let seed = 9;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let mut appended = 0;
    for _ in 0..KILLS {
        let acknowledged = run_until_killed(test, &db.url, run, &mut random);
        let last: u64 = acknowledged.last().unwrap().parse().unwrap();
        appended += acknowledged.len();
        // Claiming waits for a commit that was under way.
        store.claim(run).await.unwrap();
        let mut accepted_tokens = 0;
        let head = store
            .fold_events(run, 0, |stored| {
                assert_eq!(stored.event.at_ms, stored.seq);
                if let EventKind::UpdateAccepted { tokens, .. } = stored.event.kind {
                    accepted_tokens += tokens;
                }
            })
            .await
            .unwrap();
        assert!(
            head >= last,
            "event {last} was acknowledged, {head} is last"
        );
        assert_eq!(head, store.run(run).await.unwrap().unwrap().head);
        assert_eq!((head - 1) % 3, 0, "an append is all or nothing");
        let credited: u64 = store
            .credited_by_worker(run)
            .await
            .unwrap()
            .iter()
            .map(|row| row.1)
            .sum();
        assert_eq!(credited, accepted_tokens);
    }
    println!("{appended} acknowledged appends over {KILLS} kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_acknowledged_before_a_kill_are_there_on_sqlite() {
    if let Ok(url) = std::env::var(CHILD) {
        return append_for_ever(&url).await;
    }
    let test = "store::crash::appends_acknowledged_before_a_kill_are_there_on_sqlite";
    appends_survive(test, Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_acknowledged_before_a_kill_are_there_on_postgres() {
    if let Ok(url) = std::env::var(CHILD) {
        return append_for_ever(&url).await;
    }
    let test = "store::crash::appends_acknowledged_before_a_kill_are_there_on_postgres";
    appends_survive(test, Database::postgres().await).await;
}

/// The child: stores blobs of many sizes in all ways until it is killed.
async fn put_for_ever(folder: &str) {
    let blobs = Blobs::open_folder(folder.as_ref()).unwrap();
    let mut random = StdRng::seed_from_u64(u64::from(std::process::id()));
    loop {
        let mut bytes = vec![0; random.random_range(1..3_000_000)];
        random.fill(&mut bytes[..]);
        let hash = Hash::of(&bytes);
        let pieces: Vec<Result<bytes::Bytes, std::io::Error>> = bytes
            .chunks(64 << 10)
            .map(|piece| Ok(bytes::Bytes::copy_from_slice(piece)))
            .collect();
        let stream = futures::stream::iter(pieces);
        match random.random_range(0..3) {
            0 => {
                blobs.put(bytes).await.unwrap();
            }
            1 => {
                blobs.put_named(hash, stream, 3_000_000).await.unwrap();
            }
            _ => {
                blobs.put_stream(stream, 3_000_000).await.unwrap();
            }
        }
        acknowledge(hash);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_acknowledged_before_a_kill_are_there_and_no_others_are_torn() {
    if let Ok(folder) = std::env::var(CHILD) {
        return put_for_ever(&folder).await;
    }
    let test = "store::crash::blobs_acknowledged_before_a_kill_are_there_and_no_others_are_torn";
    let seed = 10;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let mut stored = 0;
    for _ in 0..KILLS {
        let acknowledged = run_until_killed(test, &path, RunId(0), &mut random);
        let blobs = Blobs::open_folder(folder.path()).unwrap();
        for hash in &acknowledged {
            blobs.read(hash.parse().unwrap()).await.unwrap();
        }
        for blob in blobs.list().await.unwrap() {
            blobs.read(blob.hash).await.unwrap();
        }
        stored += acknowledged.len();
        blobs.sweep_unfinished(Duration::ZERO).await.unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            for file in std::fs::read_dir(entry.unwrap().path()).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                assert!(name.parse::<Hash>().is_ok(), "{name} was left behind");
            }
        }
    }
    println!("{stored} acknowledged blobs over {KILLS} kills");
}
