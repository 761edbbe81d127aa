//! The messages, one JSON object a line: requests on the trainer's standard input, replies
//! on its standard output. Its standard error is its log. Weights, updates and tokens pass
//! through files named in the messages, in the platform's shared memory where there is one.
//!
//! Every reply carries the `id` of the request it belongs to. A request gets any number of
//! `Progress` replies and then exactly one other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{InnerSettings, ModelConfig};

/// Version of these messages; `Hello` must agree on it.
pub const VERSION: u32 = 2;

/// A numbered request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller, rising.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub body: RequestBody,
}

/// What is asked of a trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RequestBody {
    /// First message; a trainer of another version answers with an error.
    Hello {
        /// The caller's [`VERSION`].
        version: u32,
    },
    /// Which model and data the following requests are about. Drops any optimiser state.
    Load {
        /// The model.
        model: ModelConfig,
        /// Flat little-endian float32 weights in canonical order; read at each `Train`
        /// and `Evaluate`, never written.
        weights: PathBuf,
        /// The training tokens, if the caller will train.
        #[serde(default)]
        tokens: Option<TokenFiles>,
        /// Inner optimiser.
        inner: InnerSettings,
    },
    /// Measure speed with a few real steps on the loaded data; weights and optimiser state
    /// stay as they were.
    Calibrate {
        /// Sequences in a block.
        block_sequences: usize,
    },
    /// Train an assignment from the loaded weights.
    Train(TrainRequest),
    /// Finish the `Train` in progress after the current block. Answered by that request's
    /// own `Trained`; ignored when nothing is being trained.
    Finish,
    /// Mean loss over held-out tokens.
    Evaluate {
        /// The held-out tokens.
        tokens: TokenFiles,
        /// Use only the first so many windows (None: all).
        #[serde(default)]
        max_windows: Option<usize>,
    },
    /// Continue a text.
    Sample {
        /// `tokenizer.json`.
        tokenizer: PathBuf,
        /// What comes before.
        prompt: String,
        /// How many tokens to add.
        max_tokens: usize,
        /// 0: always the most likely token.
        temperature: f64,
        /// Decides every draw.
        seed: u64,
    },
    /// Write fresh weights for a model (no `Load` needed).
    Initialise {
        /// The model.
        model: ModelConfig,
        /// Decides every weight.
        seed: u64,
        /// Where to write flat weights.
        out: PathBuf,
    },
    /// Write a Hugging Face folder (config.json, safetensors, tokenizer.json).
    Export {
        /// The model.
        model: ModelConfig,
        /// Flat weights.
        weights: PathBuf,
        /// `tokenizer.json` to copy in.
        #[serde(default)]
        tokenizer: Option<PathBuf>,
        /// The folder, made if missing.
        out: PathBuf,
        /// Largest safetensors file; larger models are cut in several with an index.
        max_file_bytes: u64,
    },
    /// Read a Hugging Face folder into flat weights.
    Import {
        /// The folder.
        folder: PathBuf,
        /// Where to write flat weights.
        out: PathBuf,
    },
    /// Exit with status 0.
    Stop,
}

impl RequestBody {
    /// Its word on the wire, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Load { .. } => "load",
            Self::Calibrate { .. } => "calibrate",
            Self::Train(_) => "train",
            Self::Finish => "finish",
            Self::Evaluate { .. } => "evaluate",
            Self::Sample { .. } => "sample",
            Self::Initialise { .. } => "initialise",
            Self::Export { .. } => "export",
            Self::Import { .. } => "import",
            Self::Stop => "stop",
        }
    }
}

/// A token stream on disk, in order: little-endian, `token_bytes` each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenFiles {
    /// Shards, in order.
    pub files: Vec<PathBuf>,
    /// 2 or 4.
    pub token_bytes: u8,
    /// Tokens in all files together.
    pub tokens: u64,
    /// Bytes of the text that these tokens are (for bits per byte); 0 if unknown.
    #[serde(default)]
    pub text_bytes: u64,
}

