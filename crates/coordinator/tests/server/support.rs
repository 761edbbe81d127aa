//! A coordinator of one's own for each test.

use std::path::PathBuf;
use std::time::Duration;

use opengpu_coordinator::{
    Bound, Coordinator, EnrolmentPolicy, JOIN_TOKEN, LimitSettings, OPERATOR_TOKEN, ServeSettings,
    serve,
};
use opengpu_protocol::operator::RunAction;
use opengpu_protocol::wire::{
    DatasetManifest, Enrol, Machine, Offer, RunView, ShardRef, TokenShards,
};
use opengpu_protocol::{Client, RunSpec, SigningKey, SyncSettings, TrustSettings};
use opengpu_rounds::{Hash, NodeId, RoundSettings, RunId};
use opengpu_trainer_protocol::{InnerSettings, SharedFolder, TrainerCommand};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// As long as the stream of whoever may not have one any more may stay open.
pub const CUT_OFF: Duration = Duration::from_secs(1);

pub struct Server {
    pub home: TempDir,
    pub coordinator: Coordinator,
    pub url: String,
    bound: Option<Bound>,
    shutdown: CancellationToken,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_on(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_on(home: TempDir) -> Self {
        Self::start_with(home, |_| {}).await
    }

    /// With other settings than the usual ones.
    pub async fn start_with(home: TempDir, change: impl FnOnce(&mut ServeSettings)) -> Self {
        let shutdown = CancellationToken::new();
        let mut settings = ServeSettings {
            home: home.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            database_url: None,
            enrolment: EnrolmentPolicy::Invite,
            limits: LimitSettings::default(),
            trainer: Some(trainer(&home)),
            extra_routes: None,
            shutdown: shutdown.clone(),
        };
        change(&mut settings);
        let bound = serve(settings).await.unwrap();
        let coordinator = bound.coordinator.clone();
        let url = format!("http://{}", bound.addr);
        Self {
            home,
            coordinator,
            url,
            bound: Some(bound),
            shutdown,
        }
    }

    /// Stops the server and starts it again on the same home, at another port.
    pub async fn restart(mut self) -> Self {
        self.stop().await;
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().unwrap());
        drop(self);
        Self::start_on(home).await
    }

    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(bound) = self.bound.take() {
            bound.stopped().await.unwrap();
        }
    }

    fn secret(&self, file: &str) -> String {
        std::fs::read_to_string(self.home.path().join(file))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// The text of its metrics.
    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(format!("{}/metrics", self.url)).await;
        answer.unwrap().text().await.unwrap()
    }

    /// What machines enrol with.
    pub fn join_token(&self) -> String {
        self.secret(JOIN_TOKEN)
    }

    /// What the operator proves who he is with.
    pub fn operator_token(&self) -> String {
        self.secret(OPERATOR_TOKEN)
    }

    pub fn operator(&self) -> Client {
        Client::operator(&self.url, &self.operator_token()).unwrap()
    }

    pub async fn enrol(&self, key: &SigningKey, name: &str) -> (NodeId, Client) {
        let enrol = Enrol {
            token: Some(self.secret(JOIN_TOKEN)),
            public_key: opengpu_protocol::signing::public_key(key),
            name: name.to_owned(),
            machine: Machine::default(),
        };
        let node = Client::anonymous(&self.url)
            .unwrap()
            .enrol(&enrol)
            .await
            .unwrap()
            .node;
        (node, Client::node(&self.url, key.clone(), node).unwrap())
    }

    /// A dataset of pseudo-random tokens.
    pub async fn dataset(&self, name: &str, vocab_size: usize) -> DatasetManifest {
        let operator = self.operator();
        let tokenizer = operator
            .upload_blob(tokenizer(vocab_size).into())
            .await
            .unwrap();
        let mut state = 1u64;
        let mut part = async |tokens: usize| {
            let bytes: Vec<u8> = (0..tokens)
                .flat_map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    ((state >> 33) as usize % vocab_size).to_le_bytes()[..2].to_vec()
                })
                .collect();
            let bytes_len = bytes.len() as u64;
            let hash = operator.upload_blob(bytes.into()).await.unwrap();
            TokenShards {
                shards: vec![ShardRef {
                    hash,
                    bytes: bytes_len,
                }],
                tokens: tokens as u64,
                text_bytes: 3 * tokens as u64,
            }
        };
        let training = part(60_000).await;
        let held_out = part(1_000).await;
        let manifest = DatasetManifest {
            name: name.to_owned(),
            tokenizer,
            vocab_size,
            token_bytes: 2,
            training,
            held_out,
        };
        operator.add_dataset(&manifest).await.unwrap();
        manifest
    }

    /// Creates a run and starts it.
    pub async fn start_run(&self, spec: &RunSpec) -> RunId {
        let operator = self.operator();
        let run = operator.create_run(spec).await.unwrap().run;
        operator.act_on_run(run, RunAction::Start).await.unwrap();
        run
    }

    /// Waits until a run looks as asked for.
    pub async fn wait_for(
        &self,
        run: RunId,
        what: &str,
        looks: impl Fn(&RunView) -> bool,
    ) -> RunView {
        let operator = self.operator();
        let started = std::time::Instant::now();
        loop {
            let view = operator.run(run).await.unwrap();
            if looks(&view) {
                return view;
            }
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "waited 120 s for {what}; the run is {} ({}), revision {}, evaluations {:?}",
                view.phase,
                view.explanation,
                view.revision,
                view.evaluations
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    /// Gives back the folder in shared memory, which lies outside the temporary home.
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Ok(shared) = SharedFolder::of(self.home.path()) {
            // Whatever still writes there belongs to a test that is over.
            let _ = shared.remove_all();
        }
    }
}

