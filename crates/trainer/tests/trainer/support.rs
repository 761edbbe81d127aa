//! A trainer in this process with pipes for streams, and small data.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use opengpu_trainer_protocol::{
    InnerSettings, ModelConfig, Reply, ReplyBody, Request, RequestBody, TokenFiles, TrainRequest,
};
use tempfile::TempDir;

/// A running trainer.
pub struct Trainer {
    requests: Option<PipeWriter>,
    replies: BufReader<PipeReader>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    next: u64,
}

impl Trainer {
    pub fn start(threads: usize) -> Self {
        let (request_reader, request_writer) = std::io::pipe().unwrap();
        let (reply_reader, reply_writer) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            opengpu_trainer::serve(request_reader, reply_writer, threads)
        });
        Self {
            requests: Some(request_writer),
            replies: BufReader::new(reply_reader),
            thread: Some(thread),
            next: 1,
        }
    }

    pub fn send(&mut self, body: RequestBody) -> u64 {
        let id = self.next;
        self.next += 1;
        let mut line = serde_json::to_vec(&Request { id, body }).unwrap();
        line.push(b'\n');
        self.send_line(&line);
        id
    }

    pub fn send_line(&mut self, line: &[u8]) {
        self.requests.as_mut().unwrap().write_all(line).unwrap();
    }

    pub fn receive(&mut self) -> Reply {
        let mut line = String::new();
        assert!(
            self.replies.read_line(&mut line).unwrap() > 0,
            "the trainer has ended"
        );
        serde_json::from_str(&line).unwrap()
    }

    /// The answer to a request; progress is skipped.
    pub fn ask(&mut self, body: RequestBody) -> ReplyBody {
        let id = self.send(body);
        self.answer(id)
    }

    pub fn answer(&mut self, id: u64) -> ReplyBody {
        loop {
            let reply = self.receive();
            assert_eq!(reply.id, id);
            if !matches!(reply.body, ReplyBody::Progress { .. }) {
                return reply.body;
            }
        }
    }

    /// Closes the input and waits for the end.
    pub fn close(mut self) -> anyhow::Result<()> {
        drop(self.requests.take());
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A folder with a token stream, held-out tokens and fresh weights of a small model.
pub struct Bench {
    pub folder: TempDir,
    pub model: ModelConfig,
    pub tokens: TokenFiles,
    pub held_out: TokenFiles,
    pub inner: InnerSettings,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = ModelConfig {
            vocab_size: 96,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 16,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
        };
        // Two shards, so that sequences cross the border between them.
        let text: Vec<u16> = (0..6000u32)
            .map(|i| ((i * 7 + i / 500) % 96) as u16)
            .collect();
        let tokens = write_tokens(folder.path(), "train", &[&text[..2501], &text[2501..]]);
        let held_out = write_tokens(folder.path(), "held", &[&text[100..700]]);
        let inner = InnerSettings {
            batch_sequences: 4,
            ..Default::default()
        };
        Self {
            folder,
            model,
            tokens,
            held_out,
            inner,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn load(&self, weights: &str) -> RequestBody {
        RequestBody::Load {
            model: self.model.clone(),
            weights: self.path(weights),
            tokens: Some(self.tokens.clone()),
            inner: self.inner.clone(),
        }
    }

    pub fn initialise(&self, seed: u64, out: &str) -> RequestBody {
        RequestBody::Initialise {
            model: self.model.clone(),
            seed,
            out: self.path(out),
        }
    }

    /// Blocks of two steps.
    pub fn assignment(&self, blocks: &[(u64, u64)], out: &str) -> TrainRequest {
        TrainRequest {
            blocks: blocks.to_vec(),
            blocks_per_epoch: 46,
            block_sequences: 8,
            seed: 3,
            progress_from: 0.1,
            progress_to: 0.5,
            at_most_blocks: None,
            out: self.path(out),
            slowdown: 1.0,
        }
    }

    pub fn evaluate(&self) -> RequestBody {
        RequestBody::Evaluate {
            tokens: self.held_out.clone(),
            max_windows: None,
        }
    }
}

pub fn write_tokens(folder: &Path, name: &str, shards: &[&[u16]]) -> TokenFiles {
    let mut files = Vec::new();
    for (index, shard) in shards.iter().enumerate() {
        let path = folder.join(format!("{name}-{index}.tokens"));
        let bytes: Vec<u8> = shard.iter().flat_map(|token| token.to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        files.push(path);
    }
    let tokens = shards.iter().map(|shard| shard.len() as u64).sum();
    TokenFiles {
        files,
        token_bytes: 2,
        tokens,
        text_bytes: tokens * 2,
    }
}

/// The mean loss of an `Evaluated` reply.
pub fn loss(reply: &ReplyBody) -> f64 {
    match reply {
        ReplyBody::Evaluated { nats_per_token, .. } => *nats_per_token,
        other => panic!("expected a loss, got {other:?}"),
    }
}
