//! What a user gets wrong is answered with what is wrong, where, and what mends it.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::cluster::{Guarded, OPENGPU, give_back_shared_memory};

/// Runs `up` with `arguments`, which must fail, and returns its standard error.
fn refused(home: &Path, arguments: &[&str]) -> String {
    let output = Command::new(OPENGPU)
        .args(["up", "--exit", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .arg("--home")
        .arg(home)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stderr).unwrap()
}

fn with_file(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    refused(
        &folder.path().join("home"),
        &["--data", file.to_str().unwrap()],
    )
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path(), &["--data", "/nowhere/notes.txt"]);
    assert!(error.contains("/nowhere/notes.txt"), "{error}");
}

#[test]
fn an_empty_file_is_refused() {
    let error = with_file("empty.txt", b"");
    assert!(
        error.contains("empty.txt") && error.contains("empty"),
        "{error}"
    );
}

#[test]
fn a_binary_file_is_refused_with_the_byte() {
    let error = with_file("image.txt", b"some text\0and more");
    assert!(
        error.contains("image.txt") && error.contains('9'),
        "{error}"
    );
}

#[test]
fn text_that_is_not_utf_8_is_refused_with_the_byte() {
    let error = with_file("latin1.txt", b"caf\xe9 au lait");
    assert!(
        error.contains("latin1.txt") && error.contains('3'),
        "{error}"
    );
}

#[test]
fn text_too_small_for_the_context_is_refused_with_the_numbers() {
    let error = with_file("short.txt", "To be, or not to be.\n".repeat(50).as_bytes());
    assert!(error.contains("128"), "{error}");
}

#[test]
fn a_json_line_without_text_is_named() {
    let error = with_file("docs.jsonl", b"{\"text\": \"fine\"}\n{\"body\": \"no\"}\n");
    assert!(
        error.contains("docs.jsonl") && error.contains('2'),
        "{error}"
    );
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Whoever serves is told, and in the same words whoever started an `up`.
    for command in [&["serve"][..], &["up", "--exit"]] {
        let output = Command::new(OPENGPU)
            .args(command)
            .args(["--listen", &address.to_string(), "--home"])
            .arg(folder.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            error.contains(&address.port().to_string()) && error.contains("--listen"),
            "{error}"
        );
    }
    give_back_shared_memory(folder.path());
}

#[test]
fn a_home_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Command::new(OPENGPU)
        .args(["serve", "--listen", "127.0.0.1:0", "--home"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _serve = Guarded(serve.unwrap());
    let started = Instant::now();
    while !folder.path().join("address").exists() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it never served"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = refused(folder.path(), &[]);
    assert!(
        error.contains("in use") && error.contains("--home"),
        "{error}"
    );
    give_back_shared_memory(folder.path());
}

/// The corpus is the first that goes into a home; here it goes where no byte finds room.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_with_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    std::fs::create_dir(&corpus).unwrap();
    std::os::unix::fs::symlink("/dev/full", corpus.join("shakespeare.txt")).unwrap();
    let error = refused(folder.path(), &[]);
    assert!(
        error.contains("No space left") && error.contains("needs room") && error.contains("--home"),
        "{error}"
    );
}

#[test]
fn an_unknown_preset_is_answered_with_the_presets() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path(), &["--preset", "giant"]);
    assert!(error.contains("giant") && error.contains("nano"), "{error}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let output = Command::new(OPENGPU).arg("frobnicate").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
