//! Training over the protocol: what an assignment gives, and that it gives it again.

use std::time::Instant;

use opengpu_trainer_protocol::{InnerState, Optimizer, ReplyBody, RequestBody, VERSION};

use crate::support::{Bench, Trainer, loss};

#[test]
fn a_small_model_learns_over_the_protocol() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(2);
    let hello = trainer.ask(RequestBody::Hello { version: VERSION });
    assert!(
        matches!(
            hello,
            ReplyBody::Hello {
                version: VERSION,
                ..
            }
        ),
        "{hello:?}"
    );
    let written = trainer.ask(bench.initialise(1, "w0"));
    assert!(matches!(written, ReplyBody::Written { .. }), "{written:?}");
    let parameters = bench.model.parameters() as u64;
    assert_eq!(
        trainer.ask(bench.load("w0")),
        ReplyBody::Loaded { parameters }
    );
    let before = trainer.ask(bench.evaluate());
    // Fresh weights guess about uniformly.
    assert!((loss(&before) - 96f64.ln()).abs() < 0.1, "{before:?}");
    let trained = trainer.ask(RequestBody::Train(bench.assignment(&[(0, 40)], "w1")));
    match trained {
        ReplyBody::Trained {
            blocks_completed,
            steps,
            tokens,
            ..
        } => {
            assert_eq!((blocks_completed, steps, tokens), (40, 80, 40 * 8 * 16));
        }
        other => panic!("{other:?}"),
    }
    trainer.ask(bench.load("w1"));
    let after = trainer.ask(bench.evaluate());
    assert!(loss(&after) < loss(&before) - 0.5, "{before:?} {after:?}");
    match after {
        ReplyBody::Evaluated {
            nats_per_token,
            bits_per_byte,
            tokens,
        } => {
            assert_eq!(tokens, 600);
            let bits = nats_per_token * 600.0 / std::f64::consts::LN_2 / 1200.0;
            assert!((bits_per_byte.unwrap() - bits).abs() < 1e-9);
        }
        other => panic!("{other:?}"),
    }
    trainer.close().unwrap();
}

#[test]
fn a_small_model_learns_with_muon() {
    for (state, round_warmup_steps) in [(InnerState::Carry, 0), (InnerState::Reset, 5)] {
        let mut bench = Bench::new();
        bench.inner.optimizer = Optimizer::Muon;
        bench.inner.state = state;
        bench.inner.round_warmup_steps = round_warmup_steps;
        let mut trainer = Trainer::start(2);
        trainer.ask(bench.initialise(1, "w0"));
        trainer.ask(bench.load("w0"));
        let before = trainer.ask(bench.evaluate());
        trainer.ask(RequestBody::Train(bench.assignment(&[(0, 40)], "w1")));
        trainer.ask(bench.load("w1"));
        let after = trainer.ask(bench.evaluate());
        assert!(loss(&after) < loss(&before) - 0.5, "{before:?} {after:?}");
        trainer.close().unwrap();
    }
}

#[test]
fn the_same_assignment_gives_the_same_bytes_twice_and_with_other_threads() {
    let mut bench = Bench::new();
    bench.inner.state = InnerState::Reset;
    let mut all = Vec::new();
    for (optimizer, round_warmup_steps) in [
        (Optimizer::AdamW, 0),
        (Optimizer::AdamW, 5),
        (Optimizer::Muon, 0),
        (Optimizer::Muon, 5),
    ] {
        bench.inner.optimizer = optimizer;
        bench.inner.round_warmup_steps = round_warmup_steps;
        let mut results = Vec::new();
        for threads in [1, 1, 3] {
            let mut trainer = Trainer::start(threads);
            trainer.ask(bench.initialise(1, "w0"));
            trainer.ask(bench.load("w0"));
            for out in ["a", "b"] {
                let request = bench.assignment(&[(3, 9), (50, 53)], out);
                let reply = trainer.ask(RequestBody::Train(request));
                assert!(
                    matches!(reply, ReplyBody::Trained { steps: 18, .. }),
                    "{reply:?}"
                );
                results.push(std::fs::read(bench.path(out)).unwrap());
            }
            trainer.close().unwrap();
        }
        let what = format!("{optimizer:?}, {round_warmup_steps} steps of warm-up");
        assert!(results.iter().all(|result| *result == results[0]), "{what}");
        all.push(results.swap_remove(0));
    }
    all.push(std::fs::read(bench.path("w0")).unwrap());
    for (place, result) in all.iter().enumerate() {
        assert!(!all[..place].contains(result), "{place}");
    }
}

