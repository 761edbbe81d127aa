//! `opengpu up`, short: the whole path by one command.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use crate::cluster::{Guarded, OPENGPU, signal, small_corpus};

fn up(home: &std::path::Path, data: &std::path::Path, rounds: &str) -> Command {
    let mut command = Command::new(OPENGPU);
    command
        .args(["up", "--preset", "pico", "--nodes", "2", "--exit", "--json"])
        .args(["--listen", "127.0.0.1:0", "--rounds", rounds])
        .arg("--data")
        .arg(data)
        .arg("--home")
        .arg(home);
    command
}

#[test]
fn up_trains_exports_and_ends_with_equal_digests() {
    let folder = tempfile::tempdir().unwrap();
    let text = small_corpus(folder.path(), 300_000);
    let home = folder.path().join("home");
    let output = up(&home, &text, "3").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["rounds"], 3);
    let before = outcome["held_out_before"]["bits_per_byte"]
        .as_f64()
        .unwrap();
    let after = outcome["held_out_after"]["bits_per_byte"].as_f64().unwrap();
    assert!(after < before, "{before} → {after}");
    for node in outcome["nodes"].as_array().unwrap() {
        assert_eq!(node["digest"], outcome["digest"]);
    }
    let export = std::path::Path::new(outcome["export"].as_str().unwrap());
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "manifest.json",
    ] {
        assert!(
            export.join(file).is_file(),
            "{file} is missing from {}",
            export.display()
        );
    }
}

#[test]
fn a_second_up_goes_on_with_an_unfinished_run() {
    let folder = tempfile::tempdir().unwrap();
    let text = small_corpus(folder.path(), 300_000);
    let home = folder.path().join("home");
    let first = up(&home, &text, "4")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = Guarded(first);
    wait_for_a_merge(&mut first, &home);
    first.kill();
    let output = up(&home, &text, "4").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["run"], 1);
    assert_eq!(outcome["rounds"], 4);
}

/// Ctrl-C ends everything that `up` started, and what it holds in shared memory.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_stops_everything_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let text = small_corpus(folder.path(), 300_000);
    let home = folder.path().join("home");
    let up = up(&home, &text, "1000")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut up = Guarded(up);
    wait_for_a_merge(&mut up, &home);
    let before = processes_of(&home);
    assert!(
        before.len() >= 4,
        "up, a coordinator, two nodes: {before:?}"
    );
    assert!(signal(up.0.id(), "INT"));
    let mut printed = String::new();
    let stdout = up.0.stdout.take().unwrap();
    std::io::BufReader::new(stdout)
        .read_to_string(&mut printed)
        .unwrap();
    assert_eq!(up.0.wait().unwrap().code(), Some(0));
    let told: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(told["stopped"], true);
    assert_eq!(processes_of(&home), Vec::<String>::new());
}

/// Command lines that name this home.
#[cfg(target_os = "linux")]
fn processes_of(home: &std::path::Path) -> Vec<String> {
    let home = home.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(home)).collect()
}

fn wait_for_a_merge(up: &mut Guarded, home: &std::path::Path) {
    let started = std::time::Instant::now();
    let merged_once = || {
        let log = std::fs::read_to_string(home.join("logs/coordinator.log")).unwrap_or_default();
        log.contains("merge is durable")
    };
    while !merged_once() {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "no merge in two minutes"
        );
        assert!(up.0.try_wait().unwrap().is_none(), "up ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
}
