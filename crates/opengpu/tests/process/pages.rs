//! The pages of the portal, and who sees what on them: today whoever reaches the port sees all
//! of them. So they may name runs and machines, and nothing that is for somebody alone.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use opengpu_protocol::{
    Client, SigningKey,
    signing::public_key,
    wire::{Enrol, Machine},
};

use crate::cluster::{Cluster, opengpu};

/// The pages' routes have no table, so their addresses are read where they are made.
const ROUTES: &str = include_str!("../../../portal/src/routes.rs");

/// Every page, and what it shows to everyone.
const PAGES: [(&str, &str); 8] = [
    ("/", "the list of runs, or the way to the only one"),
    ("/runs", "names, phases and progress of all runs"),
    ("/runs/{run}", "a run: its curve, its rounds, its workers"),
    ("/runs/{run}/summary", "the first part of it"),
    ("/runs/{run}/rounds", "the rounds: who sent how much"),
    (
        "/runs/{run}/workers",
        "the workers by their machines' names, and why the last update of each was refused",
    ),
    ("/runs/{run}/events", "the same parts whenever they change"),
    ("/assets/{file}", "scripts and styles, the same everywhere"),
];

#[tokio::test]
async fn every_page_is_shown_to_everyone_and_none_tells_a_secret_or_whose_a_machine_is() {
    let routes = ROUTES.split(".route(").skip(1);
    let there: BTreeSet<_> = routes.filter_map(|route| route.split('"').nth(1)).collect();
    let listed: BTreeSet<_> = PAGES.iter().map(|(path, _)| *path).collect();
    assert_eq!(there, listed, "the table lists all pages there are");

    let cluster = Cluster::start().await;
    let run = cluster.submit(1, 1, "");
    let secret = |file: &str| {
        let text = std::fs::read_to_string(cluster.home().join(file)).unwrap();
        text.trim().to_owned()
    };
    let (operator_token, join_token) = (secret("operator.token"), secret("join.token"));
    let key = SigningKey::from_bytes(&[7; 32]);
    let enrol = Enrol {
        token: Some(join_token.clone()),
        public_key: public_key(&key),
        name: "attic".into(),
        machine: Machine::default(),
    };
    let anonymous = Client::anonymous(&cluster.url()).unwrap();
    let node = anonymous.enrol(&enrol).await.unwrap().node;
    let agent = Client::node(&cluster.url(), key, node).unwrap();
    let operator = cluster.client();
    operator
        .create_account("Zoe Example", Some("Team Zebra"))
        .await
        .unwrap();
    let shown = agent.claim_code().await.unwrap();
    operator.claim(&shown.code, "Zoe Example").await.unwrap();

    let home = get(&cluster, "/runs", None);
    let asset = home.split("/assets/").nth(1).unwrap();
    let asset = asset.split('"').next().unwrap();
    for (path, shows) in PAGES {
        let path = path.replace("{run}", &run.to_string());
        let path = path.replace("{file}", asset);
        let answer = get(&cluster, &path, None);
        let status = answer.split(' ').nth(1).unwrap();
        let expected = if path == "/" { "303" } else { "200" };
        assert_eq!(status, expected, "{path} shows {shows} to everyone");
        // Who proves something is shown no more.
        let proven = get(&cluster, &path, Some(&operator_token));
        assert_eq!(proven.split(' ').nth(1), Some(status), "{path}");
        for kept in [&operator_token, &join_token, "Zoe", "Zebra", &shown.code] {
            assert!(
                !answer.contains(kept) && !proven.contains(kept),
                "{path} tells {kept}"
            );
        }
    }
    // The operator is told by the command that asks for it.
    let accounts = opengpu(
        &cluster.home(),
        &["account", "list", "--url", &cluster.url()],
    );
    assert!(accounts.contains("Zoe Example"), "{accounts}");
}

/// Head and body of an answer; of a stream, what comes within a moment.
fn get(cluster: &Cluster, path: &str, token: Option<&str>) -> String {
    let url = cluster.url();
    let host = url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(host).unwrap();
    let proof = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{proof}Connection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    if path.ends_with("/events") {
        // A stream has no end: what comes within two seconds, or later if nothing does.
        let wait = Duration::from_millis(100);
        connection.set_read_timeout(Some(wait)).unwrap();
        let started = Instant::now();
        let has_begun = |answer: &[u8]| answer.windows(5).any(|bytes| bytes == b"data:");
        while started.elapsed() < Duration::from_secs(2) || !has_begun(&answer) {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{path} shows nothing"
            );
            let mut piece = [0; 65_536];
            if let Ok(length) = connection.read(&mut piece) {
                answer.extend_from_slice(&piece[..length]);
            }
        }
    } else {
        connection.read_to_end(&mut answer).unwrap();
    }
    String::from_utf8_lossy(&answer).into_owned()
}
