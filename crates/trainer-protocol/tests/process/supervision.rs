//! Requests, progress, and every way in which a trainer can fail.

use std::time::{Duration, Instant};

use opengpu_trainer_protocol::{
    ErrorCode, Progress, ReplyBody, RequestBody, Sign, TrainRequest, TrainerError, TrainerProcess,
};

use crate::{lives, scripted, unfriendly, wait_until_gone};

const CALIBRATE: RequestBody = RequestBody::Calibrate { block_sequences: 8 };
const CALIBRATED: &str =
    r#"echo '{"id":2,"type":"calibrated","blocks_per_second":2.5,"tokens_per_second":100}'; "#;

fn train() -> RequestBody {
    RequestBody::Train(TrainRequest {
        blocks: vec![(0, 10)],
        blocks_per_epoch: 100,
        block_sequences: 8,
        seed: 0,
        progress_from: 0.0,
        progress_to: 0.1,
        at_most_blocks: None,
        out: "out".into(),
        slowdown: 1.0,
    })
}

/// Starts the script and makes one request; the trainer must be gone afterwards.
async fn failure(script: &str) -> TrainerError {
    let folder = tempfile::tempdir().unwrap();
    let mut command = scripted(folder.path(), script);
    command.silence = Duration::from_millis(700);
    let trainer = TrainerProcess::spawn(&command).await.unwrap();
    let error = trainer.request(CALIBRATE).await.unwrap_err();
    assert!(error.is_fatal());
    wait_until_gone(trainer.pid());
    assert!(trainer.ended().is_some());
    // It stays an error, at once, and never a wait.
    let begin = Instant::now();
    assert!(trainer.request(CALIBRATE).await.unwrap_err().is_fatal());
    assert!(begin.elapsed() < Duration::from_millis(500));
    error
}

#[tokio::test]
async fn a_request_is_answered_and_progress_handed_on() {
    let folder = tempfile::tempdir().unwrap();
    let progress =
        r#"echo '{"id":2,"type":"progress","done":1,"of":2,"loss":3.5,"tokens_per_second":10}'; "#;
    let preparing = r#"echo '{"id":2,"type":"preparing","what":"warming up","seconds":4}'; "#;
    let script = format!("read line; {preparing}{progress}{CALIBRATED} read line");
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), &script))
        .await
        .unwrap();
    assert_eq!(trainer.greeting().trainer, "script 1");
    assert_eq!(trainer.greeting().device, "shell");
    let mut seen = Vec::new();
    let reply = trainer
        .ask(CALIBRATE, Duration::from_secs(5), |sign| seen.push(sign))
        .await
        .unwrap();
    let expected = Progress {
        done: 1,
        of: 2,
        loss: 3.5,
        tokens_per_second: 10.0,
    };
    assert_eq!(
        seen,
        [
            Sign::Preparing {
                what: "warming up".into(),
                seconds: 4
            },
            Sign::Progress(expected)
        ]
    );
    assert_eq!(
        reply,
        ReplyBody::Calibrated {
            blocks_per_second: 2.5,
            tokens_per_second: 100.0,
            micro_batch: 0,
            numerics_class: String::new(),
        }
    );
    assert_eq!(
        trainer.stop(Duration::from_secs(5)).await,
        "exited with status 0"
    );
}

#[tokio::test]
async fn a_refusal_leaves_the_trainer_running() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = r#"read line; echo '{"id":2,"type":"error","code":"bad_file","message":"no such weights"}'; "#;
    let script = format!("{refuse} read line; {}", CALIBRATED.replace(":2,", ":3,"));
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), &script))
        .await
        .unwrap();
    let error = trainer.request(CALIBRATE).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BadFile));
    assert!(!error.is_fatal());
    assert_eq!(
        error.to_string(),
        "the trainer refused calibrate: no such weights"
    );
    trainer.request(CALIBRATE).await.unwrap();
}

