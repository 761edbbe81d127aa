//! A run from its file to its export, and over a restart in the middle.

use opengpu_protocol::operator::SampleRequest;
use opengpu_rounds::{EventKind, RunId};

use super::support::{Server, spec};
use super::worker::Worker;

/// Two workers train at once until the view looks as asked for.
async fn train(
    workers: &mut [Worker; 2],
    run: RunId,
    done: impl Fn(&opengpu_protocol::wire::RunView) -> bool,
) {
    let [one, two] = workers;
    tokio::join!(one.work_until(run, &done), two.work_until(run, &done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_from_its_file_to_its_export() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let operator = server.operator();
    let run = server.start_run(&spec("first", "noise", 3, 2)).await;
    let mut workers = [
        Worker::join(&server, 1).await,
        Worker::join(&server, 2).await,
    ];
    train(&mut workers, run, |view| view.phase == "finished").await;

    let complete = |view: &opengpu_protocol::wire::RunView| {
        let full = view
            .evaluations
            .iter()
            .filter(|evaluation| evaluation.bits_per_byte.is_some());
        full.map(|evaluation| evaluation.revision.number)
            .collect::<Vec<_>>()
            == [0, 3]
    };
    let view = server
        .wait_for(
            run,
            "held-out losses of the first and last weights",
            complete,
        )
        .await;
    assert_eq!((view.revision.number, view.rounds.len()), (3, 3));
    for worker in &workers {
        assert_eq!(
            super::support::hash_of_bytes(&worker.held.as_ref().unwrap().values),
            view.digest
        );
        assert!(worker.all_merged(run).await);
        assert_eq!(worker.sent.len(), 3);
    }
    assert_eq!(view.training_loss, Some(3.5));
    assert!(
        view.rounds
            .iter()
            .all(|round| round.merged == 2 && round.loss == Some(3.5))
    );

    let credited: u64 = view
        .workers
        .iter()
        .map(|worker| worker.credited_tokens)
        .sum();
    let of_nodes: u64 = operator
        .nodes()
        .await
        .unwrap()
        .iter()
        .map(|node| node.credited_tokens)
        .sum();
    assert_eq!((credited, of_nodes), (view.tokens, view.tokens));
    let log = operator.log(run, 0).await.unwrap();
    assert!(
        log.iter()
            .zip(1..)
            .all(|(entry, sequence)| entry.sequence == sequence)
    );
    let accepted: u64 = log
        .iter()
        .map(|entry| match entry.event.kind {
            EventKind::UpdateAccepted { tokens, .. } => tokens,
            _ => 0,
        })
        .sum();
    assert_eq!(accepted, view.tokens);

    let path = std::path::PathBuf::from(operator.export(run, false).await.unwrap().path);
    assert!(path.ends_with("exports/first-r3"), "{}", path.display());
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["digest"], view.digest.to_string());
    for file in manifest["files"].as_array().unwrap() {
        let bytes = std::fs::read(path.join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["blake3"], opengpu_rounds::Hash::of(&bytes).to_string());
    }
    let asked = SampleRequest {
        prompt: "a".into(),
        max_tokens: 8,
        temperature: 0.0,
        seed: 1,
    };
    let sampled = operator.sample(run, &asked).await.unwrap().text;
    assert_eq!(operator.sample(run, &asked).await.unwrap().text, sampled);
    assert!(path.join("config.json").exists() && path.join("model.safetensors").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_gives_the_same_state_and_the_run_goes_on() {
    let mut server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut spec = spec("first", "noise", 5, 2);
    // Merges since the checkpoint must be computed again from their payloads.
    spec.checkpoint_every = 1000;
    spec.sync.outer_momentum = 0.5;
    spec.sync.nesterov = true;
    let run = server.start_run(&spec).await;
    let mut workers = [
        Worker::join(&server, 1).await,
        Worker::join(&server, 2).await,
    ];
    train(&mut workers, run, |view| view.revision.number >= 2).await;

    server.stop().await;
    let before = server.coordinator.run_view(run).unwrap();
    let server = server.restart().await;
    let after = server.operator().run(run).await.unwrap();
    assert_eq!(
        (
            after.revision,
            after.digest,
            after.tokens,
            &after.phase,
            after.upload_bytes,
            after.download_bytes
        ),
        (
            before.revision,
            before.digest,
            before.tokens,
            &before.phase,
            before.upload_bytes,
            before.download_bytes
        )
    );
    assert_eq!(after.rounds.len(), before.rounds.len());
    assert_eq!(after.training_loss, before.training_loss);
    for worker in &mut workers {
        worker.at(&server);
    }
    train(&mut workers, run, |view| view.phase == "finished").await;
    let view = server.operator().run(run).await.unwrap();
    assert_eq!(view.revision.number, 5);
    for worker in &workers {
        assert!(worker.all_merged(run).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_so_many_tokens_goes_on_until_its_merges_counted_them() {
    let server = Server::start().await;
    server.dataset("noise", 512).await;
    let mut spec = spec("long", "noise", 2, 2);
    let first = server.start_run(&spec).await;
    let mut workers = [
        Worker::join(&server, 1).await,
        Worker::join(&server, 2).await,
    ];
    train(&mut workers, first, |view| view.phase == "finished").await;
    let of_two_rounds = server.operator().run(first).await.unwrap();
    assert_eq!(of_two_rounds.counted_tokens, 0);

    // A token more than twice as many as both rounds had.
    spec.name = "longer".into();
    spec.round.total_tokens = 2 * of_two_rounds.tokens + 1;
    let run = server.start_run(&spec).await;
    train(&mut workers, run, |view| view.phase == "finished").await;
    let view = server.operator().run(run).await.unwrap();
    assert!(view.counted_tokens >= spec.round.total_tokens, "{view:?}");
    assert_eq!(view.done(), (view.counted_tokens, spec.round.total_tokens));
    assert!(view.revision.number > 4, "{}", view.revision);
    let told = format!("tokens are merged, of {}", spec.round.total_tokens);
    assert!(view.explanation.contains(&told), "{}", view.explanation);
}
