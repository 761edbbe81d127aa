//! Pages, parts, files and their headers.

use axum::http::StatusCode;
use opengpu_portal::sample;

use crate::{Fleet, get, get_part, portal};

#[tokio::test]
async fn one_run_only_is_shown_at_once() {
    let portal = portal(&Fleet::of(vec![sample::training_run(3)]));
    let answer = get(&portal, "/").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), "/runs/1");
}

#[tokio::test]
async fn without_a_run_the_page_tells_how_to_start_one() {
    let portal = portal(&Fleet::of(Vec::new()));
    let answer = get(&portal, "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains("No run yet") && answer.body.contains("opengpu run submit"));
}

#[tokio::test]
async fn several_runs_are_listed_with_links() {
    let portal = portal(&Fleet::of(sample::runs()));
    let answer = get(&portal, "/").await;
    for run in sample::runs() {
        assert!(
            answer.body.contains(&format!("href=\"/runs/{}\"", run.run)),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn every_address_gives_the_part_to_htmx_and_the_page_to_others() {
    let portal = portal(&Fleet::of(sample::runs()));
    let parts = [
        "/runs",
        "/runs/1",
        "/runs/1/summary",
        "/runs/1/rounds",
        "/runs/1/workers",
    ];
    for path in parts {
        let page = get(&portal, path).await;
        let part = get_part(&portal, path).await;
        assert_eq!(
            (page.status, part.status),
            (StatusCode::OK, StatusCode::OK),
            "{path}"
        );
        assert!(page.body.starts_with("<!doctype html>"), "{path}");
        assert!(!part.body.contains("<html"), "{path}");
        assert!(
            page.body.contains(part.body.trim()),
            "the page at {path} lacks its part"
        );
        assert!(page.header("vary").contains("HX-Request"), "{path}");
    }
}

#[tokio::test]
async fn the_live_page_shows_what_the_run_is_doing() {
    let view = sample::training_run(41);
    let portal = portal(&Fleet::of(vec![view.clone()]));
    let body = get(&portal, "/runs/1").await.body;
    for expected in [
        "shakespeare-nano",
        "Training",
        "Round 41 trains for another 2 s: 0 of 3 updates are here",
        "<strong>41</strong> of 120 rounds done",
        "attic",
        "lab-bench-3",
        "2 refused: arrived 4.1 s after the grace ended",
        &view.digest.to_string(),
        "hx-sse:connect=\"/runs/1/events\"",
        "<noscript><meta http-equiv=\"refresh\"",
        "<polyline class=\"training\"",
    ] {
        assert!(body.contains(expected), "no {expected:?} in\n{body}");
    }
}

#[tokio::test]
async fn the_page_of_a_table_shows_all_of_it_and_the_live_page_the_newest() {
    let portal = portal(&Fleet::of(vec![sample::training_run(41)]));
    let count = |body: &str| body.matches("id=\"round-").count();
    assert_eq!(count(&get(&portal, "/runs/1").await.body), 12);
    assert_eq!(count(&get(&portal, "/runs/1/rounds").await.body), 42);
}

#[tokio::test]
async fn hostile_names_stay_text() {
    let view = sample::hostile_run();
    let path = format!("/runs/{}", view.run);
    let portal = portal(&Fleet::of(vec![view]));
    for path in [
        "/runs".into(),
        path.clone(),
        format!("{path}/workers"),
        format!("{path}/rounds"),
    ] {
        let body = get(&portal, &path).await.body;
        assert!(
            body.contains("&#60;script&#62;alert(1)"),
            "{path} lacks the name:\n{body}"
        );
        assert!(!body.contains("<script>"), "{path}:\n{body}");
        assert!(!body.contains("<img src=x"), "{path}:\n{body}");
        // An attribute that ends early would leave a bare quote before the markup's bracket.
        assert!(!body.contains("\"'>"), "{path}:\n{body}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_page_that_says_so() {
    let portal = portal(&Fleet::of(Vec::new()));
    for path in [
        "/runs/7",
        "/runs/none",
        "/runs/7/rounds",
        "/runs/7/events",
        "/assets/app.css",
    ] {
        let answer = get(&portal, path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(
            answer.body.contains("there is no"),
            "{path}: {}",
            answer.body
        );
        assert!(
            answer
                .header("content-security-policy")
                .contains("script-src 'self'"),
            "{path}"
        );
    }
    let answer = get(&portal, "/runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(!answer.body.contains("<script>"), "{}", answer.body);
}

#[tokio::test]
async fn pages_may_use_our_own_files_only() {
    let portal = portal(&Fleet::of(vec![sample::training_run(2)]));
    let page = get(&portal, "/runs/1").await;
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("cache-control"), "no-cache");
    // A script element without an address is an inline script.
    assert_eq!(
        page.body.matches("<script").count(),
        page.body.matches("<script defer src=").count()
    );
}

#[tokio::test]
async fn every_file_a_page_names_is_served_for_ever() {
    let portal = portal(&Fleet::of(vec![sample::training_run(2)]));
    let page = get(&portal, "/runs/1").await.body;
    let mut found = 0;
    for start in page.split("\"/assets/").skip(1) {
        let file = start.split('"').next().unwrap();
        let asset = get(&portal, &format!("/assets/{file}")).await;
        assert_eq!(asset.status, StatusCode::OK, "{file}");
        assert!(
            asset.header("cache-control").contains("immutable"),
            "{file}"
        );
        let expected = match file.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(asset.header("content-type"), expected, "{file}");
        found += 1;
    }
    assert!(found >= 7, "{found} files");
}
