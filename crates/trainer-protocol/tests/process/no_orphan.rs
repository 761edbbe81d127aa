//! An owner that is killed leaves no trainer behind, whichever of its threads asked for it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use opengpu_trainer_protocol::TrainerProcess;

use crate::{lives, scripted, wait_until_gone};

const OWNER: &str = "OPENGPU_TEST_OWNER_FOLDER";

/// Not a test of its own: the owner that the tests below start and kill. Without the variable
/// it does nothing.
#[test]
fn owner() {
    let Ok(folder) = std::env::var(OWNER) else {
        return;
    };
    let folder = Path::new(&folder);
    // It reads nothing, so that the closing of its input can't end it.
    let command = scripted(folder, "exec sleep 1000");
    // A thread that ends at once asks for the trainer: the signal must not follow it.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let asking = std::thread::spawn(move || handle.block_on(TrainerProcess::spawn(&command)));
    let trainer = asking.join().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(folder.join("pid.part"), trainer.pid().to_string()).unwrap();
    std::fs::rename(folder.join("pid.part"), folder.join("pid")).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_owner_leaves_no_trainer_and_an_ended_thread_takes_none_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "no_orphan::owner"])
        .env(OWNER, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let trainer: u32 = loop {
        if let Ok(text) = std::fs::read_to_string(folder.path().join("pid")) {
            break text.parse().unwrap();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the owner did not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(lives(trainer), "it ended with the thread that asked for it");
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until_gone(trainer);
}
