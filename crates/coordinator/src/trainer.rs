//! The coordinator's own trainer: first weights, held-out losses, samples and exports. One
//! child for all runs, started when it is needed (at a low priority, which its command says),
//! ended when it was idle for long. It reads and writes files only; rounds never wait for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use opengpu_protocol::operator::SampleRequest;
use opengpu_protocol::wire::{DatasetManifest, Evaluation, TokenShards};
use opengpu_rounds::Revision;
use opengpu_trainer_protocol::{
    InnerSettings, ModelConfig, ReplyBody, RequestBody, TokenFiles, TrainRequest, TrainerCommand,
    TrainerProcess,
};
use tokio::sync::Mutex;

/// An idle trainer is ended after this long.
const IDLE: Duration = Duration::from_secs(60);
/// A trainer that says nothing for this long while it works is ended.
const SILENCE: Duration = Duration::from_secs(600);
/// Largest safetensors file of an export.
const MAX_FILE_BYTES: u64 = 5_000_000_000;

/// The coordinator's trainer.
pub struct Trainer {
    command: Option<TrainerCommand>,
    running: Mutex<Option<Running>>,
}

/// What training an assignment gave, beside the weights.
pub struct Trained {
    /// A prefix of the assignment.
    pub blocks_completed: u64,
    /// In which numerics class.
    pub numerics_class: String,
}

struct Running {
    process: TrainerProcess,
    used: Instant,
}

impl Trainer {
    /// A trainer that is started by this command; without one, whatever needs it fails with
    /// a sentence that says so.
    pub fn new(command: Option<TrainerCommand>) -> Self {
        Self {
            command,
            running: Mutex::new(None),
        }
    }

    /// Writes the first weights of a model.
    pub async fn initialise(
        &self,
        model: &ModelConfig,
        seed: u64,
        out: &Path,
    ) -> anyhow::Result<()> {
        let request = RequestBody::Initialise {
            model: model.clone(),
            seed,
            out: out.to_owned(),
        };
        match self.ask(vec![request]).await? {
            ReplyBody::Written { .. } => Ok(()),
            other => bail!("the trainer answered `initialise` with {other:?}"),
        }
    }

    /// Mean loss over held-out tokens.
    pub async fn evaluate(
        &self,
        revision: Revision,
        model: &ModelConfig,
        weights: &Path,
        tokens: TokenFiles,
        max_windows: Option<usize>,
    ) -> anyhow::Result<Evaluation> {
        let requests = vec![
            load(model, weights),
            RequestBody::Evaluate {
                tokens,
                max_windows,
            },
        ];
        match self.ask(requests).await? {
            ReplyBody::Evaluated {
                nats_per_token,
                bits_per_byte,
                ..
            } => Ok(Evaluation {
                revision,
                nats_per_token,
                bits_per_byte,
            }),
            other => bail!("the trainer answered `evaluate` with {other:?}"),
        }
    }

    /// Trains an assignment from these weights, as a node does.
    pub async fn train(
        &self,
        model: &ModelConfig,
        weights: &Path,
        tokens: TokenFiles,
        inner: InnerSettings,
        request: TrainRequest,
    ) -> anyhow::Result<Trained> {
        let load = RequestBody::Load {
            model: model.clone(),
            weights: weights.to_owned(),
            tokens: Some(tokens),
            inner,
        };
        match self.ask(vec![load, RequestBody::Train(request)]).await? {
            ReplyBody::Trained {
                blocks_completed,
                numerics_class,
                ..
            } => Ok(Trained {
                blocks_completed,
                numerics_class,
            }),
            other => bail!("the trainer answered `train` with {other:?}"),
        }
    }