/// The product's own trainer.
fn trainer(home: &TempDir) -> TrainerCommand {
    TrainerCommand::new(program(), home.path().join("trainer.log"))
        .arg("trainer")
        .env("OPENGPU_THREADS", "1")
}

/// The program that the workspace's tests build beside this one, or the one that
/// `OPENGPU_TEST_BINARY` names.
pub fn program() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().unwrap();
        test.parent().unwrap().parent().unwrap().join("opengpu")
    };
    let program = std::env::var_os("OPENGPU_TEST_BINARY").map_or_else(beside, PathBuf::from);
    assert!(
        program.exists(),
        "{} is not there; build it with `cargo build --release -p opengpu`",
        program.display()
    );
    program
}

/// A tokenizer that knows the letter `a` and numbered tokens.
fn tokenizer(vocab_size: usize) -> String {
    let vocabulary: serde_json::Map<String, serde_json::Value> = (0..vocab_size)
        .map(|id| {
            (
                if id == 0 {
                    "a".to_owned()
                } else {
                    format!("[{id}]")
                },
                id.into(),
            )
        })
        .collect();
    let model = serde_json::json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": false, "vocab": vocabulary, "merges": [],
    });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": model,
    })
    .to_string()
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn offer() -> Offer {
    Offer {
        trainer: "test".into(),
        device: "CPU".into(),
        numerics_class: "test".into(),
    }
}

/// A small run of short rounds.
pub fn spec(name: &str, dataset: &str, rounds: u64, workers: u32) -> RunSpec {
    RunSpec {
        name: name.to_owned(),
        dataset: dataset.to_owned(),
        seed: 7,
        preset: Some("pico".to_owned()),
        model: None,
        block_sequences: 8,
        round: RoundSettings {
            rounds,
            min_workers: workers,
            max_workers: 8,
            quorum: workers,
            duration_ms: 20_000,
            grace_ms: 20_000,
            forming_ms: 200,
            max_blocks: 4,
            silence_ms: 30_000,
            ..RoundSettings::default()
        },
        inner: InnerSettings::default(),
        sync: SyncSettings::default(),
        trust: TrustSettings::default(),
        evaluate_every: 2,
        checkpoint_every: 2,
    }
}

/// The code of a refusal.
pub fn code<T: std::fmt::Debug>(result: Result<T, opengpu_protocol::ClientError>) -> String {
    match result.unwrap_err() {
        opengpu_protocol::ClientError::Refused { code, .. } => code,
        other => panic!("not refused but: {other}"),
    }
}

pub fn hash_of_bytes(weights: &[f32]) -> Hash {
    Hash(opengpu_merge::digest(weights))
}