#[tokio::test]
async fn a_training_is_finished_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    // It trains until the second line comes, and says whether that was "finish".
    let script = r#"read line; read second; case "$second" in *finish*) n=4;; *) n=0;; esac
        echo '{"id":2,"type":"trained","blocks_completed":'$n',"steps":4,"tokens":64,"loss":1,"seconds":1}'; read line"#;
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), script))
        .await
        .unwrap();
    let finish = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        trainer.finish().await;
    };
    let (reply, ()) = tokio::join!(trainer.request(train()), finish);
    let ReplyBody::Trained {
        blocks_completed, ..
    } = reply.unwrap()
    else {
        panic!("not trained")
    };
    assert_eq!(blocks_completed, 4);
}

#[tokio::test]
async fn a_request_given_up_does_not_spoil_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let late = CALIBRATED;
    let right = CALIBRATED.replace(":2,", ":3,").replace("2.5", "7.5");
    let script = format!("read line; sleep 0.3; {late} read line; {right} read line");
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), &script))
        .await
        .unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(50), trainer.request(CALIBRATE));
    assert!(given_up.await.is_err());
    let reply = trainer.request(CALIBRATE).await.unwrap();
    assert_eq!(
        reply,
        ReplyBody::Calibrated {
            blocks_per_second: 7.5,
            tokens_per_second: 100.0,
            micro_batch: 0,
            numerics_class: String::new(),
        }
    );
}

#[tokio::test]
async fn a_trainer_that_hangs_is_killed_with_all_it_started() {
    let error = failure("read line; echo waiting for the device >&2; sleep 1000 & wait").await;
    let text = error.to_string();
    assert!(
        matches!(
            error,
            TrainerError::Silent {
                doing: "calibrate",
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.contains("no sign of life for 0.7 s during calibrate"),
        "{text}"
    );
    assert!(text.contains("waiting for the device"), "{text}");
}

#[tokio::test]
async fn killing_reaches_what_the_trainer_started() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "sleep 1000 & echo $! > {}/pid; wait",
        folder.path().display()
    );
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), &script))
        .await
        .unwrap();
    let path = folder.path().join("pid");
    let begin = Instant::now();
    let grandchild: u32 = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            break pid;
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(lives(grandchild));
    assert_eq!(trainer.kill().await, "was killed by its owner");
    wait_until_gone(grandchild);
}

#[tokio::test]
async fn progress_is_a_sign_of_life() {
    let folder = tempfile::tempdir().unwrap();
    let progress = r#"sleep 0.3; echo '{"id":2,"type":"progress","done":1,"of":2,"loss":3.5,"tokens_per_second":10}'; "#;
    let script = format!("read line; {}{CALIBRATED} read line", progress.repeat(4));
    let mut command = scripted(folder.path(), &script);
    command.silence = Duration::from_millis(900);
    let trainer = TrainerProcess::spawn(&command).await.unwrap();
    trainer.request(CALIBRATE).await.unwrap();
}

#[tokio::test]
async fn a_crash_is_reported_with_status_and_last_words() {
    let text = failure("read line; echo thread panicked at gpu.rs >&2; exit 101")
        .await
        .to_string();
    assert!(
        text.contains("exited with status 101 during calibrate"),
        "{text}"
    );
    assert!(text.contains("thread panicked at gpu.rs"), "{text}");
    assert!(text.contains("trainer.log"), "{text}");
}

#[tokio::test]
async fn a_kill_is_reported_with_the_signal_and_the_likely_cause() {
    let text = failure("read line; kill -9 $$").await.to_string();
    assert!(text.contains("was killed by signal 9 (SIGKILL"), "{text}");
    assert!(text.contains("memory ran out"), "{text}");
    let text = failure("read line; kill -SEGV $$").await.to_string();
    assert!(text.contains("SIGSEGV"), "{text}");
}

#[tokio::test]
async fn a_trainer_that_closes_its_output_is_ended() {
    let text = failure("read line; exec >&-; sleep 1000").await.to_string();
    assert!(text.contains("closed its output without ending"), "{text}");
}

#[tokio::test]
async fn garbage_is_shown_and_ends_the_trainer() {
    let text = failure("read line; echo CUDA error: out of luck; sleep 1000")
        .await
        .to_string();
    assert!(text.contains("a line that is no reply"), "{text}");
    assert!(text.contains("CUDA error: out of luck"), "{text}");
}