/// One assignment, as a pure function of its fields and the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRequest {
    /// Half-open ranges of global block numbers, in training order. Block `b` is position
    /// `b % blocks_per_epoch` of epoch `b / blocks_per_epoch` (`docs/datasets.md`).
    pub blocks: Vec<(u64, u64)>,
    /// Blocks in an epoch.
    pub blocks_per_epoch: u64,
    /// Sequences in a block; a multiple of `inner.batch_sequences`.
    pub block_sequences: usize,
    /// Seed of the run: decides the permutation.
    pub seed: u64,
    /// Progress of the run (0 to 1) at the first step.
    pub progress_from: f64,
    /// Progress of the run when all blocks are done.
    pub progress_to: f64,
    /// Stop after so many blocks, with the rates of the whole assignment: what training again
    /// does that ended early the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_blocks: Option<u64>,
    /// Where to write the local weights that result (flat, canonical order).
    pub out: PathBuf,
    /// Slows training down by this factor by sleeping (1.0: not). For experiments with
    /// uneven machines and for owners who want a cooler one.
    pub slowdown: f64,
}

/// A reply and the request it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// The answer.
    #[serde(flatten)]
    pub body: ReplyBody,
}

/// What a trainer answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReplyBody {
    /// To `Hello`.
    Hello {
        /// The trainer's [`VERSION`].
        version: u32,
        /// For example `burn-flex 0.1.0`.
        trainer: String,
        /// For example `CPU (2 threads)`.
        device: String,
        /// Build, device, threads and default precision; that of an assignment comes with
        /// its `Trained`.
        numerics_class: String,
    },
    /// To `Load`.
    Loaded {
        /// Weights in the model.
        parameters: u64,
    },
    /// To `Calibrate`.
    Calibrated {
        /// Speed.
        blocks_per_second: f64,
        /// Speed.
        tokens_per_second: f64,
        /// Sequences worked on at a time, so that a step fits into memory; gradients of
        /// several are added up.
        #[serde(default)]
        micro_batch: usize,
        /// Of the steps that were measured.
        #[serde(default)]
        numerics_class: String,
    },
    /// Work has not begun yet, but will: a device is being tried, or its kernels compiled.
    Preparing {
        /// What is done meanwhile, for people.
        what: String,
        /// For how long already.
        seconds: u64,
    },
    /// Work goes on.
    Progress {
        /// Blocks (or windows, or tokens) done.
        done: u64,
        /// Of so many.
        of: u64,
        /// Mean training loss since the last progress, in nats per token.
        loss: f64,
        /// Speed since the last progress.
        tokens_per_second: f64,
    },
    /// To `Train`: the local weights are in `out`.
    Trained {
        /// Completed blocks: a prefix of the assignment.
        blocks_completed: u64,
        /// Optimiser steps made.
        steps: u64,
        /// Tokens trained on.
        tokens: u64,
        /// Mean training loss, in nats per token.
        loss: f64,
        /// How long it took.
        seconds: f64,
        /// Inside one class the same assignment gives the same bytes.
        #[serde(default)]
        numerics_class: String,
    },
    /// To `Evaluate`.
    Evaluated {
        /// Mean loss, in nats per token.
        nats_per_token: f64,
        /// The same per byte of text, if `text_bytes` was known and all windows were used.
        #[serde(default)]
        bits_per_byte: Option<f64>,
        /// Tokens predicted.
        tokens: u64,
    },
    /// To `Sample`: the continuation only.
    Sampled {
        /// Text.
        text: String,
    },
    /// To `Initialise`, `Export`, `Import`.
    Written {
        /// The model that was written.
        model: ModelConfig,
        /// Files, each complete.
        files: Vec<PathBuf>,
    },
    /// The request failed; the trainer goes on.
    Error {
        /// For a program.
        code: ErrorCode,
        /// For a person: what is wrong and what mends it.
        message: String,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is no request, or of another version.
    BadRequest,
    /// A file is missing, too short or not what it should be.
    BadFile,
    /// The loss or a weight is no longer finite.
    NotFinite,
    /// The device has too little memory.
    OutOfMemory,
    /// Anything else.
    Failed,
}
