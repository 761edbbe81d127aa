//! A trainer's owner survives whatever its trainer does. The trainers here are shell scripts:
//! real children that crash, hang and babble on demand.
#![cfg(unix)]
#![expect(clippy::unwrap_used)]

mod no_orphan;
mod supervision;

use opengpu_trainer_protocol::{TrainerCommand, VERSION};
use std::path::Path;
use std::time::Duration;

/// A trainer that says hello and then runs `script`.
pub fn scripted(folder: &Path, script: &str) -> TrainerCommand {
    let hello = format!(
        r#"{{"id":1,"type":"hello","version":{VERSION},"trainer":"script 1","device":"shell","numerics_class":"none"}}"#
    );
    unfriendly(folder, &format!("read line; echo '{hello}'; {script}"))
}

/// A trainer that runs `script` from the start.
pub fn unfriendly(folder: &Path, script: &str) -> TrainerCommand {
    let mut command = TrainerCommand::new("/bin/sh", folder.join("logs").join("trainer.log"))
        .arg("-c")
        .arg(script);
    command.hello_within = Duration::from_secs(10);
    command.silence = Duration::from_secs(10);
    command
}

/// Whether a process of that id is there and no zombie.
pub fn lives(pid: u32) -> bool {
    let status = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(status.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// Waits until the process is gone.
pub fn wait_until_gone(pid: u32) {
    let begin = std::time::Instant::now();
    while lives(pid) {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{pid} still lives"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