    /// Continues a text.
    pub async fn sample(
        &self,
        model: &ModelConfig,
        weights: &Path,
        tokenizer: &Path,
        asked: &SampleRequest,
    ) -> anyhow::Result<String> {
        let sample = RequestBody::Sample {
            tokenizer: tokenizer.to_owned(),
            prompt: asked.prompt.clone(),
            max_tokens: asked.max_tokens,
            temperature: asked.temperature,
            seed: asked.seed,
        };
        match self.ask(vec![load(model, weights), sample]).await? {
            ReplyBody::Sampled { text } => Ok(text),
            other => bail!("the trainer answered `sample` with {other:?}"),
        }
    }

    /// Writes a Hugging Face folder.
    pub async fn export(
        &self,
        model: &ModelConfig,
        weights: &Path,
        tokenizer: &Path,
        out: &Path,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let request = RequestBody::Export {
            model: model.clone(),
            weights: weights.to_owned(),
            tokenizer: Some(tokenizer.to_owned()),
            out: out.to_owned(),
            max_file_bytes: MAX_FILE_BYTES,
        };
        match self.ask(vec![request]).await? {
            ReplyBody::Written { files, .. } => Ok(files),
            other => bail!("the trainer answered `export` with {other:?}"),
        }
    }

    /// Ends a trainer that was idle for long; called from time to time.
    pub async fn rest(&self) {
        let Ok(mut running) = self.running.try_lock() else {
            return;
        };
        if running
            .as_ref()
            .is_some_and(|running| running.used.elapsed() > IDLE)
            && let Some(idle) = running.take()
        {
            idle.process.stop(Duration::from_secs(5)).await;
        }
    }

    /// Ends the trainer, whatever it does.
    pub async fn end(&self) {
        // What holds the lock is waiting for the trainer, and is dropped with the server.
        if let Ok(mut running) =
            tokio::time::timeout(Duration::from_millis(200), self.running.lock()).await
            && let Some(running) = running.take()
        {
            running.process.kill().await;
        }
    }

    /// Asks one after the other and gives the last answer. A trainer that died is started
    /// again, once.
    async fn ask(&self, requests: Vec<RequestBody>) -> anyhow::Result<ReplyBody> {
        let Some(command) = &self.command else {
            bail!("this coordinator was started without a trainer, which this needs");
        };
        let mut running = self.running.lock().await;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let alive = match running.take() {
                Some(alive) if alive.process.ended().is_none() => alive,
                _ => {
                    let process = TrainerProcess::spawn(command)
                        .await
                        .context("the coordinator's trainer")?;
                    Running {
                        process,
                        used: Instant::now(),
                    }
                }
            };
            let result = ask_all(&alive.process, &requests).await;
            match result {
                Ok(reply) => {
                    *running = Some(Running {
                        used: Instant::now(),
                        ..alive
                    });
                    return Ok(reply);
                }
                Err(error) if error.is_fatal() && attempt < 2 => {
                    tracing::warn!(%error, "the coordinator's trainer is started again");
                }
                Err(error) => {
                    if !error.is_fatal() {
                        *running = Some(Running {
                            used: Instant::now(),
                            ..alive
                        });
                    }
                    return Err(error.into());
                }
            }
        }
    }
}

async fn ask_all(
    process: &TrainerProcess,
    requests: &[RequestBody],
) -> Result<ReplyBody, opengpu_trainer_protocol::TrainerError> {
    let mut last = ReplyBody::Sampled {
        text: String::new(),
    };
    for request in requests {
        last = process.ask(request.clone(), SILENCE, |_| ()).await?;
    }
    Ok(last)
}

fn load(model: &ModelConfig, weights: &Path) -> RequestBody {
    RequestBody::Load {
        model: model.clone(),
        weights: weights.to_owned(),
        tokens: None,
        inner: InnerSettings::default(),
    }
}

/// Where the trainer finds a part of a dataset, given where each shard's blob lies.
pub fn token_files(
    dataset: &DatasetManifest,
    part: &TokenShards,
    files: Vec<PathBuf>,
) -> TokenFiles {
    TokenFiles {
        files,
        token_bytes: dataset.token_bytes,
        tokens: part.tokens,
        text_bytes: part.text_bytes,
    }
}