#[test]
fn each_assignment_warms_up_anew() {
    let mut bench = Bench::new();
    bench.inner.state = InnerState::Reset;
    bench.inner.round_warmup_steps = 999;
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    let read = |name: &str| {
        let bytes = std::fs::read(bench.path(name)).unwrap();
        let numbers = bytes.as_chunks::<4>().0.iter();
        numbers.map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    // Two of four steps each: rates of 1 and 2 thousandths of the peak at most.
    let most = 2.0 * bench.inner.learning_rate as f32 * 0.003;
    for out in ["first", "second"] {
        let mut request = bench.assignment(&[(0, 2)], out);
        request.at_most_blocks = Some(1);
        trainer.ask(RequestBody::Train(request));
        let moved = read("w0").into_iter().zip(read(out));
        let moved = moved.fold(0f32, |most, (before, after)| {
            most.max((before - after).abs())
        });
        assert!(moved > 0.0 && moved < most, "{moved}, at most {most}");
    }
    assert_eq!(read("first"), read("second"));
}

/// The test starts its own program twice more; with this variable set it is such a child
/// and leaves its weights at the path that the variable holds.
const CHILD: &str = "OPENGPU_TEST_TRAINED_WEIGHTS";

#[test]
fn the_same_assignment_gives_the_same_bytes_in_two_processes() {
    let mut bench = Bench::new();
    bench.inner.state = InnerState::Reset;
    if let Some(out) = std::env::var_os(CHILD) {
        let mut trainer = Trainer::start(2);
        trainer.ask(bench.initialise(4, "w0"));
        trainer.ask(bench.load("w0"));
        trainer.ask(RequestBody::Train(bench.assignment(&[(7, 12)], "trained")));
        std::fs::copy(bench.path("trained"), out).unwrap();
        return;
    }
    let results = ["first", "second"].map(|name| {
        let test = "assignments::the_same_assignment_gives_the_same_bytes_in_two_processes";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, bench.path(name))
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        std::fs::read(bench.path(name)).unwrap()
    });
    assert_eq!(results[0].len(), bench.model.parameters() * 4);
    assert_eq!(results[0], results[1]);
}

#[test]
fn carried_moments_change_the_next_assignment_and_loading_drops_them() {
    let bench = Bench::new();
    assert_eq!(bench.inner.state, InnerState::Carry);
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    let train = |trainer: &mut Trainer, out: &str| {
        trainer.ask(RequestBody::Train(bench.assignment(&[(0, 3)], out)));
        std::fs::read(bench.path(out)).unwrap()
    };
    trainer.ask(bench.load("w0"));
    let (first, second) = (train(&mut trainer, "a"), train(&mut trainer, "b"));
    assert_ne!(first, second);
    trainer.ask(bench.load("w0"));
    assert_eq!(first, train(&mut trainer, "c"));
}

#[test]
fn cutting_an_assignment_in_two_with_carried_moments_changes_nothing() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    trainer.ask(RequestBody::Train(bench.assignment(&[(0, 6)], "whole")));
    trainer.ask(bench.load("w0"));
    let mut first = bench.assignment(&[(0, 2)], "part");
    first.progress_to = 0.1 + 0.4 / 3.0;
    trainer.ask(RequestBody::Train(first));
    // The weights file is read anew at each assignment.
    std::fs::copy(bench.path("part"), bench.path("w0")).unwrap();
    let mut second = bench.assignment(&[(2, 6)], "cut");
    second.progress_from = 0.1 + 0.4 / 3.0;
    trainer.ask(RequestBody::Train(second));
    let read = |name| {
        let bytes = std::fs::read(bench.path(name)).unwrap();
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect::<Vec<_>>()
    };
    for (whole, cut) in read("whole").into_iter().zip(read("cut")) {
        assert!((whole - cut).abs() < 1e-5, "{whole} {cut}");
    }
}