#[tokio::test]
async fn an_endless_line_is_refused_before_it_is_kept() {
    let text = failure("read line; exec tr '\\0' x < /dev/zero")
        .await
        .to_string();
    assert!(text.contains("a line of more than 1048576 bytes"), "{text}");
}

#[tokio::test]
async fn an_answer_from_the_future_ends_the_trainer() {
    let script = format!("read line; {} sleep 1000", CALIBRATED.replace(":2,", ":9,"));
    let text = failure(&script).await.to_string();
    assert!(text.contains("an answer that was not asked for"), "{text}");
}

#[tokio::test]
async fn another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"read line; echo '{"id":1,"type":"hello","version":7,"trainer":"t","device":"d","numerics_class":"n"}'; sleep 1000"#;
    let error = TrainerProcess::spawn(&unfriendly(folder.path(), script))
        .await
        .unwrap_err();
    assert!(
        matches!(error, TrainerError::Version { theirs: 7 }),
        "{error}"
    );
}

#[tokio::test]
async fn a_program_that_says_nothing_at_the_start_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = unfriendly(folder.path(), "sleep 1000");
    command.hello_within = Duration::from_millis(300);
    let text = TrainerProcess::spawn(&command)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("no sign of life for 0.3 s during hello"),
        "{text}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = unfriendly(folder.path(), "");
    command.program = "/no/such/trainer".into();
    let error = TrainerProcess::spawn(&command).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot start the trainer /no/such/trainer"
    );
}

#[tokio::test]
async fn dropping_the_process_kills_the_child() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), "sleep 1000"))
        .await
        .unwrap();
    let pid = trainer.pid();
    assert!(lives(pid));
    drop(trainer);
    // The task that kills it runs while this one waits.
    let begin = Instant::now();
    while lives(pid) {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{pid} still lives"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_runtime_that_shuts_down_kills_the_child() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let command = scripted(folder.path(), "sleep 1000");
    let trainer = runtime.block_on(TrainerProcess::spawn(&command)).unwrap();
    drop(runtime);
    wait_until_gone(trainer.pid());
}

#[tokio::test]
async fn the_environment_reaches_the_trainer() {
    let folder = tempfile::tempdir().unwrap();
    let command = scripted(
        folder.path(),
        "read line; echo threads $OPENGPU_THREADS >&2; exit 3",
    )
    .env("OPENGPU_THREADS", "5");
    let trainer = TrainerProcess::spawn(&command).await.unwrap();
    let text = trainer.request(CALIBRATE).await.unwrap_err().to_string();
    assert!(text.contains("threads 5"), "{text}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_path_that_json_cannot_carry_is_refused_and_harms_nothing() {
    use std::os::unix::ffi::OsStringExt;
    let folder = tempfile::tempdir().unwrap();
    let script = format!("read line; {} read line", CALIBRATED.replace(":2,", ":3,"));
    let trainer = TrainerProcess::spawn(&scripted(folder.path(), &script))
        .await
        .unwrap();
    let import = RequestBody::Import {
        folder: std::ffi::OsString::from_vec(vec![0xff]).into(),
        out: "out".into(),
    };
    let error = trainer.request(import).await.unwrap_err();
    assert!(
        !error.is_fatal() && error.to_string().contains("UTF-8"),
        "{error}"
    );
    trainer.request(CALIBRATE).await.unwrap();
}

#[tokio::test]
async fn a_nice_trainer_is_nice_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let script = "read line; echo niceness $(ps -o ni= -p $$) of $(ps -o ni= -p $PPID) >&2; exit 3";
    let mut command = scripted(folder.path(), script);
    command.niceness = 3;
    let trainer = TrainerProcess::spawn(&command).await.unwrap();
    let text = trainer.request(CALIBRATE).await.unwrap_err().to_string();
    let words: Vec<&str> = text
        .rsplit("niceness")
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let [own, "of", owners] = words[..] else {
        panic!("{text}")
    };
    let (own, owners): (i32, i32) = (own.parse().unwrap(), owners.parse().unwrap());
    assert_eq!(own, (owners + 3).min(19));
}
