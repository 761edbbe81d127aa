//! Refusals: a sentence and a code, and the trainer goes on.

use opengpu_trainer_protocol::{ErrorCode, ReplyBody, RequestBody};

use crate::support::{Bench, Trainer, write_tokens};

/// Asserts an error of that code whose message contains `part`.
pub fn refused(reply: &ReplyBody, expected: ErrorCode, part: &str) {
    match reply {
        ReplyBody::Error { code, message } => {
            assert_eq!(*code, expected, "{message}");
            assert!(message.contains(part), "`{message}` lacks `{part}`");
        }
        other => panic!("expected an error about `{part}`, got {other:?}"),
    }
}

/// The trainer still works.
fn goes_on(trainer: &mut Trainer, bench: &Bench) {
    trainer.ask(bench.initialise(1, "fresh"));
    trainer.ask(bench.load("fresh"));
    let reply = trainer.ask(RequestBody::Train(bench.assignment(&[(0, 1)], "out")));
    assert!(matches!(reply, ReplyBody::Trained { .. }), "{reply:?}");
}

#[test]
fn weights_that_are_missing_short_or_not_finite_are_refused() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    let train = || RequestBody::Train(bench.assignment(&[(0, 1)], "out"));
    trainer.ask(bench.load("missing"));
    refused(&trainer.ask(train()), ErrorCode::BadFile, "missing");
    std::fs::write(bench.path("short"), [0; 12]).unwrap();
    trainer.ask(bench.load("short"));
    refused(&trainer.ask(train()), ErrorCode::BadFile, "holds 12 bytes");
    refused(
        &trainer.ask(bench.evaluate()),
        ErrorCode::BadFile,
        "holds 12 bytes",
    );
    let mut bytes = vec![0u8; bench.model.parameters() * 4];
    bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(bench.path("nan"), bytes).unwrap();
    trainer.ask(bench.load("nan"));
    refused(&trainer.ask(train()), ErrorCode::NotFinite, "Number 10");
    goes_on(&mut trainer, &bench);
}

#[test]
fn a_diverging_run_is_told_as_not_finite_and_forgets_its_moments() {
    let mut bench = Bench::new();
    bench.inner.learning_rate = 1e30;
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    let reply = trainer.ask(RequestBody::Train(bench.assignment(&[(0, 20)], "out")));
    refused(&reply, ErrorCode::NotFinite, "learning rate");
    assert!(!bench.path("out").exists());
    bench.inner.learning_rate = 1e-3;
    goes_on(&mut trainer, &bench);
}

#[test]
fn assignments_that_do_not_fit_the_data_are_refused() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    let early = trainer.ask(RequestBody::Train(bench.assignment(&[(0, 1)], "out")));
    refused(&early, ErrorCode::BadRequest, "`load`");
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    let mut ask = |change: &dyn Fn(&mut opengpu_trainer_protocol::TrainRequest), part: &str| {
        let mut request = bench.assignment(&[(0, 1)], "out");
        change(&mut request);
        refused(
            &trainer.ask(RequestBody::Train(request)),
            ErrorCode::BadRequest,
            part,
        );
    };
    ask(&|request| request.blocks_per_epoch = 47, "hold 46 blocks");
    ask(
        &|request| request.blocks_per_epoch = 0,
        "blocks_per_epoch is 0",
    );
    ask(
        &|request| request.block_sequences = 6,
        "multiple of batch_sequences 4",
    );
    ask(&|request| request.blocks = vec![], "no blocks");
    ask(&|request| request.blocks = vec![(5, 5)], "5 to 5 is empty");
    ask(
        &|request| request.progress_to = f64::MAX * 2.0,
        "line is no request",
    );
    goes_on(&mut trainer, &bench);
}

#[test]
fn token_files_that_lie_are_refused() {
    let mut bench = Bench::new();
    let mut trainer = Trainer::start(1);
    let good = bench.tokens.clone();
    bench.tokens.tokens += 1;
    refused(
        &trainer.ask(bench.load("w0")),
        ErrorCode::BadFile,
        "have 6000 tokens in all",
    );
    bench.tokens = good.clone();
    bench.tokens.token_bytes = 3;
    refused(
        &trainer.ask(bench.load("w0")),
        ErrorCode::BadRequest,
        "must be 2 or 4",
    );
    bench.tokens = good.clone();
    std::fs::write(bench.path("odd"), [1, 2, 3]).unwrap();
    bench.tokens.files.push(bench.path("odd"));
    refused(
        &trainer.ask(bench.load("w0")),
        ErrorCode::BadFile,
        "3 bytes",
    );
    // A token beyond the vocabulary is found when it is read.
    bench.tokens = write_tokens(bench.folder.path(), "wild", &[&[95; 3000], &[96; 3000]]);
    trainer.ask(bench.initialise(1, "w0"));
    trainer.ask(bench.load("w0"));
    let reply = trainer.ask(RequestBody::Train(bench.assignment(&[(0, 46)], "out")));
    refused(&reply, ErrorCode::BadFile, "only 96 tokens");
    bench.tokens = good;
    goes_on(&mut trainer, &bench);
}

#[test]
fn lines_that_are_no_request_are_answered_with_their_id() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    trainer.send_line(b"{\"id\": 77, \"type\": \"dance\"}\n");
    let reply = trainer.receive();
    assert_eq!(reply.id, 77);
    refused(&reply.body, ErrorCode::BadRequest, "dance");
    trainer.send_line(b"not json\n\n");
    let reply = trainer.receive();
    assert_eq!(reply.id, 0);
    refused(&reply.body, ErrorCode::BadRequest, "no request");
    refused(
        &trainer.ask(RequestBody::Hello { version: 99 }),
        ErrorCode::BadRequest,
        "99",
    );
    goes_on(&mut trainer, &bench);
}

#[test]
fn impossible_models_are_refused_before_memory_is_taken() {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    let mut ask = |change: &dyn Fn(&mut opengpu_trainer_protocol::ModelConfig), part: &str| {
        let mut model = bench.model.clone();
        change(&mut model);
        let request = RequestBody::Initialise {
            model,
            seed: 1,
            out: bench.path("w"),
        };
        refused(&trainer.ask(request), ErrorCode::BadRequest, part);
    };
    ask(
        &|model| model.num_hidden_layers = 0,
        "num_hidden_layers is 0",
    );
    ask(
        &|model| model.num_attention_heads = 5,
        "over num_attention_heads 5",
    );
    ask(
        &|model| model.vocab_size = usize::MAX,
        "larger than this trainer",
    );
    ask(
        &|model| model.hidden_size = 1 << 40,
        "larger than this trainer",
    );
    goes_on(&mut trainer, &bench);
}