#[test]
fn finish_ends_an_assignment_after_the_current_block() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    let mut request = bench.assignment(&[(0, 40)], "prefix");
    request.slowdown = 50.0;
    let id = trainer.send(RequestBody::Train(request));
    let progress = trainer.receive();
    assert!(
        matches!(progress.body, ReplyBody::Progress { of: 40, .. }),
        "{progress:?}"
    );
    trainer.send(RequestBody::Finish);
    let done = match trainer.answer(id) {
        ReplyBody::Trained {
            blocks_completed,
            steps,
            ..
        } => {
            assert_eq!(steps, blocks_completed * 2);
            blocks_completed
        }
        other => panic!("{other:?}"),
    };
    assert!(done > 0 && done < 40, "{done} blocks");
    // A prefix ends where an assignment of only these blocks would with the same rates.
    trainer.ask(bench.load("w0"));
    let id = trainer.send(RequestBody::Train(bench.assignment(&[(0, 1)], "next")));
    assert!(matches!(
        trainer.answer(id),
        ReplyBody::Trained {
            blocks_completed: 1,
            ..
        }
    ));
}

#[test]
fn calibration_reports_a_speed_and_changes_nothing() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    let before = std::fs::read(bench.path("w0")).unwrap();
    trainer.ask(bench.load("w0"));
    trainer.ask(RequestBody::Train(bench.assignment(&[(0, 2)], "a")));
    let reply = trainer.ask(RequestBody::Calibrate { block_sequences: 8 });
    match reply {
        ReplyBody::Calibrated {
            blocks_per_second,
            tokens_per_second,
            micro_batch,
            numerics_class,
        } => {
            assert!(blocks_per_second > 0.0);
            assert_eq!(micro_batch, bench.inner.batch_sequences);
            assert!(
                numerics_class.ends_with(" micro-batch 4")
                    && numerics_class.contains(" threads 1 "),
                "{numerics_class}"
            );
            assert!((tokens_per_second / blocks_per_second - 128.0).abs() < 1e-6);
        }
        other => panic!("{other:?}"),
    }
    let with = {
        trainer.ask(RequestBody::Train(bench.assignment(&[(2, 4)], "b")));
        std::fs::read(bench.path("b")).unwrap()
    };
    trainer.ask(bench.load("w0"));
    trainer.ask(RequestBody::Train(bench.assignment(&[(0, 2)], "a")));
    trainer.ask(RequestBody::Train(bench.assignment(&[(2, 4)], "c")));
    assert_eq!(with, std::fs::read(bench.path("c")).unwrap());
    assert_eq!(before, std::fs::read(bench.path("w0")).unwrap());
}

#[test]
fn closing_the_input_ends_the_trainer_in_the_middle_of_an_assignment() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    let mut request = bench.assignment(&[(0, 46)], "never");
    request.slowdown = 1000.0;
    trainer.send(RequestBody::Train(request));
    trainer.receive();
    let start = Instant::now();
    trainer.close().unwrap();
    assert!(start.elapsed().as_secs() < 10);
    assert!(!bench.path("never").exists());
}

#[test]
fn initialising_gives_the_same_bytes_for_a_seed_and_others_for_another() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    for (seed, out) in [(1, "a"), (1, "b"), (2, "c")] {
        trainer.ask(bench.initialise(seed, out));
    }
    let read = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("a").len(), bench.model.parameters() * 4);
    assert_eq!(read("a"), read("b"));
    assert_ne!(read("a"), read("c"));
}
